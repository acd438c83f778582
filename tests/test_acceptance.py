"""Acceptance: limits on paper, and every mistake in a rule."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd_pipeline.acceptance import Accept, quantile, rule
from ssd_pipeline.errors import RunError
from ssd_pipeline.stage import StageRef

PILOT = StageRef(stage="pilot")


def test_absolute_includes_its_limit():
    absolute = rule(Accept(absolute=2.0), ())
    assert absolute.acceptable(2.0, [])
    assert not absolute.acceptable(2.0000001, [])


def test_relative_is_a_multiple_of_the_mean_so_far():
    relative = rule(Accept(relative=1.5, min_chunks=1), ())
    assert relative.acceptable(1000.0, [])  # nothing to compare with
    assert relative.acceptable(4.5, [2.0, 4.0])  # 1.5 * 3
    assert not relative.acceptable(4.6, [2.0, 4.0])
    assert relative.acceptable(4.5, [2.0, None, 4.0])
    assert relative.acceptable(1000.0, [None])
    assert not relative.acceptable(4.6, [2.0, math.inf, 4.0])  # one chunk beyond all numbers is no licence


def test_quantile_is_fixed_by_the_rows_of_another_stage():
    rows = [
        {"chunk_perplexities": [1.0, 3.0]},
        {"chunk_perplexities": None},
        {"chunk_perplexities": [2.0, None, math.inf, 5.0]},
    ]
    made = rule(Accept(quantile=0.5, of=PILOT), iter(rows))
    assert made.limit == 2.5  # of 1 2 3 5
    assert made.acceptable(2.5, [])
    assert not made.acceptable(2.6, [])


@pytest.mark.parametrize("rows", [[], [{"chunk_perplexities": None}], [{"chunk_perplexities": [None]}]])
def test_a_quantile_of_nothing_stops_the_run(rows):
    with pytest.raises(RunError, match="pilot holds no chunk perplexities"):
        rule(Accept(quantile=0.5, of=PILOT), rows)


def test_silent_before_min_chunks_and_about_the_undefined():
    late = rule(Accept(absolute=1.5, min_chunks=2), ())
    assert late.acceptable(9.0, [1.0])
    assert not late.acceptable(9.0, [1.0, 1.0])
    assert late.acceptable(None, [1.0, 1.0])


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ({}, [()]),
        ({"absolute": 2.0, "relative": 2.0, "min_chunks": 1}, [()]),
        ({"quantile": 0.9}, [("quantile",)]),
        ({"absolute": 2.0, "of": PILOT}, [("of",)]),
        ({"relative": 1.5}, [("relative",)]),
        ({"absolute": 2.0}, []),
        ({"relative": 1.5, "min_chunks": 1}, []),
        ({"quantile": 0.9, "of": PILOT, "patience": 3}, []),
    ],
)
def test_mistakes(given, keys):
    assert [key for key, _ in Accept(**given).mistakes()] == keys


@given(st.lists(st.floats(1, 1000), min_size=1, max_size=40), st.floats(0, 1))
def test_quantile_is_numpys(values, q):
    assert quantile(values, q) == pytest.approx(float(np.quantile(values, q)))
