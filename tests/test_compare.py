"""compare: pairs by problem, whatever the order, and says how many pairs there are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakes.context import Context, finished

from ssd_pipeline.errors import RunError
from ssd_pipeline.stages.compare import CompareParams, compare


def row(uuid: str | None, greedy: str | None, *sampled: str, problem: str = "p") -> dict:
    said = [("greedy", v) for v in [greedy] if v] + [("sampled", v) for v in sampled]
    solutions = [{"mode": m, "verdict": v, "tokens": 10, "finish": "eos", "text": "t"} for m, v in said]
    return {"uuid": uuid, "problem": problem, "solutions": solutions}


def run(tmp_path: Path, baseline: str = "before", kind: str = "evaluate", **inputs: list[dict]):
    made = [replace(finished(tmp_path / name, name, rows), kind=kind) for name, rows in inputs.items()]
    ctx = Context(tmp_path / "result", inputs=made)
    said = compare(CompareParams(baseline=baseline), ctx)
    assert ctx.rows() == said["table"]
    return said


def test_differences_are_taken_problem_by_problem(tmp_path):
    before = [
        row("a", "correct"),
        row("b", "incorrect"),
        row("c", "incorrect"),
        row("d", "correct"),
        row("e", "no_answer"),
    ]
    after = [
        row("e", "correct"),
        row("d", "incorrect"),
        row("c", "incorrect"),
        row("b", "correct"),
        row("a", "correct"),
    ]
    said = run(tmp_path, before=before, after=after)
    base, other = said["table"]
    assert (base["position"], base["baseline"], base["accuracy"], base["paired"]) == (0, True, 0.4, None)
    assert (other["position"], other["mode"], other["accuracy"], other["paired"]) == (1, "greedy", 0.6, 5)
    assert other["difference"] == pytest.approx(0.2)
    assert (other["difference_low"], other["difference_high"]) == pytest.approx((-0.53335, 0.93335), abs=1e-5)
    assert (other["better"], other["worse"]) == (2, 1)
    assert said["problems"] == [5, 5]
    assert "before" not in repr(said["table"])


def test_samples_are_averaged_within_a_problem_and_errors_left_out(tmp_path):
    before = [row("a", None, "correct", "incorrect"), row("b", None, "incorrect", "incorrect"), row("c", None, "error")]
    after = [row("a", None, "correct", "error"), row("b", None, "correct", "incorrect"), row("c", None, "correct")]
    other = run(tmp_path, before=before, after=after)["table"][1]
    assert (other["mode"], other["paired"], other["difference"], other["better"]) == ("sampled", 2, 0.5, 2)
    assert other["accuracy"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert other["errors"] == 1


def test_only_common_problems_are_paired_and_their_number_is_said(tmp_path):
    before = [row("a", "correct"), row("b", "incorrect"), row("c", "incorrect")]
    after = [row("b", "correct"), row("c", "correct"), row("z", "incorrect")]
    said = run(tmp_path, before=before, after=after)
    assert said["in_common_with_baseline"] == [3, 2]
    assert said["table"][1]["paired"] == 2
    assert said["table"][1]["difference"] == 1


def test_a_mode_that_the_baseline_lacks_has_no_difference(tmp_path):
    said = run(tmp_path, before=[row("a", "correct")], after=[row("a", None, "correct")])
    assert (said["table"][1]["paired"], said["table"][1]["difference"]) == (0, None)


def test_equal_rows_pair_by_their_order_and_statements_stand_in_for_a_missing_uuid(tmp_path):
    before = [row(None, "correct"), row(None, "incorrect"), row(None, "correct", problem="q")]
    after = [row(None, "correct", problem="q"), row(None, "correct"), row(None, "correct")]
    other = run(tmp_path, before=before, after=after)["table"][1]
    assert (other["paired"], other["better"], other["worse"]) == (3, 1, 0)


def test_a_problem_that_could_not_be_asked_counts_as_an_error_of_each_mode(tmp_path):
    before = [row("a", "correct", "correct"), {"uuid": "b", "problem": "p", "solutions": None}]
    table = run(tmp_path, before=before, after=before)["table"]
    assert [(r["mode"], r["errors"], r["count"]) for r in table[:2]] == [("greedy", 1, 1), ("sampled", 1, 1)]


def test_evaluations_without_a_common_problem_or_of_another_kind_are_refused(tmp_path):
    with pytest.raises(RunError, match="after and before have no problem in common"):
        run(tmp_path / "1", before=[row("a", "correct")], after=[row("b", "correct")])
    with pytest.raises(RunError, match="before is not an evaluation"):
        run(tmp_path / "2", kind="verify_answers", before=[row("a", "correct")], after=[row("a", "correct")])
