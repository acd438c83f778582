"""The power goes at any moment: what was durable is there, and the rest is absent or made again."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from fakes import power
from fakes.asking import RECIPE, RECORDED, Endpoint
from fakes.faulty import watched
from fakes.trials import Bench, durable

from ssd_pipeline.store.journal import decode


def traced(bench: Bench) -> power.Trace:
    """A run in this process that takes itself for one that is gone, with marks where a stage was finished."""
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    trace = power.Trace(bench.folder)

    def listen(event: dict) -> None:
        if event["event"] == "stage_finished":
            trace.note(event["stage"])

    with watched(trace.around), pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: gone)
        bench.here(listen=listen)
    return trace


def promised(trace: power.Trace, upto: int) -> tuple[set[str], set[str]]:
    """The executions and the stages that the run had said were safe after so many steps."""
    unsynced: dict[Path, list[bytes]] = {}
    rows, stages = set(), set()
    for name, details in trace.steps[:upto]:
        if name == "note":
            stages.add(details)
        elif name == "append":
            unsynced.setdefault(details[0], []).append(details[1])
        elif name == "sync" and details[0].suffix == ".log":
            for line in b"".join(unsynced.pop(details[0], [])).splitlines(keepends=True):
                found = decode(line)
                assert found
                kind = "reply" if details[0].parent.name == "replies" else "row"
                rows.add(durable(f"{kind} {line.split(b' ', 2)[2].decode()}"))
    return rows - {None}, stages


@pytest.mark.parametrize("text", [RECIPE, RECORDED], ids=["asked", "recorded"])
def test_a_power_cut_at_any_moment(
    room: Path, endpoint: Endpoint, golden: dict, long: bool, draw: random.Random, text: str
) -> None:
    first = Bench(room / "first", endpoint, text)
    trace = traced(first)
    index = first.store / "replies" / "index.sqlite"
    kept = room / "index"
    if index.exists():
        shutil.copy(index, kept)
    for number in range(10_000 if long else 150):
        upto = draw.randint(0, len(trace.steps))
        disk = power.Disk()
        for name, details in trace.steps[:upto]:
            disk.play(name, details)
        bench = Bench(room / f"state{number}", endpoint, text)
        disk.write_state(bench.folder, draw)
        bench.path.write_text(text)
        power.copy_index(kept, bench.store / "replies" / "index.sqlite", draw)
        bench.durable, stages = promised(trace, upto)
        bench.whole()
        finished = bench.here()
        where = f"state {number}, after {upto} of {len(trace.steps)} operations"
        assert {name: event["digest"] for name, event in finished.items()} == golden[text], where
        assert not [name for name in stages if finished[name]["computed"]], where
        bench.account()
        bench.whole()
        bench.tidy()
        shutil.rmtree(bench.folder)


def test_data_is_durable_before_its_name_and_the_record_before_the_artifact(room: Path, endpoint: Endpoint) -> None:
    trace = traced(Bench(room / "traced", endpoint, RECORDED))
    steps = [(name, details[0], details[2]) for name, details in trace.steps if name != "note"]
    renames = [i for i, (name, _, target) in enumerate(steps) if name == "rename" and "artifacts" in str(target)]
    assert len(renames) == 4
    for at in renames:
        staging, target = steps[at][1], steps[at][2]
        of_data = [s[0:2] for s in steps[:at] if s[1].is_relative_to(staging / "data")]
        files = {path for name, path in of_data if name == "create"}
        assert files
        assert all(last_of(of_data, path) == "sync" for path in files), "a file of the artifact is not synced"
        assert of_data[-1] == ("sync_dir", staging / "data"), "the names of the data are not synced last"
        record = steps.index(("create", staging / "record.json", None))
        assert record > max(i for i, s in enumerate(steps[:at]) if s[1] == staging / "data")
        after_record = [s[0] for s in steps[record:at] if s[1] == staging or s[1].parent == staging]
        assert after_record == ["create", "append", "sync", "sync_dir"]
        assert steps[at + 1][:2] == ("sync_dir", target.parent), "the rename is not made durable"
    for at, (name, path, _) in enumerate(steps):
        if name == "create" and path.suffix == ".log":
            assert steps[at + 1][:2] == ("sync_dir", path.parent), "the name of a log is not durable"
        if name == "append" and path.suffix == ".log":
            assert steps[at + 1][:2] == ("sync", path), "a group of rows or replies is not durable"
        if name == "new_dir":
            assert ("sync_dir", path.parent, None) in steps[at:], f"{path} is not durable under its name"


def last_of(steps: list[tuple[str, Path]], path: Path) -> str:
    return next(name for name, touched in reversed(steps) if touched == path)
