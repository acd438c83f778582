"""Killable workers: the one way to call code that may hang, eat memory or misbehave (sympy, below math-verify).

A worker is a fresh Python process that answers one call at a time, a JSON line each way over a socket pair: no pickle,
no fork of a process that has torch threads, no second run of the user's main script (which multiprocessing does). The
deadline is a kill, so it holds whatever the call does; the next call starts a new worker. It counts CPU time, so that a
verdict does not depend on how busy the machine is. A call that thinks for long steps aside: it goes on at low priority
and another worker starts in its place, so hostile rows cost the others little.
Inside: an empty environment (no tokens), limits on memory and CPU time, and an audit hook that refuses sockets,
programs and changes on disk. That guards against accidents and hostile text, not against native exploits. This file
does not know what is called or why.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

from ssd_pipeline.errors import RowError, RunError, SsdError, boundary

PRELOAD = ("math_verify",)  # imported, where installed, before the first deadline begins to run
ASIDE_S = 0.25  # CPU time after which a call makes room for another
ASIDE = 14  # so many calls may stand aside at once
PATIENCE = 10  # times its deadline, in wall time, is a call waited for that does not get or use the CPU
START_S = 12.0  # for a worker to start; counts against no call
_MAIN = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from ssd_pipeline.isolated import serve; serve()"


class Workers:
    """A pool of `count` workers (default: one per core, at most 4), each started when first needed, and one more for
    every call that stands aside.

    `memory_gb` bounds the address space of each. Bound to no event loop: a call waits in a thread of the pool's own.
    """

    def __init__(self, count: int | None = None, memory_gb: float = 4.0) -> None:
        self._memory = int(memory_gb * 2**30)
        count = count or min(os.cpu_count() or 1, 4)
        self._threads = ThreadPoolExecutor(count + ASIDE, thread_name_prefix="isolated")
        self._room = threading.Semaphore(count)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._living: set[_Worker] = set()
        self._closed = False

    async def call(self, function: str, *args: Any, timeout_s: float) -> Any:
        """The result of `module:function(*args)`; arguments and result are JSON values.

        `timeout_s` is CPU time; PATIENCE times as much passes at most. Raises TimeoutError at the deadline, RowError
        when the function raises or its worker dies (curable if something outside killed it), RunError if no worker can
        start.
        """
        request = json.dumps([function, args, timeout_s]).encode() + b"\n"
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._exchange, request, timeout_s)

    def close(self) -> None:
        """End every worker at once; a call in flight raises a curable RowError."""
        with self._lock:
            self._closed = True
            living = list(self._living)
        for worker in living:
            worker.process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in living:
            worker.end()

    def _exchange(self, request: bytes, timeout_s: float) -> Any:
        with ExitStack() as room:
            room.enter_context(self._room)
            worker = self._take()

            def step_aside() -> None:
                worker.yield_cpu()
                room.close()

            return self._reply(worker, request, timeout_s, step_aside)

    def _reply(self, worker: _Worker, request: bytes, timeout_s: float, step_aside: Callable[[], None]) -> Any:
        try:
            reply = worker.ask(request, timeout_s, step_aside)
        except TimeoutError:
            self._discard(worker, grace_s=0)
            raise TimeoutError(f"no result within {timeout_s:g} s") from None
        except (OSError, EOFError):
            status = self._discard(worker)
            if status == -signal.SIGPROF:
                raise TimeoutError(f"no result within {timeout_s:g} s") from None
            killed = self._closed or status == -signal.SIGKILL
            raise RowError(f"the worker died with status {status}", curable=killed) from None
        if worker.polite:
            self._discard(worker, grace_s=0)  # its priority cannot be raised again
        else:
            with self._lock:
                self._idle.append(worker)
        if "error" in reply:
            raise RowError(reply["error"])
        return reply["result"]

    def _take(self) -> _Worker:
        """An idle worker, or a new one; there are never more than threads."""
        with self._lock:
            if self._closed:
                raise RowError("the workers are closed", curable=True)
            if self._idle:
                return self._idle.pop()
            worker = _Worker(self._memory)
            self._living.add(worker)
        try:
            worker.ask(b"", START_S)
        except (OSError, EOFError):
            status = self._discard(worker)
            raise RunError(f"a worker process could not start (status {status})") from None
        return worker

    def _discard(self, worker: _Worker, grace_s: float = 0.5) -> int:
        with self._lock:
            self._living.discard(worker)
        return worker.end(grace_s)


class _Worker:
    """One process and the socket to it, used by one thread at a time."""

    def __init__(self, memory: int) -> None:
        self._channel, theirs = socket.socketpair()
        self.polite = False
        path = json.dumps([os.path.abspath(p) for p in sys.path])
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", _MAIN, path, str(memory)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0"},
            )

    def ask(self, request: bytes, timeout_s: float, step_aside: Callable[[], None] = lambda: None) -> Any:
        """Send a line and wait for one; `step_aside` is called once if that takes long.

        Raises TimeoutError, OSError or EOFError; then the worker is of no more use.
        """
        deadline = time.monotonic() + PATIENCE * timeout_s
        thought = self._cpu_s()
        self._channel.settimeout(timeout_s)
        self._channel.sendall(request)
        reply = b""
        while not reply.endswith(b"\n"):
            self._channel.settimeout(min(max(deadline - time.monotonic(), 1e-3), ASIDE_S))
            try:
                part = self._channel.recv(1 << 16)
            except TimeoutError:
                if time.monotonic() >= deadline:
                    raise
                if not self.polite and self._cpu_s() - thought >= ASIDE_S:
                    step_aside()
                continue
            if not part:
                raise EOFError
            reply += part
        return json.loads(reply)

    def _cpu_s(self) -> float:
        """CPU seconds that the process has used; the wall clock where the system does not tell (it has no /proc)."""
        try:
            with open(f"/proc/{self.process.pid}/stat") as file:
                used = file.read().rpartition(")")[2].split()[11:13]
        except OSError:
            return time.monotonic()
        return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")

    def yield_cpu(self) -> None:
        """Let every other process go first, from now on."""
        self.polite = True
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self.process.pid, 19)

    def end(self, grace_s: float = 0) -> int:
        """Kill it unless it dies by itself within `grace_s`; its exit status (negative: a signal)."""
        self._channel.close()
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(grace_s)
        self.process.kill()
        return self.process.wait()


# ------------------------------------------------------------------------------------------ inside a worker

_REFUSED = (
    *("socket.", "subprocess.", "pty.", "shutil.", "os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork"),
    *("os.kill", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.ch"),
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def serve() -> None:
    """The life of a worker: answer lines from standard input (a socket) until it closes. Never returns an error."""
    channel = socket.socket(fileno=os.dup(0)).makefile("rwb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; closing the socket ends us
    sys.dont_write_bytecode = True
    memory = int(sys.argv[2])
    with suppress(ValueError, OSError):  # not every system can limit the address space; the deadline holds anyway
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    for module in PRELOAD:
        with suppress(ImportError):
            importlib.import_module(module)
    sys.addaudithook(_refuse)
    reply: dict[str, Any] = {"result": None}
    while True:
        channel.write(json.dumps(reply).encode() + b"\n")
        channel.flush()
        line = channel.readline()
        if not line:
            return
        try:
            reply = {"result": _call(*json.loads(line))}
        except SsdError as error:
            reply = {"error": str(error)}


def _call(function: str, args: list[Any], timeout_s: float) -> Any:
    """One call; the kernel ends the process when it has used the CPU for `timeout_s`, whatever it does."""
    signal.setitimer(signal.ITIMER_PROF, timeout_s)
    module, _, name = function.partition(":")
    try:
        with boundary(RunError, function):
            result = getattr(importlib.import_module(module), name)(*args)
            json.dumps(result)
            return result
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    """The audit hook: no network, no programs, nothing changed on disk. It cannot be taken off again."""
    writes = event == "open" and isinstance(args[2], int) and args[2] & _WRITING
    if writes or event.startswith(_REFUSED):
        raise PermissionError(f"{event} is refused in a worker")
