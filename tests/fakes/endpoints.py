"""Servers that speak like text-generation-inference, vLLM, SGLang and llama.cpp, on real loopback sockets.

They write the text of a toy model, whose next token is a hash of the text so far and the seed, and they are as picky as
the real ones were measured to be: a field, path or value that they do not expect is kept in `unexpected`, which
`serve` turns into a failure of the test. `faults` are answered first, one per POST. They know nothing of the package.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

END = b""  # the end token: id 0, no text
TOKENS = (
    [END, b"\n", b"\n\n", b" plus", b" 7", b"1", b"2", b" is", b".", b" so", b"\xc3", b"\xa9", b"\xf0\x9f", b"\x98\x80"]
    + [b" w%d" % i for i in range(18)]
)  # fmt: skip
BOS = "<s>"


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
    """An answer that is no good. `cut`: send only so many bytes, then close. `hang_s`: wait before answering."""

    status: int = 200
    body: str | bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    cut: int | None = None
    hang_s: float = 0.0


@dataclass
class Server:
    """What a test sees of a running server, and sets while it runs."""

    answer: Callable[[Server, str, str, Any], tuple[int, Any]]
    model: str = "org/teacher"
    sha: str | None = "c0ffee"
    most_branches: int = 128
    counts_branches: bool = True
    url: str = ""
    faults: list[Fault | None] = field(default_factory=list)
    every: Fault | None = None
    requests: list[tuple[str, str, Any, dict[str, str]]] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    busy: int = 0
    most_busy: int = 0
    slow_s: float = 0.0
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
        return 200, {"model_id": server.model, "model_sha": server.sha, "max_total_tokens": 4096, "version": "3.3.7"}
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
    "n": _whole(1),
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
    "verbose": lambda v: v is True,
}


def _completions(server: Server, method: str, path: str, body: Any, owner: str, choice: Callable) -> tuple[int, Any]:
    if (method, path) == ("GET", "/v1/models"):
        return 200, {"object": "list", "data": [{"id": server.model, "object": "model", "owned_by": owner}]}
    if (method, path) != ("POST", "/v1/completions"):
        return server.refuse(f"{method} {path} {body}")
    wrong = _fields(server, body, COMPLETIONS)
    if wrong or not {"temperature", "top_p", "top_k", "max_tokens", "seed", "prompt"} <= set(body):
        return server.refuse(wrong or f"body {body}")
    n = body.get("n", 1)
    if n > server.most_branches:
        message = f"Field 'n': Value must be between 1 <= value <= {server.most_branches}, but got {n}"
        return 400, {"error": {"code": 400, "message": message, "type": "invalid_request_error"}}
    choices, counts, extra = [], [], {}
    for i in range(n):
        seed = body["seed"] + i if body["temperature"] else None
        written = write(body["prompt"], body["max_tokens"], body.get("stop", []), seed, ends_with=False)
        made, extra_of = choice(*written)
        choices.append({"index": i, "logprobs": None, **made})
        counts.append(len(written[0]))
        extra = extra or extra_of
    used = sum(counts) if server.counts_branches else counts[0]
    usage = {"prompt_tokens": 5, "completion_tokens": used, "total_tokens": 5 + used}
    return 200, {"object": "text_completion", "model": body["model"], "choices": choices[::-1], "usage": usage, **extra}


def _upto(ids: list[int], stop: str, keep: bool) -> str:
    text = text_of(ids)
    at = text.find(stop) if stop else -1
    return text if at < 0 else text[: at + len(stop)] if keep else text[:at]


def vllm(server: Server, method: str, path: str, body: Any) -> tuple[int, Any]:
    """vLLM 0.33: token ids of every branch, `stop_reason`, the stop kept in the text."""

    def choice(ids: list[int], why: str, stop: str) -> tuple[dict[str, Any], dict[str, Any]]:
        finish = "length" if why == "length" else "stop"
        text = _upto(ids, stop, keep=True)
        return {"text": text, "finish_reason": finish, "stop_reason": stop or None, "token_ids": ids}, {}

    return _completions(server, method, path, body, "vllm", choice)


def sglang(server: Server, method: str, path: str, body: Any) -> tuple[int, Any]:
    """SGLang 0.5: no token ids, `matched_stop`: a text, the id of the end token, or null."""

    def choice(ids: list[int], why: str, stop: str) -> tuple[dict[str, Any], dict[str, Any]]:
        matched = {"eos": 0, "stop": stop, "length": None}[why]
        finish = "length" if why == "length" else "stop"
        return {"text": _upto(ids, stop, keep=True), "finish_reason": finish, "matched_stop": matched}, {}

    return _completions(server, method, path, body, "sglang", choice)


def llamacpp(server: Server, method: str, path: str, body: Any) -> tuple[int, Any]:
    """llama.cpp: the stop cut off, what ended the text under `__verbose`, usage of the first branch alone."""

    def choice(ids: list[int], why: str, stop: str) -> tuple[dict[str, Any], dict[str, Any]]:
        kind = {"eos": "eos", "stop": "word", "length": "limit"}[why]
        verbose = {"__verbose": {"stop_type": kind, "stopping_word": stop, "tokens_predicted": len(ids)}}
        finish = "length" if why == "length" else "stop"
        return {"text": _upto(ids, stop, keep=False), "finish_reason": finish}, verbose

    return _completions(server, method, path, body, "llamacpp", choice)


def silent(server: Server, method: str, path: str, body: Any) -> tuple[int, Any]:
    """A server that cuts the stop off and does not tell it from the end of the text."""

    def choice(ids: list[int], why: str, stop: str) -> tuple[dict[str, Any], dict[str, Any]]:
        finish = "length" if why == "length" else "stop"
        return {"text": _upto(ids, stop, keep=False), "finish_reason": finish}, {}

    return _completions(server, method, path, body, "nobody", choice)


def _connection(server: Server) -> type[BaseHTTPRequestHandler]:
    class Connection(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

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
                if fault is not None:
                    self._fault(fault)
                else:
                    status, value = server.answer(server, method, self.path, body)
                    self._send(Fault(status, json.dumps(value)))
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
                self.wfile.write(data[: reply.cut])
                if reply.cut is not None:
                    self.close_connection = True
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client gave up on a slow answer

    return Connection


@contextmanager
def serve(answer: Callable[..., tuple[int, Any]], **setting: Any) -> Iterator[Server]:
    """A running server; anything unexpected that it was asked fails the test at the end."""
    server = Server(answer, **setting)
    with ThreadingHTTPServer(("127.0.0.1", 0), _connection(server)) as http:
        http.daemon_threads = True
        server.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
    assert not server.unexpected, server.unexpected
