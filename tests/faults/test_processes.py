"""Several processes at once: a lock saves work; without one everything is still right. A reader never sees a half."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.asking import RECIPE, RECORDED, Endpoint
from fakes.trials import HANGS_S, Bench

from ssd_pipeline import building, cli
from ssd_pipeline.errors import StoreError
from ssd_pipeline.store import artifact
from ssd_pipeline.store.local import Artifact, Store

RECIPES = pytest.mark.parametrize("text", [RECIPE, RECORDED], ids=["asked", "recorded"])


@pytest.fixture
def slow(endpoint: Endpoint) -> Iterator[Endpoint]:
    endpoint.slow_s = 0.01
    yield endpoint
    endpoint.slow_s = 0.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "LOCK_SECONDS", 0.05)


def locks_lie() -> None:
    """As on Lustre without -o flock, and on some network disks."""
    fcntl.flock = lambda *_: None


@RECIPES
@pytest.mark.parametrize("processes", [2, 4, 8])
def test_the_same_recipe_at_once(
    room: Path, slow: Endpoint, golden: dict, text: str, processes: int, long: bool
) -> None:
    for number in range(15 if long else 1):
        bench = Bench(room / f"{number}", slow, text)
        children = [bench.start() for _ in range(processes)]
        outcomes = [child.wait() for child in children]
        for outcome in outcomes:
            assert (outcome.status, outcome.digests()) == (0, golden[text]), outcome.message()
        often = {what: times for what, times in Counter(bench.executions()).items() if times > 1}
        assert not often, "executed by several"
        assert set(Counter(bench.questions()).values()) == {1}, "asked by several"
        assert sum(outcome.computed() for outcome in outcomes) == 24 + 24 + 24 + 1
        bench.recover(golden[text])


@RECIPES
def test_the_same_recipe_at_once_where_locks_lie(
    room: Path, slow: Endpoint, golden: dict, text: str, long: bool, draw: random.Random
) -> None:
    for number in range(50 if long else 4):
        bench = Bench(room / f"{number}", slow, text)
        children = []
        for _ in range(draw.choice((2, 3, 4))):
            children.append(bench.start(first=locks_lie))
            time.sleep(draw.choice((0, 0, 0.03, 0.1)))
        for child in children:
            outcome = child.wait()
            assert (outcome.status, outcome.digests()) == (0, golden[text]), outcome.message()
        bench.account()
        bench.recover(golden[text])


def test_deaths_among_many_where_locks_lie(
    room: Path, slow: Endpoint, golden: dict, long: bool, draw: random.Random
) -> None:
    for number in range(50 if long else 4):
        bench = Bench(room / f"{number}", slow, RECORDED)
        children = [bench.start(first=locks_lie) for _ in range(3)]
        for child in children[:2]:
            time.sleep(draw.uniform(0, 0.15))
            child.kill()
        assert children[0].wait().status in (0, -signal.SIGKILL)
        assert children[1].wait().status in (0, -signal.SIGKILL)
        outcome = children[2].wait()
        assert (outcome.status, outcome.digests()) == (0, golden[RECORDED]), outcome.message()
        bench.account()
        bench.recover(golden[RECORDED])


def test_who_held_the_lock_died(room: Path, slow: Endpoint, golden: dict) -> None:
    bench = Bench(room / "died", slow)
    first = bench.start().until(lambda: len(bench.questions()) > 8)
    second = bench.start().until(lambda: True)
    second.until(lambda: '"waiting"' in second.read("out"))
    first.kill()
    bench.account(first.wait())
    began = time.monotonic()
    outcome = second.wait()
    assert (outcome.status, outcome.digests()) == (0, golden[RECIPE])
    assert time.monotonic() - began < 5
    bench.account(outcome)
    bench.recover(golden[RECIPE])


def test_what_was_made_between_the_plan_and_the_lock_is_taken(room: Path, endpoint: Endpoint, golden: dict) -> None:
    """A second run plans, the first one makes everything, the second never has to wait."""
    bench = Bench(room / "between", endpoint)
    planned, go = room / "planned", room / "go"

    def hold_after_planning() -> None:
        make_plan = cli.make_plan

        def held(*args: Any, **more: Any) -> Any:
            made = make_plan(*args, **more)
            planned.touch()
            while not go.exists():
                time.sleep(0.005)
            return made

        cli.make_plan = held

    second = bench.start(first=hold_after_planning).until(planned.exists)
    assert bench.run().status == 0
    go.touch()
    outcome = second.wait()
    assert (outcome.status, outcome.computed(), outcome.digests()) == (0, 0, golden[RECIPE]), outcome.message()
    bench.account(outcome)


def test_a_recipe_that_is_edited_while_it_runs(room: Path, slow: Endpoint, golden: dict) -> None:
    bench = Bench(room / "edited", slow)
    child = bench.start().until(lambda: len(bench.questions()) > 2)
    bench.path.write_text(RECIPE.replace("{uses: ask,", "{uses: ask, label: other,"))
    outcome = child.wait()
    assert (outcome.status, outcome.digests()) == (0, golden[RECIPE])
    record = json.loads(
        (bench.store / "artifacts" / outcome.finished()["total"]["address"] / "record.json").read_text()
    )
    assert list(record["recipe"]["texts"].values()) == [RECIPE]


def test_two_recipes_that_share_a_stage(room: Path, slow: Endpoint, golden: dict) -> None:
    bench = Bench(room / "one", slow)
    children = [bench.start(sets=[f"stages.spelled.factor={n}"]) for n in (1, 2, 1, 2)]
    outcomes = [child.wait() for child in children]
    assert [outcome.status for outcome in outcomes] == [0] * 4
    assert outcomes[0].digests() == outcomes[2].digests() == golden[RECIPE]
    assert outcomes[1].digests() == outcomes[3].digests() != golden[RECIPE]
    assert set(Counter(e for e in bench.executions() if e.startswith("ask")).values()) == {1}


def test_a_reader_meanwhile(room: Path, endpoint: Endpoint, long: bool) -> None:
    """One process makes and removes an artifact all the time, another reads: it is absent or whole."""
    bench = Bench(room / "read", endpoint)
    address = bench.here()["spelled"]["address"]
    store = Store(bench.store)
    whole = store.find(address)
    assert isinstance(whole, Artifact)
    rows = whole.record["content"]

    def make_and_remove() -> None:
        theirs = Store(bench.store)
        while True:
            theirs.remove(address)
            bench.here()

    child = bench.start(first=make_and_remove)
    seen: Counter[str] = Counter()
    directory = bench.store / "artifacts" / address
    try:
        looks, until = (100_000 if long else 5000), time.monotonic() + HANGS_S
        while seen.total() < looks or (not (seen["whole"] and seen["absent"]) and time.monotonic() < until):
            before = inode(directory)
            found = store.find(address)
            if isinstance(found, Artifact):
                try:
                    artifact.verify(found.directory, found.record)
                except (StoreError, OSError):
                    assert inode(directory) != before, "torn"
                    seen["removed while it was read"] += 1
                else:
                    assert found.record["content"] == rows
                    seen["whole"] += 1
            else:
                # Absent both times: it was made and removed again in between.
                assert found is None or before is None or inode(directory) != before, found
                seen["absent"] += 1
    finally:
        child.kill()
        child.wait()
    print(dict(seen))
    assert seen["whole"], seen
    assert seen["absent"], seen


def inode(path: Path) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
