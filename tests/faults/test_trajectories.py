"""The promise at its real size: 200 trajectories of several decisions, killed forty times, and what the teacher was
asked. The stage, the recorded sampler and the recorded scorer are the real ones; the teacher is a server that counts.
"""

from __future__ import annotations

import json
import random
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from fakes.asking import Endpoint
from fakes.trials import Bench, Outcome

from ssd_pipeline.stages import sample_branches

RECIPE = """\
name: trajectories
seed: 7
models:
  teacher: {repo: toy/teacher, revision: "0123456789012345678901234567890123456789"}
  student: {repo: toy/student, revision: "0123456789012345678901234567890123456789"}
stages:
  problems: {uses: load_numbers, limit: 200}
  trajectories:
    uses: sample_branches
    input: problems
    teacher: teacher
    student: student
    branches: 4
    chunk: {max_tokens: 6}
    max_tokens: 48
    accept: {absolute: 2.2, min_chunks: 2}
  spelled: {uses: spell, input: trajectories, text: solution}
  total: {uses: add_up, input: spelled}
runtime: {rows_in_flight: 8}
"""
KILLS = 40


def bench(folder: Path, endpoint: Endpoint) -> Bench:
    return Bench(folder, endpoint, RECIPE, group_rows=64, more=(sample_branches.STAGE,))


def rows_of(outcome: Outcome) -> set[str]:
    """The problems whose trajectories a child said were durable."""
    values = [json.loads(line[4:]) for line in outcome.durable if line.startswith("row ")]
    return {value["messages"][0]["content"] for value in values if value.get("messages")}


def problems_of(questions: list[str]) -> set[str]:
    return {re.match(r"teacher\[(n \d+)\]>", question)[1] for question in questions}


def test_forty_deaths(room: Path, endpoint: Endpoint, draw: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = bench(room / "undisturbed", endpoint)
    clean = undisturbed.run()
    assert clean.status == 0, clean.message()
    golden = clean.digests()
    fates = clean.finished()["trajectories"]["fates"]
    assert set(Counter(undisturbed.questions()).values()) == {1}
    assert len(undisturbed.questions()) > 4 * 2 * 200, "hardly any trajectory has several decisions"

    killed = bench(room / "killed", endpoint)
    killed.group_rows = 16  # such short lives would not see a group of 50 ms
    deaths, safe, stored = 0, set(), 0
    monkeypatch.setattr(endpoint, "slow_s", 0.005)
    for _ in range(KILLS):
        asked = len(killed.questions())
        child = killed.start()
        # So many questions later, on a machine of any speed; all in all hardly more than there are.
        enough = asked + draw.randrange(110)
        child.until(lambda child=child, enough=enough: bool(child.read("out")) and len(killed.questions()) >= enough)
        time.sleep(draw.uniform(0, 0.01))
        child.kill()
        outcome = child.wait()
        deaths += outcome.status == -signal.SIGKILL
        killed.account(outcome)  # no answer that was stored is asked for again
        again = safe & problems_of(killed.questions()[asked:])
        assert not again, f"asked for rows that were durable: {sorted(again)}"
        safe |= rows_of(outcome)
        stored += sum(line.startswith("reply") for line in outcome.durable)
    asked = len(killed.questions())
    killed.recover(golden)
    assert not safe & problems_of(killed.questions()[asked:])
    twice = sum(times - 1 for times in Counter(killed.questions()).values())
    assert set(killed.questions()) == set(undisturbed.questions())
    assert deaths == KILLS
    assert len(safe) > 20, "the deaths came before anything was done"
    print(
        f"{deaths} deaths; {fates}; {len(undisturbed.questions())} questions undisturbed, {twice} more with the deaths "
        f"(answers that were under way); {len(safe)} rows and {stored} replies were durable before the last run"
    )


def test_a_longer_input_computes_its_new_rows_alone(room: Path, endpoint: Endpoint) -> None:
    grown = bench(room / "grown", endpoint)
    grown.start().wait()
    asked = len(grown.questions())
    outcome = grown.start(sets=["stages.problems.limit=300"]).wait()
    assert outcome.status == 0, outcome.message()
    done = outcome.finished()
    assert {name: done[name]["computed"] for name in ("trajectories", "spelled")} == {
        "trajectories": 100,
        "spelled": 100,
    }
    assert {name: done[name]["reused"] for name in ("trajectories", "spelled")} == {"trajectories": 200, "spelled": 200}
    assert problems_of(grown.questions()[asked:]) == {f"n {n}" for n in range(200, 300)}
    alone = bench(room / "alone", endpoint)
    assert alone.start(sets=["stages.problems.limit=300"]).wait().digests() == outcome.digests()
    more = {n: f"{done[n]['computed']} computed, {done[n]['reused']} reused" for n in ("trajectories", "spelled")}
    print(f"limit 200 -> 300: {more}; {asked} questions for the 200, {len(grown.questions()) - asked} more for the 300")


def test_other_parameters_share_what_they_have_in_common(room: Path, endpoint: Endpoint) -> None:
    shared = bench(room / "shared", endpoint)
    first = shared.start().wait()
    bought = [len(shared.questions())]
    for sets in (
        ["stages.trajectories.accept.absolute=1.9"],
        ["stages.trajectories.accept.absolute=1000"],
        ["stages.trajectories.select.criterion=random"],
        ["stages.trajectories.branches=8"],
    ):
        outcome = shared.start(sets=sets).wait()
        assert outcome.status == 0, outcome.message()
        assert outcome.finished()["trajectories"]["computed"] == 200
        bought.append(len(shared.questions()) - sum(bought))
        spend = outcome.finished()["trajectories"]["spend"]["bought"]
        assert outcome.finished()["trajectories"]["paid"]["bought"] == 6 * bought[-1] < spend
    assert set(Counter(shared.questions()).values()) == {1}, "an answer that was there was asked for again"
    assert bought[1] == 0, "a stricter rule needs nothing new"
    assert 0 < bought[2] < bought[0]
    names = ("first", "a stricter rule", "no rule", "a random choice", "8 branches")
    told = dict(zip(names, bought, strict=True))
    print(f"questions that had to be asked: {told}; fates at first: {first.finished()['trajectories']['fates']}")
