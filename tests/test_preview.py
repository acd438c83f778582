"""What a model is asked first, exactly, before anything runs; and what is missing where that cannot be known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ssd_pipeline import looking, planner, runner
from ssd_pipeline.preview import first_prompts
from ssd_pipeline.stages import KINDS
from ssd_pipeline.store.local import Store

RECIPE = """\
prompt: "Solve:\\t{{problem}}"
models: {{teacher: {{path: {model}}}, learned: {{base: teacher, adapter: {{stage: adapter}}}}}}
stages:
  problems: {{uses: load_problems, file: problems.jsonl}}
  trajectories: {{uses: sample_branches, input: problems, teacher: teacher, branches: 1}}
  adapter: {{uses: train_sft, input: trajectories, model: teacher}}
  scores: {{uses: evaluate, input: {tests}, model: learned}}
"""
HOSTILE = "1+1?\x1b[2J\u202e\u2066"


@pytest.fixture
def plan(home: Path, tiny_model: Callable[..., Path]) -> Callable[..., planner.Plan]:
    rows = [{"problem": "", "answer": "1"}, {"problem": HOSTILE, "answer": "2"}, {"problem": "2+2?", "answer": "4"}]
    (home / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def planned(*sets: str, tests: str = "problems", **choice: object) -> planner.Plan:
        (home / "asked.yaml").write_text(RECIPE.format(model=tiny_model(), tests=tests))
        chosen = planner.Choice(**choice)
        return planner.plan(home / "asked.yaml", KINDS, sets=sets, choice=chosen, store=Store(home / "store"))

    return planned


def test_prompts_are_those_that_a_run_asks(plan: Callable[..., planner.Plan], home: Path) -> None:
    loaded = list(first_prompts(plan()))
    assert not (home / "store").exists(), "problems were loaded into memory alone"
    assert [(p.model, p.stage) for p in loaded] == [("teacher", "trajectories"), ("learned", "scores")]
    assert {p.prompt for p in loaded} == {f"<|user|>Solve:\t{HOSTILE}<|assistant|>"}
    runner.run(plan(only=("problems",)))
    assert list(first_prompts(plan())) == loaded, "from the store it is the same"


def test_what_is_missing_is_said(plan: Callable[..., planner.Plan]) -> None:
    teacher, learned = first_prompts(plan(tests="trajectories"))
    assert teacher.prompt
    assert (learned.prompt, learned.missing) == (None, "trajectories is not made yet")
    none = next(first_prompts(plan("stages.trajectories.where={source: [elsewhere]}")))
    assert none.prompt is None
    assert "no problem to ask" in none.missing


def test_invisible_characters_are_shown_and_events_are_exact(
    plan: Callable[..., planner.Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    looking.tell_prompts(plan(), None)
    shown = capsys.readouterr().out
    assert "| <|user|>Solve:\\t1+1?\\x1b[2J\\u202e\\u2066<|assistant|>" in shown
    events: list[dict] = []
    looking.tell_prompts(plan(), events.append)
    assert events[0]["event"] == "prompt"
    assert HOSTILE in events[0]["prompt"]
    assert capsys.readouterr().out == ""
