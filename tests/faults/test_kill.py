"""Killed at any operation, at any moment, and again while recovering: the next run ends as if nothing had been."""

from __future__ import annotations

import itertools
import random
import signal
import time
from pathlib import Path

import pytest
from fakes.asking import RECIPE, RECORDED, Endpoint
from fakes.faulty import Disk, watched
from fakes.trials import Bench, in_pairs

RECIPES = pytest.mark.parametrize("text", [RECIPE, RECORDED], ids=["asked", "recorded"])


def operations(folder: Path, endpoint: Endpoint, text: str) -> int:
    """How many durable operations an undisturbed run has."""
    disk = Disk()
    with watched(disk.around):
        Bench(folder, endpoint, text).here()
    return disk.count


@RECIPES
def test_a_death_at_each_operation(room: Path, endpoint: Endpoint, golden: dict, long: bool, text: str) -> None:
    count = operations(room / "count", endpoint, text)
    assert count > 100, "the recipe hardly touches the disk"
    every = itertools.product(range(1, count + 1), ("before", "after"))
    # Between `after` one operation and `before` the next only memory changes: in short one of two is enough.
    chosen = every if long else [(k, ("before", "after")[k // 2 % 2]) for k in range(1, count + 1, 2)]

    def trial(death: tuple[int, str]) -> None:
        bench = Bench(room / f"{death[0]}-{death[1]}", endpoint, text)
        died = bench.run(Disk(*death))
        assert died.status in (-signal.SIGKILL, 0), (death, died.message())  # 0: groups fell otherwise this time
        bench.recover(golden[text])

    in_pairs(trial, chosen)


def test_a_death_in_the_run_and_one_in_the_recovery(
    room: Path, endpoint: Endpoint, golden: dict, long: bool, draw: random.Random
) -> None:
    count = operations(room / "count", endpoint, RECORDED)
    deaths = [(n, draw.randint(1, count), draw.randint(1, count)) for n in range(600 if long else 40)]

    def trial(death: tuple[int, int, int]) -> None:
        number, first, second = death
        text = (RECIPE, RECORDED)[number % 2]
        bench = Bench(room / f"{number}", endpoint, text)
        for at in (first, second):
            bench.run(Disk(at, ("before", "after")[at % 2]))
        bench.recover(golden[text])
        grown = bench.start(sets=["stages.numbers.limit=25"]).wait().finished()
        assert [grown[name]["computed"] for name in ("asked", "spelled")] == [1, 1], "what is finished is not found"

    in_pairs(trial, deaths)


@RECIPES
def test_deaths_at_random_moments(
    room: Path, endpoint: Endpoint, golden: dict, long: bool, draw: random.Random, text: str
) -> None:
    lasts = min(Bench(room / f"clean{n}", endpoint, text).run().seconds for n in range(3))  # when nothing else ran
    moments = [draw.uniform(0, lasts) for _ in range(1000 if long else 20)]
    killed = 0
    for number in range(0, len(moments), 4):
        bench = Bench(room / f"{number}", endpoint, text)
        for moment in moments[number : number + 4]:
            child = bench.start()
            time.sleep(moment)
            child.kill()
            outcome = child.wait()
            killed += outcome.status == -signal.SIGKILL
            bench.account(outcome)
            bench.whole()
        bench.recover(golden[text])
    assert killed >= len(moments) / 10, "most of these runs had ended before"


def test_a_finished_recipe_is_left_alone(room: Path, endpoint: Endpoint) -> None:
    bench = Bench(room / "done", endpoint, RECORDED)
    bench.run()
    asked, executed = len(bench.questions()), len(bench.executions())

    def all_there_is() -> dict[Path, tuple[int, int, bytes]]:
        files = (p for p in bench.store.rglob("*") if p.is_file())
        return {p: (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in files}

    before = all_there_is()
    disk = Disk()
    again = bench.run(disk)
    assert (again.status, again.computed()) == (0, 0)
    assert (len(bench.questions()), len(bench.executions())) == (asked, executed)
    assert all_there_is() == before
