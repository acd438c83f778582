"""Servers that speak like TGI, vLLM, SGLang, llama.cpp and `transformers serve`, on real loopback sockets.

They write the text of a toy model, whose next token is a hash of the text so far and the seed, and they are as picky as
the real ones were measured to be: a field, path or value that they do not expect is kept in `unexpected`, which
`serve` turns into a failure of the test. `faults` are answered first, one per POST. They know nothing of the package.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

END = b""  # the end token: id 0, no text
TOKENS = (
    [END, b"\n", b"\n\n", b" plus", b" 7", b"1", b"2", b" is", b".", b" so", b"\xc3", b"\xa9", b"\xf0\x9f", b"\x98\x80"]
    + [b" w%d" % i for i in range(18)]
)  # fmt: skip
BOS = "<s>"
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %} so{% endif %}"


def tokenizer():
    """The toy model's: a byte-level BPE that knows every token under its id, and all bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    spelt = {b: c for c in letters for b in [decoders.ByteLevel().decode([c]).encode()] if len(b) == 1 and b[0] < 128}
    # The other half of the alphabet in the order of GPT-2's table: what is no printable Latin-1 comes after 255.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    table = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}
    assert all(table[b[0]] == c for b, c in spelt.items())
    words = ["".join(table[b] for b in token) for token in TOKENS]
    vocabulary = {word or "<|end|>": i for i, word in enumerate(words)}
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            merges.append((word[: end - 1], word[end - 1]))
    for word in [*letters, *("".join(pair) for pair in merges)]:
        vocabulary.setdefault(word, len(vocabulary))
    core = Tokenizer(models.BPE(vocabulary, list(dict.fromkeys(merges))))
    core.pre_tokenizer, core.decoder = level, decoders.ByteLevel()
    core.add_special_tokens([AddedToken("<|end|>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", chat_template=TEMPLATE)


def next_id(text: str, written: bytes, seed: int | None) -> int:
    """The toy model: a token for a text and what was written after it. Characters are begun and ended properly."""
    if written.endswith(b"\xc3"):
        return TOKENS.index(b"\xa9")
    if written.endswith(b"\xf0\x9f"):
        return TOKENS.index(b"\x98\x80")
    digest = hashlib.sha256(f"{seed}|{text}|".encode() + written).digest()
    chosen = digest[0] % len(TOKENS)
    return chosen if TOKENS[chosen] not in (b"\xa9", b"\x98\x80") else 3


def write(prompt: str, most: int, stops: list[str], seed: int | None, *, ends_with: bool) -> tuple[list[int], str, str]:
    """Token ids, why it ended (eos, length, stop) and the stop. `ends_with`: only stops that end a token are seen."""
    ids: list[int] = []
    written = b""
    while len(ids) < most:
        ids.append(next_id(prompt, written, seed))
        if TOKENS[ids[-1]] == END:
            return ids, "eos", ""
        written += TOKENS[ids[-1]]
        text = written.decode(errors="ignore")
        for stop in stops:
            if text.endswith(stop) if ends_with else stop in text:
                return ids, "stop", stop
    return ids, "length", ""


def text_of(ids: list[int]) -> str:
    return b"".join(TOKENS[i] for i in ids).decode(errors="replace")


@dataclass
class Fault:
    """An answer that is no good. `cut`: send only so many bytes, then close. `hang_s`: wait before answering.
    `drip_s`: so long between two bytes. `spoil`: makes a bad answer of the right one, which was worked for."""

    status: int = 200
    body: str | bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    cut: int | None = None
    hang_s: float = 0.0
    drip_s: float = 0.0
    spoil: Callable[[Any], Any] | None = None


@dataclass
class Server:
    """What a test sees of a running server, and sets while it runs."""

    answer: Callable[[Server, str, str, Any], tuple[int, Any]]
    model: str = "org/teacher"
    sha: str | None = "c0ffee"
    slots: int = 4
    context: int = 4096
    url: str = ""
    faults: list[Fault | None] = field(default_factory=list)
    every: Fault | None = None
    requests: list[tuple[str, str, Any, dict[str, str]]] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    busy: int = 0
    most_busy: int = 0
    slow_s: float = 0.0
    given: list[Any] = field(default_factory=list)  # the good answers, each with what was asked
    lock: threading.Lock = field(default_factory=threading.Lock)

    def posts(self) -> list[Any]:
        return [body for method, _, body, _ in self.requests if method == "POST"]

    def refuse(self, what: str) -> tuple[int, Any]:
        self.unexpected.append(what)
        return 422, {"error": f"unexpected {what}", "error_type": "validation"}


def _fields(server: Server, body: Any, allowed: dict[str, Callable[[Any], bool]]) -> str | None:
    for key, value in body.items():
        if key not in allowed or not allowed[key](value):
            return f"{key}: {value!r}"
    return None


def _whole(low: int) -> Callable[[Any], bool]:
    return lambda v: type(v) is int and v >= low


def _stops(value: Any) -> bool:
    return isinstance(value, list) and 1 <= len(value) <= 4 and all(isinstance(s, str) and s for s in value)


def tgi(server: Server, method: str, path: str, body: Any) -> tuple[int, Any]:
    """text-generation-inference 3.3: GET /info, POST /generate."""
    if (method, path) == ("GET", "/info"):
        return 200, {
            "model_id": server.model,
            "model_sha": server.sha,
            "max_total_tokens": server.context,
            "version": "3.3.7",
        }
    if (method, path) != ("POST", "/generate") or set(body) != {"inputs", "parameters"}:
        return server.refuse(f"{method} {path} {body}")
    wishes = body["parameters"]
    wrong = _fields(
        server,
        wishes,
        {
            "details": lambda v: v is True,
            "do_sample": lambda v: type(v) is bool,
            "max_new_tokens": lambda v: type(v) is int and 1 <= v <= 1024,
            "seed": _whole(0),
            "stop": _stops,
            "temperature": lambda v: v > 0,
            "top_p": lambda v: 0 < v < 1,
            "top_k": _whole(1),
            "return_full_text": lambda v: v is False,
        },
    )
    if wrong or body["inputs"].startswith(BOS) or "details" not in wishes:
        return server.refuse(wrong or "inputs")
    seed = wishes.get("seed") if wishes.get("do_sample") else None
    most = wishes["max_new_tokens"]
    ids, why, _ = write(body["inputs"], most, wishes.get("stop", []), seed, ends_with=True)
    reason = {"eos": "eos_token", "stop": "stop_sequence", "length": "length"}[why]
    if len(ids) == most:
        reason = "length"  # tested before the end token and the stops
    tokens, seen = [], ""
    for place, token in enumerate(ids):
        now = text_of(ids[: place + 1])
        new = "" if now.endswith("\ufffd") else now[len(seen) :]
        seen = seen if now.endswith("\ufffd") else now
        tokens.append({"id": token, "text": new, "logprob": -1.0, "special": token == 0})
    details = {"finish_reason": reason, "generated_tokens": len(ids), "seed": seed, "prefill": [], "tokens": tokens}
    return 200, {"generated_text": text_of(ids), "details": details}


COMPLETIONS: dict[str, Callable[[Any], bool]] = {
    "model": lambda v: isinstance(v, str),
    "prompt": lambda v: isinstance(v, str) and not v.startswith(BOS),
    "max_tokens": _whole(1),
    "n": _whole(2),
    "seed": _whole(0),
    "stop": _stops,
    "stream": lambda v: v is False,
    "temperature": lambda v: type(v) in (int, float) and v >= 0,
    "top_p": lambda v: 0 < v <= 1,
    "top_k": lambda v: v == -1 or v >= 1,
    "min_p": lambda v: v == 0,
    "repetition_penalty": lambda v: v == 1,
    "include_stop_str_in_output": lambda v: v is True,
    "no_stop_trim": lambda v: v is True,
    "return_token_ids": lambda v: v is True,
}
LLAMA = {
    key: COMPLETIONS[key] for key in ("prompt", "seed", "stop", "stream", "temperature", "top_p", "top_k", "min_p")
}
LLAMA |= {
    "n_predict": _whole(1),
    "n_cmpl": _whole(1),
    "repeat_penalty": lambda v: v == 1,
    "return_tokens": lambda v: v is True,
    "response_fields": lambda v: isinstance(v, list),
}
MUST = {"temperature", "top_p", "top_k", "seed", "prompt"}  # else the server's or the model's own defaults hold


def _models(server: Server, owner: str, **more: Any) -> tuple[int, Any]:
    return 200, {"object": "list", "data": [{"id": server.model, "object": "model", "owned_by": owner, **more}]}


def _completions(server: Server, body: Any, choice: Callable, *, same_seed: bool = False) -> tuple[int, Any]:
    wrong = _fields(server, body, COMPLETIONS)
    if wrong or not MUST | {"max_tokens"} <= set(body):
        return server.refuse(wrong or f"body {body}")
    if len(body["prompt"]) // 2 + body["max_tokens"] > server.context:
        message = f"max_tokens cannot be greater than max_model_len={server.context}"
        return 400, {"error": {"message": message, "type": "BadRequestError", "param": "max_tokens", "code": 400}}
    choices, used = [], 0
    for i in range(body.get("n", 1)):
        seed = body["seed"] + (0 if same_seed else i) if body["temperature"] else None
        written = write(body["prompt"], body["max_tokens"], body.get("stop", []), seed, ends_with=False)
        choices.append({"index": i, "logprobs": None, **choice(*written)})
        used += len(written[0])
    usage = {"prompt_tokens": 5, "completion_tokens": used, "total_tokens": 5 + used}
    return 200, {"object": "text_completion", "model": body["model"], "choices": choices[::-1], "usage": usage}


def _upto(ids: list[int], stop: str, keep: bool) -> str:
    text = text_of(ids)
    at = text.find(stop) if stop else -1
    return text if at < 0 else text[: at + len(stop)] if keep else text[:at]


def _finish(why: str) -> str:
    return "length" if why == "length" else "stop"


def vllm(server: Server, method: str, path: str, body: Any) -> tuple[int, Any]:
    """vLLM 0.33: token ids of every branch, `stop_reason`, the stop kept in the text; branch i draws with seed + i."""

    def choice(ids: list[int], why: str, stop: str) -> dict[str, Any]:
        text = _upto(ids, stop, keep=True)
        return {"text": text, "finish_reason": _finish(why), "stop_reason": stop or None, "token_ids": ids}

    if (method, path) == ("GET", "/v1/models"):
        return _models(server, "vllm", max_model_len=server.context)
    if (method, path) != ("POST", "/v1/completions"):
        return server.refuse(f"{method} {path} {body}")
    return _completions(server, body, choice)


def sglang(server: Server, method: str, path: str, body: Any) -> tuple[int, Any]:
    """SGLang 0.5.23: `matched_stop`: a text, the id of the end token, or null; all of `n` have the same seed."""

    def choice(ids: list[int], why: str, stop: str) -> dict[str, Any]:
        matched = {"eos": 0, "stop": stop, "length": None}[why]
        text = _upto(ids, stop, keep=True)
        return {"text": text, "finish_reason": _finish(why), "matched_stop": matched, "token_ids": ids}

    if (method, path) == ("GET", "/v1/models"):
        return _models(server, "sglang", max_model_len=server.context)
    if (method, path) != ("POST", "/v1/completions"):
        return server.refuse(f"{method} {path} {body}")
    return _completions(server, body, choice, same_seed=True)


def llamacpp(server: Server, method: str, path: str, body: Any) -> tuple[int, Any]:
    """llama.cpp, as it speaks itself: an object, or a list for several branches, at most as many as it has slots; the
    stop cut off, but its token among the tokens."""
    if (method, path) == ("GET", "/v1/models"):
        return _models(server, "llamacpp", meta={"n_ctx": server.context})
    if (method, path) == ("GET", "/props"):
        return 200, {"total_slots": server.slots, "model_alias": server.model}
    if (method, path) != ("POST", "/completion"):
        return server.refuse(f"{method} {path} {body}")
    wrong = _fields(server, body, LLAMA)
    if wrong or not MUST | {"n_predict", "repeat_penalty"} <= set(body):
        return server.refuse(wrong or f"body {body}")
    if body["n_cmpl"] > server.slots:
        message = f"Field 'n_cmpl': Value must be between 1 <= value <= {server.slots}, but got {body['n_cmpl']}"
        return 400, {"error": {"code": 400, "message": message, "type": "invalid_request_error"}}
    branches = []
    for i in range(body["n_cmpl"]):
        seed = body["seed"] + i if body["temperature"] else None
        ids, why, stop = write(body["prompt"], body["n_predict"], body.get("stop", []), seed, ends_with=False)
        kind = {"eos": "eos", "stop": "word", "length": "limit"}[why]
        content = _upto(ids, stop, keep=False)
        said = {"index": i, "content": content, "tokens": ids, "stop_type": kind, "stopping_word": stop}
        branches.append({key: said[key] for key in body["response_fields"]})
    return 200, branches if len(branches) > 1 else branches[0]


SERVE = {key: COMPLETIONS[key] for key in ("model", "prompt", "max_tokens", "seed", "stop", "stream")}
SERVE |= {"generation_config": lambda v: isinstance(v, str), "n": _whole(1)}


def serve_cli(server: Server, method: str, path: str, body: Any) -> tuple[int, Any]:
    """`transformers serve` 5.24: refuses unknown fields, ignores `n`, samples only by a configuration of its own, keeps
    the stop and whatever its token holds beyond; `length` is tested before the end token."""
    if (method, path) == ("GET", "/v1/models"):
        return _models(server, server.model.split("/")[0], status={"value": "loaded"})
    if (method, path) != ("POST", "/v1/completions"):
        return server.refuse(f"{method} {path} {body}")
    if set(body) - set(SERVE):
        return 422, {"detail": f"Unexpected fields in the request: {set(body) - set(SERVE)}"}
    wrong = _fields(server, body, SERVE)
    config = json.loads(body.get("generation_config", "{}"))
    if wrong or (config.get("do_sample") and config.get("eos_token_id") != [0]):
        return server.refuse(wrong or f"generation_config {config}")
    seed = body["seed"] if config.get("do_sample") else None
    ids, _, _ = write(body["prompt"], body["max_tokens"], body.get("stop", []), seed, ends_with=False)
    choice = {"text": text_of(ids), "index": 0, "finish_reason": "length" if len(ids) == body["max_tokens"] else "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": len(ids), "total_tokens": 5 + len(ids)}
    return 200, {"object": "text_completion", "model": server.model, "choices": [choice], "usage": usage}


def silent(server: Server, method: str, path: str, body: Any) -> tuple[int, Any]:
    """A server that cuts the stop off and does not tell it from the end of the text."""

    def choice(ids: list[int], why: str, stop: str) -> dict[str, Any]:
        return {"text": _upto(ids, stop, keep=False), "finish_reason": _finish(why)}

    if (method, path) == ("GET", "/v1/models"):
        return _models(server, "nobody")
    if (method, path) != ("POST", "/v1/completions"):
        return server.refuse(f"{method} {path} {body}")
    return _completions(server, body, choice)


def _connection(server: Server) -> type[BaseHTTPRequestHandler]:
    class Connection(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body are two writes

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._serve("GET")

        def do_POST(self) -> None:
            self._serve("POST")

        def _serve(self, method: str) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            body = json.loads(raw) if raw else None
            with server.lock:
                headers = {key.lower(): value for key, value in self.headers.items()}
                server.requests.append((method, self.path, body, headers))
                fault = server.faults.pop(0) if method == "POST" and server.faults else server.every
                server.busy += 1
                server.most_busy = max(server.most_busy, server.busy)
            try:
                time.sleep(server.slow_s)
                if fault is None or fault.spoil:
                    status, value = server.answer(server, method, self.path, body)
                    time.sleep(fault.hang_s if fault else 0)
                    good = fault is None and method == "POST" and status == 200
                    if good:
                        with server.lock:
                            server.given.append(body)
                    self._send(Fault(status, json.dumps(fault.spoil(value) if fault and fault.spoil else value)))
                    if good and self.close_connection:  # it did not arrive
                        with server.lock:
                            server.given.remove(body)
                else:
                    self._fault(fault)
            finally:
                with server.lock:
                    server.busy -= 1

        def _fault(self, fault: Fault) -> None:
            time.sleep(fault.hang_s)
            self._send(fault)

        def _send(self, reply: Fault) -> None:
            data = reply.body.encode() if isinstance(reply.body, str) else reply.body
            try:
                self.send_response(reply.status)
                self.send_header("content-type", reply.content_type)
                self.send_header("content-length", str(len(data)))
                for key, value in reply.headers.items():
                    self.send_header(key, value)
                self.end_headers()
                if reply.drip_s:
                    for i in range(len(data)):
                        self.wfile.write(data[i : i + 1])
                        time.sleep(reply.drip_s)
                else:
                    self.wfile.write(data[: reply.cut])
                if reply.cut is not None:
                    self.close_connection = True
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client gave up on a slow answer

    return Connection


class Listener(ThreadingHTTPServer):
    """Ends its connections when it ends, as a process does."""

    request_queue_size = 256
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        self.open: list[socket.socket] = []
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.append(request)
        super().process_request(request, client_address)

    def server_close(self) -> None:
        super().server_close()
        for connection in self.open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: Any) -> None:
        pass  # the client went away


@contextmanager
def serve(answer: Callable[..., tuple[int, Any]], *, port: int = 0, **setting: Any) -> Iterator[Server]:
    """A running server; anything unexpected that it was asked fails the test at the end."""
    server = Server(answer, **setting)
    with Listener(("127.0.0.1", port), _connection(server)) as http:
        server.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
    assert not server.unexpected, server.unexpected
