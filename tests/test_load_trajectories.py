"""load_trajectories with real files and the Hub's true shape of an open trace set: rows, errors, cut texts, parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.context import Context
from fakes.hub import FakeHub
from fakes.hub_client import at_home

from ssd_pipeline import recipe
from ssd_pipeline.errors import RunError, UserErrors
from ssd_pipeline.stages import KINDS
from ssd_pipeline.stages.load_trajectories import STAGE, LoadTrajectories

OPENR1 = [  # the columns of open-r1/OpenR1-Math-220k that are used, and some that are not
    {
        "problem": f"What is {i} + 1?",
        "solution": "by hand",
        "answer": str(i + 1),
        "generations": [f"<think>{i}</think> \\boxed{{{i + 1}}}", f"hm \\boxed{{{i}}}", "and then"][: 2 + i % 2],
        "is_reasoning_complete": [True, True, False][: 2 + i % 2],
        "correctness_math_verify": [True, False, False][: 2 + i % 2],
        "uuid": f"theirs-{i}",
    }
    for i in range(4)
]
CARD = b"""---
configs:
- {config_name: all, data_files: [{split: train, path: all/train-*}]}
- {config_name: default, data_files: [{split: train, path: data/train-*}]}
---
"""
TRUE_COLUMNS = {
    "problem": "problem",
    "answer": "answer",
    "solution": "generations",
    "complete": "is_reasoning_complete",
}


def load(tmp_path: Path, rows: list[dict], **params: Any) -> tuple[list[dict], dict]:
    path = tmp_path / "traces.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    context = Context(tmp_path / f"out{len(list(tmp_path.iterdir()))}")
    said = LoadTrajectories.model_validate({"file": str(path), "columns": TRUE_COLUMNS, **params})
    told = dict(STAGE.run(said, context))
    return context.rows(), told


def test_each_solution_is_a_row_and_all_of_a_problem_share_its_uuid(tmp_path: Path) -> None:
    rows, told = load(tmp_path, OPENR1)
    assert [r["candidate"] for r in rows] == [0, 1, 0, 1, 2, 0, 1, 0, 1, 2]
    assert len({r["uuid"] for r in rows}) == 4
    assert [r["solution"] for r in rows[:2]] == OPENR1[0]["generations"]
    assert [r["fate"] for r in rows[2:5]] == ["accepted", "accepted", "too_long"]
    assert told == {"rows": 10, "fates": {"accepted": 8, "too_long": 2}}


def test_one_text_a_row_needs_no_list(tmp_path: Path) -> None:
    rows, _ = load(tmp_path, OPENR1, columns={"solution": "solution"})
    assert [r["solution"] for r in rows] == ["by hand"] * 4


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, "solution 1 is missing"),
        ([], "solution 1 is list, not text"),
        (["", "ok"], "solution 1 is missing"),
        ([3], "solution 1 is int, not text"),
        (["\ud800"], "solution 1 is not valid Unicode"),
        (["x" * 1_000_001], "solution 1 is longer than 1,000,000 bytes"),
    ],
)
def test_what_cannot_be_used_is_kept_with_its_reason(tmp_path: Path, given: Any, says: str) -> None:
    odd = {"problem": "p", "answer": "1", "generations": given, "is_reasoning_complete": [True]}
    rows, _ = load(tmp_path, [odd, *OPENR1])
    assert rows[0]["error"] == f"row 1: {says}"
    assert (rows[0]["solution"], rows[0]["fate"]) == (None, "error")


def test_parts_and_limits_count_problems(tmp_path: Path) -> None:
    many = [{**OPENR1[0], "problem": f"What is {i}?"} for i in range(60)]
    parts = [load(tmp_path, many, holdout={"part": part, "of": 2})[0] for part in (1, 2)]
    statements = [{r["problem"] for r in rows} for rows in parts]
    assert not statements[0] & statements[1]
    assert len(statements[0] | statements[1]) == 60
    assert len(load(tmp_path, OPENR1, limit=2)[0]) == 5


def test_when_nothing_can_be_used_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="none of 1 solutions can be used"):
        load(tmp_path, [{"problem": "p", "answer": "1", "generations": None, "is_reasoning_complete": None}])


def test_the_hub_is_read_by_its_true_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.Table.from_pylist(OPENR1), tmp_path / "x.parquet")
    with FakeHub() as hub, at_home(hub, tmp_path / "home", monkeypatch, None):
        commit = hub.add(
            "open-r1/OpenR1-Math-220k",
            {"README.md": CARD, "data/train-00000-of-00001.parquet": (tmp_path / "x.parquet").read_bytes()},
        )
        context = Context(tmp_path / "out", revisions={"open-r1/OpenR1-Math-220k": commit})
        said = recipe.load(Path(__file__).parents[1] / "recipes" / "from_hub.yaml", KINDS).stages["candidates"].params
        STAGE.run(said, context)
        assert len(context.rows()) == 10


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("file: t.jsonl, columns: {solution: nope}", "t.jsonl has no column nope; it has: problem"),
        ("file: t.jsonl, dataset: a/b", "exactly one of dataset and file is wanted"),
        ("columns: {}", "exactly one of dataset and file is wanted"),
        ("file: t.jsonl, split: x", "goes with `dataset` only"),
        ("file: t.jsonl, limit: 0", "at least 1"),
        ("file: t.jsonl, columns: {answer: null, solution: solution, complete: 3}", "text"),
    ],
)
def test_mistakes_are_told_before_anything_runs(tmp_path: Path, said: str, says: str) -> None:
    (tmp_path / "t.jsonl").write_text('{"problem": "p", "answer": "1", "solution": "s"}\n')
    (tmp_path / "r.yaml").write_text(f"stages:\n  p: {{uses: load_trajectories, {said}}}\n")
    with pytest.raises(UserErrors, match=says):
        recipe.load(tmp_path / "r.yaml", KINDS)
