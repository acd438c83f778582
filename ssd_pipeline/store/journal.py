"""Finished rows of a stage that is not finished: an append-only log that a death cannot poison.

One directory per stage identity, one file per writing process, never appended to by another: a torn tail stays a torn
tail. A line is `crc32 key payload`; what fails its CRC is owed again and counted, never believed. Appends are grouped
(50 ms or 1,024 rows, then one fsync): a death costs at most the last group. In memory there is only an index from key
to place, so 100,000 long rows fit. This file does not know what a row means.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import zlib
from collections.abc import Collection, Container, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ssd_pipeline.errors import StoreError
from ssd_pipeline.store import durable

GROUP_ROWS = 1024
GROUP_SECONDS = 0.05
KEPT_BYTES = 64 << 20  # of rows of this process that are kept in memory too, since they are soon read again
OPEN_LOGS = 64  # logs that are kept open for reading; more are opened when they are needed
ATTEMPTS = 5


def encode(key: str, value: Any) -> bytes:
    """One line of a log: crc32 of the rest (8 hex digits), the key, JSON without line ends."""
    body = f"{key} {json.dumps(value, separators=(',', ':'), ensure_ascii=False, allow_nan=False)}".encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def decode(line: bytes) -> tuple[str, Any] | None:
    """Key and value of a line, or None when it is torn or damaged."""
    if len(line) < 11 or line[8:9] != b" " or not line.endswith(b"\n"):
        return None
    body = line[9:-1]
    if line[:8] != b"%08x" % zlib.crc32(body):
        return None
    key, _, payload = body.partition(b" ")
    return key.decode(), json.loads(payload)


def scan(path: Path, offset: int = 0, columns: Collection[str] | None = None) -> Iterator[tuple[str | None, int, int]]:
    """(key, offset, length) of each line of a log, from `offset` on; key None when it is damaged, or no mapping of
    exactly these `columns`."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            found = decode(line)
            fits = found and (columns is None or (isinstance(found[1], dict) and found[1].keys() == set(columns)))
            yield (found[0] if found and fits else None), offset, len(line)
            offset += len(line)


class Log:
    """The log that this process writes in a directory of logs, begun at the first write.

    After a refused write a new file is begun: nothing ever follows a torn line, and a page that could not be synced is
    not believed to be there the second time. It can be read back also when another process has removed it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: BinaryIO | None = None
        self._size = 0
        self.paths: list[Path] = []

    def write(self, data: bytes, readers: Readers, *, sync: bool = True) -> int:
        """Append whole lines; the offset of the first in the last of `paths`. With `sync` they are durable."""
        file = self._file or self._begin(readers)
        try:
            durable.append(file, data)
            if sync:
                durable.sync(file)
        except StoreError:
            self._file = None
            raise
        start, self._size = self._size, self._size + len(data)
        return start

    def _begin(self, readers: Readers) -> BinaryIO:
        path = self._directory / f"{os.getpid()}-{os.urandom(4).hex()}.log"
        file = self._create(path, ATTEMPTS)
        self.paths.append(path)
        readers.hold(path, file)
        self._file, self._size = file, 0
        return file

    def _create(self, path: Path, attempts: int) -> BinaryIO:
        durable.make_dir(self._directory)
        try:
            file = durable.create(path)
            durable.sync_dir(self._directory)
            return file
        except StoreError as error:
            if not isinstance(error.__cause__, FileNotFoundError) or attempts == 1:
                raise
            return self._create(path, attempts - 1)  # another process has just cleaned the directory away


class Readers:
    """Open logs, to read lines at known places. Ours stay open, of the others the first ones."""

    def __init__(self) -> None:
        self._open: dict[Path, BinaryIO] = {}

    def hold(self, path: Path, file: BinaryIO) -> None:
        self._open[path] = file

    def line(self, path: Path, offset: int, length: int) -> bytes:
        """The bytes at a place. Raises OSError."""
        if path in self._open:
            return os.pread(self._open[path].fileno(), length, offset)
        file = path.open("rb")
        if len(self._open) < OPEN_LOGS:
            self._open[path] = file
            return os.pread(file.fileno(), length, offset)
        with file:
            return os.pread(file.fileno(), length, offset)

    def close(self) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()


class Journal:
    """The log of one stage identity, open for reading all files and writing one of its own.

    `columns`: those of a finished row; a line that holds others was written by another version of us and is owed again.
    """

    def __init__(self, directory: Path, columns: Collection[str] | None = None) -> None:
        self._directory, self._columns = directory, columns
        self._index: dict[str, tuple[Path, int, int] | None] = {}  # None: not written yet
        self._readers = Readers()
        self._log = Log(directory)
        self._files: list[Path] = []
        self._pending: list[tuple[str, bytes]] = []
        self._kept: dict[str, Any] = {}
        self._kept_bytes = 0
        self._since = 0.0
        self.damaged = 0
        for path in sorted(directory.glob("*.log")) if directory.is_dir() else []:
            self._take_in(path)

    def _take_in(self, path: Path) -> None:
        with durable.refusals(f"read {path.name}"):
            try:
                self._readers.line(path, 0, 0)  # kept open: it can be read also when another process removes it
                for key, offset, length in scan(path, columns=self._columns):
                    if key is None:
                        self.damaged += 1
                    else:
                        self._index[key] = (path, offset, length)
            except FileNotFoundError:
                return  # another run of the same stage has finished
        self._files.append(path)

    def __contains__(self, key: str) -> bool:
        return key in self._index

    def __iter__(self) -> Iterator[str]:
        """The keys of all rows that are here."""
        return iter(self._index)

    def append(self, key: str, value: Any, *, sync: bool = True) -> None:
        """Remember a finished row. It is durable after its group's fsync, at the latest at `flush`.

        Raises UnicodeEncodeError for text that is no Unicode.
        """
        line = encode(key, value)
        if not self._pending:
            self._since = time.monotonic()
        self._pending.append((key, line))
        self._index[key] = None
        if self._kept_bytes < KEPT_BYTES:
            self._kept[key] = value
            self._kept_bytes += len(line)
        if len(self._pending) >= GROUP_ROWS:
            self.flush(sync=sync)

    def flush(self, *, sync: bool = True, due: bool = False) -> None:
        """Write what is pending in one write; with `sync` it is durable on return; with `due` only after a group's
        time. What could not be written stays pending."""
        if not self._pending or (due and time.monotonic() - self._since < GROUP_SECONDS):
            return
        start = self._log.write(b"".join(line for _, line in self._pending), self._readers, sync=sync)
        pending, self._pending = self._pending, []
        for key, line in pending:
            self._index[key] = (self._log.paths[-1], start, len(line))
            start += len(line)

    def read(self, key: str) -> Any:
        """The value of a finished row; KeyError when there is none or its line was damaged since."""
        if key in self._kept:
            return self._kept[key]
        if self._index[key] is None:
            self.flush()
        path, offset, length = self._index[key] or (self._directory, 0, 0)
        with durable.refusals(f"read {path.name}"):
            found = decode(self._readers.line(path, offset, length))
        if found is None or found[0] != key:
            raise KeyError(key)
        return found[1]

    def close(self) -> None:
        """Make everything durable and let go of the files."""
        try:
            self.flush()
        finally:
            self._readers.close()
            self._log = Log(self._directory)

    def drop(self, kept: Container[str]) -> None:
        """Before `close`: remove the logs that were here at the start and ours, unless a row in one is not in `kept`.

        A log that another process has begun since stays.
        """
        needed = {place[0] for key, place in self._index.items() if place and key not in kept}
        for path in [*self._files, *self._log.paths]:
            if path not in needed:
                durable.remove(path)
        durable.remove_empty(self._directory)


class Lock:
    """An advisory lock that saves work and never data: everything stays right where locks lie."""

    def __init__(self, path: Path) -> None:
        durable.make_dir(path.parent)
        with durable.refusals(f"open {path.name}"):
            self._file = path.open("ab")

    def take(self) -> bool:
        """True when it is ours now; False when another living process holds it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # this file system has no locks: go on without
        return True

    def release(self) -> None:
        self._file.close()
