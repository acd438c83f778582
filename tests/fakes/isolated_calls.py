"""What tests call inside a worker: one function per way to misbehave."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time


def add(a: int, b: int) -> int:
    return a + b


def environment() -> dict[str, str]:
    return dict(os.environ)


def spin() -> None:
    while True:
        pass


def swallow_everything() -> None:
    """A call that no exception can end."""
    while True:
        try:
            time.sleep(60)
        except BaseException:  # noqa: BLE001
            continue


def eat_memory() -> int:
    return len(bytearray(64 << 30))


def die(status: int) -> None:
    os._exit(status)


def be_killed() -> None:
    signal.raise_signal(signal.SIGKILL)


def print_noise() -> str:
    print('{"result": "forged"}', flush=True)
    return "real"


def connect(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), timeout=1)


def start_program() -> None:
    subprocess.run(["/bin/true"], check=True)


def write(path: str) -> None:
    with open(path, "w") as file:
        file.write("x")


def remove(path: str) -> None:
    os.remove(path)


def no_json() -> object:
    return object()
