"""A disk that dies, refuses, or is only watched: the functions of store/durable.py wrapped, and nothing else.

An operation that changes nothing (a directory that exists, a file that is absent) is not counted.
"""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssd_pipeline.store import durable
from ssd_pipeline.store.journal import decode

OPS = ("create", "append", "sync", "sync_dir", "rename", "replace", "new_dir", "remove", "remove_empty")
Call = tuple[str, Path, tuple[Any, ...]]


def place(first: Any) -> Path:
    return first if isinstance(first, Path) else Path(first.name)


def changes(name: str, path: Path) -> bool:
    if name == "new_dir":
        return not path.is_dir()
    return name not in ("remove", "remove_empty") or os.path.lexists(path)


@contextmanager
def watched(around: Callable[[Call, Callable[[], Any]], Any]) -> Iterator[None]:
    """Every operation goes through `around(call, do)`, where `do()` does it."""
    kept = {name: getattr(durable, name) for name in OPS}

    def wrapped(name: str) -> Callable[..., Any]:
        def operation(*args: Any) -> Any:
            path = place(args[0])
            if not changes(name, path):
                return kept[name](*args)
            return around((name, path, args), lambda: kept[name](*args))

        return operation

    try:
        for name in OPS:
            setattr(durable, name, wrapped(name))
        yield
    finally:
        for name, function in kept.items():
            setattr(durable, name, function)


@dataclass
class Disk:
    """At operation number `at` (from 1; 0: never) the process dies, "before" or "after" it; with `refuse`, an errno,
    the operation is refused instead, and with `ever` all that follow.

    What is durable is told to the file descriptor `report`, a line per record: `row <json>` or `reply <json>`.
    """

    at: int = 0
    when: str = "before"
    refuse: int = 0
    ever: bool = False
    report: int = -1
    count: int = 0
    unsynced: defaultdict[Path, list[bytes]] = field(default_factory=lambda: defaultdict(list))

    def around(self, call: Call, do: Callable[[], Any]) -> Any:
        name, path, args = call
        self.count += 1
        here = self.count == self.at or (self.ever and self.at and self.count > self.at)
        if here and self.refuse:
            with durable.refusals(f"{name} {path.name}"):
                if name == "append":  # a full disk takes what fits
                    os.write(args[0].fileno(), bytes(args[1])[: len(args[1]) // 2])
                raise OSError(self.refuse, os.strerror(self.refuse))
        if here and self.when == "before" and not self.refuse:
            die()
        done = do()
        if name == "append":
            self.unsynced[path].append(bytes(args[1]))
        if name == "sync":
            self._tell(path)
        if here and not self.refuse:
            die()
        return done

    def _tell(self, path: Path) -> None:
        if self.report >= 0 and path.suffix == ".log":
            lines = b"".join(self.unsynced.pop(path, [])).splitlines(keepends=True)
            kind = b"reply" if path.parent.name == "replies" else b"row"
            told = [b"%b %b" % (kind, line.split(b" ", 2)[2]) for line in lines if decode(line)]
            with suppress(OSError):  # a limit of file sizes holds for this file too
                os.write(self.report, b"".join(told))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
