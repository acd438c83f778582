"""What models have answered, by what they were asked: bought once, used by every run that asks the same.

One record per teacher branch (teacher's weights, exact text, sampling and limits, seed) and one per scored branch
(student's weights, exact texts), in the log format of the journal: a file per writing process, a CRC per record, group
commit. Finding a record among millions takes an index, an embedded database beside the logs. It is only a hint: it can
be rebuilt from the logs, what it points to is believed on its CRC and key alone, and where it cannot be used (no space,
read-only, no locks) one in memory takes its place. Finished artifacts do not need any of this. This file does not know
what is asked, nor whom.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ssd_pipeline.errors import StoreError
from ssd_pipeline.store import durable
from ssd_pipeline.store.identity import digest_of
from ssd_pipeline.store.journal import GROUP_ROWS, GROUP_SECONDS, Log, Readers, decode, encode, scan

INDEX_ROWS = 1024  # so many records are told to the index at once
BUSY_SECONDS = 5.0  # how long another process may keep the index to itself
MEMORY = ":memory:"

SCHEMA = """
CREATE TABLE IF NOT EXISTS places (key TEXT PRIMARY KEY, file TEXT, start INTEGER, length INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS logs (file TEXT PRIMARY KEY, indexed INTEGER) WITHOUT ROWID;
"""
LOOK_UP = "SELECT file, start, length FROM places WHERE key = ?"


def reply_key(question: dict[str, Any]) -> str:
    """The key of a question, 32 hex digits."""
    return digest_of(question)[:32]


Place = tuple[str, int, int]  # log, offset, length


class Replies:
    """The replies below one directory: read all, write a log of our own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        durable.make_dir(directory)
        self._log, self._readers = Log(directory), Readers()
        self._pending: dict[str, tuple[bytes, Any]] = {}
        self._since = 0.0
        self._untold: dict[str, Place] = {}  # durable, and the index does not know yet
        self._tell_at = INDEX_ROWS
        self._index = self._open()

    def get(self, key: str) -> Any | None:
        """The recorded value, or None; a record that fails its CRC was never there."""
        if key in self._pending:
            return self._pending[key][1]
        place = self._untold.get(key) or self._look_up(key)
        return None if place is None else self._read(key, *place)

    def put(self, key: str, value: Any) -> None:
        """Record a value; durable after its group, at the latest at `flush`."""
        line = encode(key, value)
        if not self._pending:
            self._since = time.monotonic()
        self._pending[key] = (line, value)
        if len(self._pending) >= GROUP_ROWS:
            self.flush()

    def flush(self, *, due: bool = False) -> None:
        """Make what is pending durable; with `due` only when it has waited for a group's time. What could not be
        written stays pending."""
        if not self._pending or (due and time.monotonic() - self._since < GROUP_SECONDS):
            return
        start = self._log.write(b"".join(line for line, _ in self._pending.values()), self._readers)
        pending, self._pending = self._pending, {}
        for key, (line, _) in pending.items():
            self._untold[key] = (self._log.paths[-1].name, start, len(line))
            start += len(line)
        if len(self._untold) >= self._tell_at:
            self._tell()

    def close(self) -> None:
        """Make everything durable and let go of the files."""
        try:
            self.flush()
            self._tell()
        finally:
            self._readers.close()
            self._log = Log(self._directory)
            self._index.close()

    def _read(self, key: str, name: str, start: int, length: int) -> Any | None:
        try:
            found = decode(self._readers.line(self._directory / name, start, length))
        except OSError:  # the log was dropped: the index does not know yet
            return None
        return found[1] if found and found[0] == key else None

    # ------------------------------------------------------------------------------------------- the index

    def _look_up(self, key: str) -> Place | None:
        for _ in range(2):
            try:
                found = self._index.execute(LOOK_UP, (key,)).fetchone()
                return None if found is None else (str(found[0]), int(found[1]), int(found[2]))
            except sqlite3.Error:
                self._index.close()
                self._index = self._open()
        return None

    def _tell(self) -> None:
        """Tell the index what is durable. Where that fails it is told later; the next process reads it in the logs."""
        ends: dict[str, int] = {}
        for name, start, length in self._untold.values():
            ends[name] = max(ends.get(name, 0), start + length)
        try:
            _insert(self._index, ((key, *place) for key, place in self._untold.items()), ends)
        except sqlite3.Error:
            self._tell_at = 2 * len(self._untold)
        else:
            self._untold, self._tell_at = {}, INDEX_ROWS

    def _open(self) -> sqlite3.Connection:
        """The index, told what is in the logs; one that is damaged is made anew."""
        path = self._directory / "index.sqlite"
        for place in (path, path, MEMORY):
            index = None
            try:
                index = sqlite3.connect(place, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
                index.execute("PRAGMA synchronous = NORMAL")
                index.executescript(SCHEMA)
                index.execute(LOOK_UP, ("",))
                _whole(index)
                self._catch_up(index)
                return index
            except sqlite3.DatabaseError as cause:
                if index:
                    index.close()
                if not isinstance(cause, sqlite3.OperationalError):  # no database, or a damaged one
                    with suppress(StoreError):
                        durable.remove(path)
        raise StoreError("cannot index the replies in memory")

    def _catch_up(self, index: sqlite3.Connection) -> None:
        """Index what other processes have written since the index was last told."""
        known = dict(index.execute("SELECT file, indexed FROM logs"))
        for path in sorted(self._directory.glob("*.log")):
            begin = known.get(path.name, 0)
            with durable.refusals(f"read {path.name}"), suppress(FileNotFoundError):  # it may be dropped just now
                size = path.stat().st_size
                if size > begin:
                    places, end = _places(path, begin, size)
                    _insert(index, places, {path.name: end})


def _places(path: Path, begin: int, size: int) -> tuple[list[tuple[str, str, int, int]], int]:
    """The records of a log from `begin` on, and where they end."""
    places, end = [], begin
    for key, start, length in scan(path, begin):
        if key is None and start + length >= size:
            break  # torn, or still being written: looked at again at the next start
        end = start + length
        if key is not None:
            places.append((key, path.name, start, length))
    return places, end


def _whole(index: sqlite3.Connection) -> None:
    """A file that is cut inside its last page reads as zeros there, which looks like nothing known. Raises
    sqlite3.DatabaseError."""
    (pages,), (size,) = (index.execute(f"PRAGMA {what}").fetchone() for what in ("page_count", "page_size"))
    (_, _, path) = index.execute("PRAGMA database_list").fetchone()
    if path and os.path.exists(path) and os.path.getsize(path) < pages * size:
        raise sqlite3.DatabaseError("the index is cut")


def _insert(index: sqlite3.Connection, places: Iterable[tuple[str, str, int, int]], ends: dict[str, int]) -> None:
    """One transaction: where records are, and up to where their logs are indexed. Raises sqlite3.Error."""
    try:
        index.execute("BEGIN IMMEDIATE")
        index.executemany("INSERT OR REPLACE INTO places VALUES (?, ?, ?, ?)", places)
        index.executemany("INSERT OR REPLACE INTO logs VALUES (?, ?)", ends.items())
        index.execute("COMMIT")
    except sqlite3.Error:
        if index.in_transaction:
            with suppress(sqlite3.Error):
                index.execute("ROLLBACK")
        raise
