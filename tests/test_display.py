"""What the closing table says of events that a run may give."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from fakes.bench import Bench

from ssd_pipeline.display import Display
from ssd_pipeline.errors import RunError
from ssd_pipeline.screen import Screen
from ssd_pipeline.stages.compare import CompareParams


@pytest.mark.parametrize(
    ("verdicts", "says"),
    [
        ({"correct": 2, "incorrect": 1}, "2 correct, 1 incorrect, 3 not judged"),
        ({"correct": 6, "error": 0}, "6 correct"),
        ({}, "6 not judged"),
    ],
)
def test_the_rows_of_verify_answers_add_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, verdicts: dict[str, int], says: str
) -> None:
    """A text that did not end by itself has no verdict, and is not left out without a word."""
    event = {"stage": "verified", "kind": "verify_answers", "rows": 6, "computed": 6, "reused": 0, "seconds": 0.1}
    event |= {"fates": {}, "errors": {}, "served": {}, "spend": {}, "paid": {"bought": 0, "cost": None}, "address": "a"}
    monkeypatch.setenv("COLUMNS", "120")
    shown = io.StringIO()
    display = Display(Screen(shown), bench.plan())
    display.listen({"event": "stage_finished", "summary": {"verdicts": verdicts}, **event})
    display.listen({"event": "run_finished", "seconds": 0.1})
    (line,) = (line for line in shown.getvalue().splitlines() if line.startswith("verified  "))
    assert " ".join(line.split()) == f"verified 6 {says} 0.1 s a"


@pytest.mark.parametrize(
    ("kind", "summary"),
    [
        ("evaluate", {"greedy": None}),
        ("evaluate", {"greedy": {"accuracy": "high", "tokens": 1.0}}),
        ("evaluate", {"sampled": {"accuracy": None, "tokens": None, "pass_at": [1]}}),
        ("compare", {"table": [{}]}),
        ("compare", {"table": 3}),
        ("train_sft", {"left_out": {}, "rows": 3}),
        ("train_sft", {"left_out": 3}),
        ("verify_answers", {"verdicts": {"correct": None}}),
        ("load_problems", {"notes": [3]}),
    ],
)
def test_what_a_stranger_s_record_tells_cannot_break_the_tables(bench: Bench, kind: str, summary: dict) -> None:
    plan = bench.plan()
    plan.document.stages["it"] = replace(plan.document.stages["twice"], params=CompareParams(baseline="numbers"))
    event = {"stage": "it", "kind": kind, "rows": 6, "computed": 0, "reused": 6, "seconds": 0.1, "address": "a-1"}
    event |= {"fates": {}, "errors": {}, "served": {}, "spend": {}, "paid": {"bought": 0, "cost": None}}
    display = Display(Screen(io.StringIO()), plan)
    display.listen({"event": "stage_finished", "summary": summary, **event})
    with pytest.raises(
        RunError, match=r"it: what its record says .* \(`ssd rm --force a-1` removes it, --no-hub-cache"
    ):
        display.listen({"event": "run_finished", "seconds": 0.1})
