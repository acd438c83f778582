"""Means over runs and problems against values worked out by hand and printed tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd_pipeline.crossed import crossed, t_quantile, t_within
from ssd_pipeline.stages.compare import difference


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (6, 2.44691), (9, 2.26216), (30, 2.04227), (120, 1.97993)],
)
def test_quantiles_of_student_are_those_of_the_printed_tables(freedom, quantile):
    assert t_quantile(freedom) == pytest.approx(quantile, rel=3e-6)


def test_crossed_by_hand():
    # two runs, three problems: means of runs 1/3 and 1, of problems 1, 1/2, 1/2; mean 2/3
    # runs: residual sums -1, 1: 2 * 2/1 / 36 = 1/9; problems: 2/3, -1/3, -1/3: 6/9 * 3/2 / 36 = 1/36
    # each number: 4 of 1/3 and 2 of -2/3: 12/9 * 6/5 / 36 = 2/45; together 1/9 + 1/36 - 2/45, below 1/9
    interval = crossed([{"a": 1.0, "b": 0.0, "c": 0.0}, {"a": 1.0, "b": 1.0, "c": 1.0}])
    assert interval.mean == pytest.approx(2 / 3)
    assert interval.high - interval.mean == pytest.approx(12.7062 / 3, rel=1e-5)
    # four runs, two problems: the sum of both, less what both count
    runs = [{"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 0.0}]
    variance = (0.1875 / 3 / 4, (1.5**2 + 1.5**2) * 2 / 64, (5 * 0.375**2 + 3 * 0.625**2) * 8 / 7 / 64)
    told = crossed(runs)
    assert told.mean == 0.625
    assert told.high - told.mean == pytest.approx(
        12.7062 * max(variance[0] + variance[1] - variance[2], *variance[:2]) ** 0.5, rel=1e-5
    )


def test_crossed_with_one_number_in_each_run_is_the_t_interval_over_runs():
    told = crossed([{"a": 1.0}, {"b": 2.0}, {"c": 4.0}])
    assert (told.mean, told.high - told.mean) == pytest.approx((7 / 3, 4.30265 * (7 / 3 / 3) ** 0.5), rel=1e-5)


def test_crossed_says_nothing_of_one_run_or_one_problem():
    assert crossed([{"a": 1.0, "b": 0.0}]) is None
    assert crossed([{"a": 1.0}, {"a": 0.0}]) is None
    assert crossed([{}, {}]) is None


@given(st.lists(st.lists(st.booleans(), min_size=2, max_size=8), min_size=2, max_size=6))
def test_crossed_is_never_narrower_than_the_spread_over_runs(table):
    width = min(map(len, table))
    runs = [dict(enumerate(map(float, row[:width]))) for row in table]
    means = [sum(row.values()) / width for row in runs]
    told, over_runs = crossed(runs), crossed([{i: m} for i, m in enumerate(means)])
    if over_runs is None:  # no spread over runs is narrower than any
        return
    assert told.mean == pytest.approx(over_runs.mean)
    assert told.high - told.mean >= over_runs.high - over_runs.mean - 1e-9


@pytest.mark.parametrize(
    ("t", "freedom", "p"), [(1.0, 1, 0.5), (2.92, 2, 0.1), (3.707, 6, 0.01), (2.0, 3, 0.1393), (0.0, 5, 1)]
)
def test_p_values_are_those_of_the_printed_tables(t, freedom, p):
    assert 1 - t_within(t, freedom) == pytest.approx(p, rel=2e-3)


def test_a_mean_without_any_spread_is_not_certain():
    assert crossed([{"a": 1.0, "b": 1.0}] * 2) is None
    assert difference([{"a": 1.0, "b": 1.0}] * 2)["p"] == 2 / 2**4


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6))
def test_the_p_value_is_below_a_twentieth_where_the_interval_leaves_0_out(values):
    told = crossed([{i: value} for i, value in enumerate(values)])
    if told is None:
        assert max(values) - min(values) < 1e-100
    elif told.low > 1e-6 or told.high < -1e-6:
        assert told.p <= 0.05
    elif told.low < -1e-6 and told.high > 1e-6:
        assert told.p >= 0.05
