"""compare: pairs by problem, whatever the order, and says how many pairs there are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakes.context import Context, finished

from ssd_pipeline.crossed import crossed
from ssd_pipeline.errors import RunError
from ssd_pipeline.stages.compare import CompareParams, compare


def row(uuid: str | None, greedy: str | None, *sampled: str, problem: str = "p") -> dict:
    said = [("greedy", v) for v in [greedy] if v] + [("sampled", v) for v in sampled]
    solutions = [{"mode": m, "verdict": v, "tokens": 10, "finish": "eos", "text": "t"} for m, v in said]
    return {"uuid": uuid, "problem": problem, "solutions": solutions}


def run(tmp_path: Path, baseline: str | tuple = "before", kind: str = "evaluate", more=(), **inputs: list[dict]):
    """`more`: inputs beside the evaluations, which all evaluations are made from; they are the data."""
    made = [replace(finished(tmp_path / name, name, rows), kind=kind) for name, rows in inputs.items()]
    above = tuple(range(len(made), len(made) + len(more)))
    ctx = Context(tmp_path / "result", inputs=[*(replace(one, made_from=above) for one in made), *reversed(more)])
    said = compare(CompareParams(baseline=baseline, data=tuple(one.name for one in more)), ctx)
    assert ctx.rows() == said["table"]
    return said


def rows(*verdicts: int) -> list[dict]:
    """One greedy solution for each problem, right (1) or wrong (0)."""
    return [row(str(i), "correct" if right else "incorrect") for i, right in enumerate(verdicts)]


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
    assert (other["better"], other["worse"], other["p"]) == (2, 1, 1.0)
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


def test_runs_of_several_seeds_are_one_line_paired_seed_by_seed(tmp_path):
    said = run(
        tmp_path,
        baseline="scores[arm=kd]",
        **{
            "scores[arm=kd,seed=1]": rows(0, 0, 1, 1),
            "scores[arm=kd,seed=2]": rows(0, 1, 1, 1),
            "scores[arm=gen,seed=2]": rows(1, 1, 1, 1),
            "scores[arm=gen,seed=1]": rows(1, 0, 1, 1),
        },
    )
    kd, gen = said["table"]
    assert (kd["position"], kd["baseline"], kd["runs"], kd["accuracy"], kd["paired"]) == (0, True, 2, 0.625, None)
    assert (gen["position"], gen["baseline"], gen["runs"], gen["accuracy"]) == (2, False, 2, 0.875)
    assert (gen["count"], gen["paired"], gen["difference"], gen["better"], gen["worse"]) == (4, 8, 0.25, 2, 0)
    assert (kd["by_run"], gen["by_run"]) == ([0.5, 0.75], [1.0, 0.75])
    assert (kd["difference_by_run"], gen["difference_by_run"]) == (None, [0.25, 0.25])
    alike = crossed([dict(enumerate((1, 0, 0, 0)))] * 2)
    told = (gen["difference_low"], gen["difference_high"], gen["p"])
    assert told == pytest.approx((alike.low, alike.high, alike.p))


def test_a_baseline_is_found_under_the_same_other_values_and_a_stage_without_seeds_meets_all(tmp_path):
    said = run(
        tmp_path,
        baseline=("scores[arm=kd]", "before"),
        **{
            "before": rows(0, 0, 0, 0),
            "scores[arm=kd,seed=1]": rows(1, 0, 0, 0),
            "scores[arm=kd,seed=2]": rows(1, 1, 0, 0),
            "scores[world=b,arm=kd,seed=1]": rows(1, 1, 1, 0),
            "scores[world=b,arm=gen,seed=1]": rows(1, 1, 1, 1),
            "scores[world=c,arm=gen,seed=1]": rows(1, 1, 1, 1),
        },
    )
    told = {(r["position"], r["against"]): (r["paired"], r["difference"]) for r in said["table"]}
    assert told == {
        (0, 0): (8, -0.375),
        (0, 1): (None, None),
        (1, 0): (None, None),
        (1, 1): (8, 0.375),
        (3, 0): (None, None),
        (3, 1): (4, 0.75),
        (4, 0): (4, 0.25),
        (4, 1): (4, 1),
        (5, 0): (0, None),
        (5, 1): (4, 1),
    }


def test_a_line_that_solves_all_in_every_run_has_an_interval_all_the_same(tmp_path):
    always = {f"s[seed={i}]": rows(1, 1, 1) for i in range(3)}
    (line,) = run(tmp_path, baseline="s", **always)["table"]
    assert line["accuracy"] == line["high"] == 1
    assert 0 < line["low"] < 1


def data(tmp_path: Path, name: str, summary: dict, spend: int = 0, **record: object):
    made = finished(tmp_path / f"data-{name}", name, [{"solution": "x"}])
    spent = {"bought": spend, "kept": spend // 4, "pruned": 0, "scored": 0}
    return replace(made, record={**made.record, "summary": summary, "spend": spent, **record})


def test_what_the_models_were_trained_on_stands_beside_them(tmp_path):
    grown = data(
        tmp_path, "grown", {"mean_tokens": 40.0, "mean_perplexity": 9.0}, 100, fates={"accepted": 3, "given_up": 1}
    )
    more = [
        grown,
        data(tmp_path, "checked", {"share_correct": 0.75}),
        data(tmp_path, "scored", {"mean_perplexity": 1.5}),
    ]
    (line,) = run(tmp_path, more=more, before=rows(1, 0))["table"]
    names = ("bought", "kept", "length", "correct", "given_up", "perplexity")
    assert [line[name] for name in names] == [100, 25, 40, 0.75, 0.25, 1.5]
    (without,) = run(tmp_path / "2", before=rows(1, 0))["table"]
    assert [without[name] for name in names] == [None] * 6
