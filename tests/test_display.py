"""What the closing table says of events that a run may give."""

from __future__ import annotations

import io

import pytest
from fakes.bench import Bench

from ssd_pipeline.display import Display
from ssd_pipeline.screen import Screen


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
