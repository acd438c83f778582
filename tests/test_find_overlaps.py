"""find_overlaps: what a statement shares with those that are trained on, word by word."""

from __future__ import annotations

import asyncio

import pytest
from fakes.context import Context, finished
from fakes.measuring import RowContext
from hypothesis import given
from hypothesis import strategies as st

from ssd_pipeline.stage import StageRef
from ssd_pipeline.stages.find_overlaps import Overlap, OverlapParams, find, known, runs, summarize

REF = StageRef(stage="problems")


class Against(Context):
    """A context in which one stage is named."""

    def stage(self, ref: StageRef):
        assert ref == REF
        return self.other


def overlap(tmp_path, statement: str | None, *others: str | None, words: int = 3) -> Overlap:
    ctx = Against(tmp_path / "stage")
    ctx.other = finished(tmp_path / "other", "problems", [{"problem": o, "answer": "1"} for o in (*others, "zzz")])
    params = OverlapParams(against=REF, words=words)
    return asyncio.run(find({"problem": statement}, params, RowContext(prepared=known(params, ctx))))


@pytest.mark.parametrize(
    ("statement", "other", "share"),
    [
        ("Leo had five coins", "Leo had five coins", 1.0),
        ("Leo had  FIVE, coins!", "leo had five coins", 1.0),
        ("Leo had five coins", "Then Leo had five apples", 0.5),
        ("Leo had five coins", "Leo had six coins", 0.0),
        ("1+1?", "1 + 1", 1.0),
        ("1+1?", "what is 1+1+1?", 0.0),
        ("two words", "two words more", 0.0),
    ],
)
def test_runs_of_words_are_found_whatever_their_dress(tmp_path, statement, other, share):
    assert overlap(tmp_path, statement, other) == Overlap(share, share > 0)


def test_rows_without_a_statement_have_no_share(tmp_path):
    assert overlap(tmp_path, None, "a b c", None) == Overlap(None, None)


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=30), st.integers(2, 8))
def test_a_statement_shares_every_run_with_a_longer_one_that_holds_it(said, words):
    longer = runs(" ".join(["x", *said, "y"]), words)
    mine = runs(" ".join(said), words)
    assert mine <= longer or len(said) < words
    assert len(mine) <= max(1, len(said) - words + 1)


def test_the_summary_reports_what_was_found():
    rows = [{"overlap": share} for share in (0.0, 0.1, 0.5, 1.0, None)]
    said = summarize(OverlapParams(against=REF), iter(rows))
    assert (said["contaminated"], said["by_half"], said["checked"]) == (3, 2, 4)
    assert said["notes"] == ["3 of 4 statements overlap, 2 by half or more"]
