"""select_trajectories: one row a problem, by each criterion, wherever the rows stand."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from fakes.context import Context, finished
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_pipeline import recipe
from ssd_pipeline.errors import RunError, UserErrors
from ssd_pipeline.stages import KINDS
from ssd_pipeline.stages.select_trajectories import STAGE, SelectParams


def row(uuid: str, solution: str | None, perplexity: float | None, tokens: int | None = 5) -> dict:
    return {"uuid": uuid, "solution": solution, "perplexity": perplexity, "scored_tokens": tokens, "more": f"{uuid}!"}


def select(root: Path, rows: list[dict], **params: Any) -> list[dict]:
    context = Context(root / "out", inputs=[finished(root / "in", "scored", rows)])
    STAGE.run(SelectParams.model_validate(params), context)
    return context.rows()


ROWS = [
    row("a", "x", 2.0, 3),
    row("b", "y", 1.5, 9),
    row("a", "z", 1.1, 7),
    row("b", None, None, None),
    row("a", "w", 3.0, 1),
]


@pytest.mark.parametrize(
    ("criterion", "kept"),
    [("perplexity", "yz"), ("highest", "yw"), ("first", "xy"), ("longest", "yz"), ("shortest", "yw")],
)
def test_each_criterion_keeps_its_row_with_all_columns_in_its_place(tmp_path: Path, criterion: str, kept: str) -> None:
    chosen = select(tmp_path, ROWS, criterion=criterion)
    assert "".join(r["solution"] for r in chosen) == kept
    assert all(r in ROWS for r in chosen)


def test_the_random_control_does_not_depend_on_order_or_scores(tmp_path: Path) -> None:
    rows = [row(f"u{i}", f"s{i}.{j}", float(j)) for i in range(40) for j in range(3)]
    chosen = {r["solution"] for r in select(tmp_path / "a", rows, criterion="random")}
    shuffled = [{**r, "perplexity": 1.0} for r in random.Random(3).sample(rows, len(rows))]
    assert {r["solution"] for r in select(tmp_path / "b", shuffled, criterion="random")} == chosen
    assert len({s[-1] for s in chosen}) == 3


def test_where_all_solutions_failed_one_row_says_so(tmp_path: Path) -> None:
    assert select(tmp_path, [row("a", None, None), row("a", None, None)]) == [row("a", None, None)]


def test_no_rows_is_an_error(tmp_path: Path) -> None:
    context = Context(tmp_path / "out", inputs=[finished(tmp_path / "in", "scored", ROWS, where={"uuid": ("c",)})])
    with pytest.raises(RunError, match="scored gives no rows to choose from"):
        STAGE.run(SelectParams(), context)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(1, 9)), min_size=1, max_size=12))
def test_the_kept_row_is_the_least_of_its_problem(
    tmp_path_factory: pytest.TempPathFactory, given: list[tuple[str, float]]
) -> None:
    rows = [row(uuid, f"{i}", perplexity) for i, (uuid, perplexity) in enumerate(given)]
    chosen = {r["uuid"]: r["perplexity"] for r in select(tmp_path_factory.mktemp("s"), rows)}
    assert chosen == {uuid: min(p for u, p in given if u == uuid) for uuid, _ in given}


@pytest.mark.parametrize(
    ("said", "says"), [("criterion: lowest", "perplexity"), ("student: s", "criterion")], ids=["criterion", "key"]
)
def test_mistakes_are_told_before_anything_runs(tmp_path: Path, said: str, says: str) -> None:
    (tmp_path / "t.jsonl").write_text('{"problem": "p", "answer": "1", "solution": "s"}\n')
    text = "stages:\n  t: {uses: load_trajectories, file: t.jsonl}\n"
    (tmp_path / "r.yaml").write_text(f"{text}  s: {{uses: select_trajectories, input: t, {said}}}\n")
    with pytest.raises(UserErrors, match=says):
        recipe.load(tmp_path / "r.yaml", KINDS)


def test_unscored_rows_are_no_input(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"problem": "p", "answer": "1", "solution": "s"}\n')
    text = "stages:\n  t: {uses: load_trajectories, file: t.jsonl}\n  s: {uses: select_trajectories, input: t}\n"
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UserErrors, match="gives no `perplexity`, `scored_tokens`"):
        recipe.load(tmp_path / "r.yaml", KINDS)
