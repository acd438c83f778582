"""The system refuses: no space, no permission, no files. One message, status 1, and afterwards as if nothing was."""

from __future__ import annotations

import errno
import itertools
import os
import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.asking import RECIPE, RECORDED, Endpoint
from fakes.faulty import Call, Disk, watched
from fakes.trials import Bench, Outcome, in_pairs

from ssd_pipeline.errors import StoreError
from ssd_pipeline.store import durable, replies
from ssd_pipeline.store.journal import Journal
from ssd_pipeline.store.replies import Replies

ERRNOS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EMFILE, errno.EACCES, errno.EROFS)
NOBODY = 65534


def refused(outcome: Outcome, where: object = "") -> None:
    """I8: one message that names the trouble, status 1, no traceback."""
    message = outcome.message()
    assert outcome.status == 1, (where, outcome.status, message)
    assert len([e for e in outcome.events if e["event"] == "error"]) == 1, (where, message)
    assert "cannot " in message, (where, message)
    assert "Traceback" not in message, (where, message)
    assert "Exception ignored" not in message, (where, message)


def test_each_operation_may_be_refused(
    room: Path, endpoint: Endpoint, golden: dict, long: bool, draw: random.Random
) -> None:
    counted = Disk()
    with watched(counted.around):
        Bench(room / "count", endpoint, RECORDED).here()
    every = list(itertools.product(range(1, counted.count + 1), ERRNOS, (False, True)))
    chosen = every if long else draw.sample(every, 120)

    def trial(refusal: tuple[int, int, bool]) -> None:
        at, number, ever = refusal
        where = f"{errno.errorcode[number]} {'from' if ever else 'at'} operation {at}"
        text = (RECIPE, RECORDED)[at % 2]
        bench = Bench(room / f"{at}-{number}-{ever}", endpoint, text)
        outcome = bench.run(Disk(at, refuse=number, ever=ever))
        if outcome.status:  # what only cleans up may be refused unheard
            refused(outcome, where)
        bench.recover(golden[text])

    in_pairs(trial, chosen)


@pytest.mark.parametrize("operation", ["append", "sync", "sync_dir", "create"])
def test_what_could_not_be_written_is_written_later_and_elsewhere(room: Path, operation: str) -> None:
    """Nothing follows a torn line, and a page that once failed to sync is not believed."""
    values = {f"{n:032x}": {"row": n, "text": "x" * 50} for n in range(3)}
    once = [operation]

    def around(call: Call, do: Callable[[], Any]) -> Any:
        if call[0] in once and call[1].suffix in (".log", ""):
            once.clear()
            if call[0] == "append":
                os.write(call[2][0].fileno(), bytes(call[2][1])[:70])
            with durable.refusals("write"):
                raise OSError(errno.EIO, "no")
        return do()

    for make, put, get in ((Journal, "append", "read"), (Replies, "put", "get")):
        folder = room / make.__name__
        folder.mkdir()
        once[:] = [operation]
        log = make(folder)
        for key, value in values.items():
            getattr(log, put)(key, value)
        with watched(around), pytest.raises(StoreError):
            log.flush()
        assert all(getattr(log, get)(key) == value for key, value in values.items())
        log.close()
        again = make(folder)
        assert {key: getattr(again, get)(key) for key in values} == values
        if operation in ("append", "sync"):
            assert len(list(folder.glob("*.log"))) == 2, "the log that was torn is written on"
        again.close()


def test_a_refusal_between_rows_stops_the_run(
    room: Path, endpoint: Endpoint, golden: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group commit runs beside the rows: when it fails, nothing more is bought."""
    monkeypatch.setattr(endpoint, "slow_s", 0.05)
    bench = Bench(room / "stops", endpoint, RECORDED, group_rows=10_000)
    append, refused_once = durable.append, []

    def full_once(file: Any, data: bytes) -> None:
        if str(file.name).endswith(".log") and not refused_once:
            refused_once.append(file)
            with durable.refusals("write"):
                raise OSError(errno.ENOSPC, "no")
        append(file, data)

    outcome = bench.run(first=lambda: setattr(durable, "append", full_once))
    refused(outcome)
    assert "free some space" in outcome.message()
    assert len([row for row in bench.executions() if row.startswith("ask")]) < 20
    bench.recover(golden[RECORDED])


def nothing_is_writable() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


@pytest.mark.parametrize("text", [RECIPE, RECORDED], ids=["asked", "recorded"])
@pytest.mark.parametrize("size", [1000, 5000, 20_000])
def test_a_limit_of_file_sizes(room: Path, endpoint: Endpoint, golden: dict, text: str, size: int) -> None:
    bench = Bench(room / "limited", endpoint, text, group_rows=64)
    outcome = bench.run(first=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)), as_json=False)
    if outcome.status:
        assert outcome.status == 1, outcome.error
        assert "ulimit -f" in outcome.error, outcome.error
        assert "Traceback" not in outcome.error
    bench.recover(golden[text])


def test_a_limit_of_open_files(room: Path, endpoint: Endpoint, golden: dict) -> None:
    """Raised by one until a run is through."""
    for more in range(40):
        bench = Bench(room / f"{more}", endpoint, RECORDED)

        def first(more: int = more) -> None:
            limit = os.open(os.devnull, os.O_RDONLY) + 1 + more
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

        outcome = bench.run(first=first)
        assert "Traceback" not in outcome.error, (more, outcome.error)
        if outcome.status:
            # A recipe that cannot even be opened is what status 2 says: nothing was run.
            assert outcome.status == 1 or not bench.executions(), (more, outcome.message())
            assert "too many open files" in outcome.message().lower(), (more, outcome.message())
        bench.recover(golden[RECORDED])
        if outcome.status == 0:
            return
    raise AssertionError("no run needs so many files")


def test_a_store_that_may_not_be_written(endpoint: Endpoint, room: Path, golden: dict) -> None:
    os.chmod(room, 0o755)
    bench = Bench(room / "closed", endpoint)
    bench.store.mkdir()
    executed = os.open(bench.executed, os.O_CREAT)
    os.fchmod(executed, 0o666)
    os.close(executed)
    first = nothing_is_writable if os.getuid() == 0 else (lambda: os.chmod(bench.store, 0o555))
    os.chmod(bench.folder, 0o777)
    outcome = bench.run(first=first)
    refused(outcome)
    assert "SSD_HOME" in outcome.message()
    os.chmod(bench.store, 0o755)
    bench.recover(golden[RECIPE])
    for stale in ("staging/ask-0.broken.12", "journals", "work"):
        (bench.store / stale).mkdir(exist_ok=True, parents=True)
    again = bench.run(first=first)
    assert (again.status, again.computed()) == (0, 0), again.message()


@pytest.mark.parametrize("part", ["", "artifacts", "staging", "journals", "replies", "locks", "index", "work", "runs"])
def test_a_file_stands_where_a_directory_is_wanted(room: Path, endpoint: Endpoint, golden: dict, part: str) -> None:
    bench = Bench(room / "taken", endpoint, RECORDED)
    place = bench.store / part
    place.parent.mkdir(exist_ok=True)
    place.write_text("not a directory")
    refused(bench.run())
    place.unlink()
    bench.recover(golden[RECORDED])


@pytest.mark.parametrize("how", ["directory", "full", "read-only", "foreign", "busy"])
def test_the_index_of_replies_never_holds_up_a_run(room: Path, endpoint: Endpoint, golden: dict, how: str) -> None:
    import sqlite3

    bench = Bench(room / how, endpoint, RECORDED)
    index = bench.store / "replies" / "index.sqlite"
    bench.run(Disk(110))
    assert bench.durable, "died before anything was durable"
    busy = None
    index.unlink(missing_ok=True)
    match how:
        case "directory":
            index.mkdir()
        case "full":
            if not Path("/dev/full").exists():
                return
            index.symlink_to("/dev/full")
        case "read-only":
            index.write_bytes(b"")
            index.chmod(0o444)
        case "foreign":
            with sqlite3.connect(index) as other:
                other.execute("CREATE TABLE places (key TEXT, other TEXT)")
        case "busy":
            busy = sqlite3.connect(index, isolation_level=None)
            busy.execute("BEGIN EXCLUSIVE")
    outcome = bench.run(first=lambda: setattr(replies, "BUSY_SECONDS", 0.1))
    assert outcome.status == 0, outcome.message()
    assert outcome.digests() == golden[RECORDED]
    if busy:
        busy.close()
    if how == "directory":
        shutil.rmtree(index)
