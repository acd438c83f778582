"""Intervals and p-values against values worked out by hand."""

from __future__ import annotations

import itertools
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd_pipeline.intervals import clustered, p_value, paired, wilson


@pytest.mark.parametrize(
    ("share", "count", "low", "high"),
    [
        (0.5, 10, 0.2366, 0.7634),
        (0.25, 12, 0.0889, 0.5323),
        (0.0, 10, 0.0, 0.2775),
        (1.0, 10, 0.7225, 1.0),
        (0.845, 300, 0.7997, 0.8816),
    ],
)
def test_wilson(share, count, low, high):
    interval = wilson(share, count)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((share, low, high), abs=6e-5)


def test_clustered_samples_count_as_fewer_than_they_are():
    # means 0, .5, .5, 1: variance 1/6, of their mean 1/24; .25 * 24 = 6 effective trials of 8
    interval = clustered([0, 0.5, 0.5, 1], 8)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.5, 0.1876, 0.8124), abs=6e-5)
    # the same four problems, sampled without any spread between them: all eight count
    assert clustered([0.5] * 4, 8) == wilson(0.5, 8)
    # nothing ever correct: no more certain than four problems make it
    assert clustered([0.0] * 4, 8) == wilson(0.0, 4)


def test_one_sample_per_problem_is_nearly_wilson():
    means = [1.0] * 30 + [0.0] * 70
    interval, plain = clustered(means, 100), wilson(0.3, 100)
    assert (interval.low, interval.high) == pytest.approx((plain.low, plain.high), abs=1e-3)


def test_paired_differences():
    interval = paired([1, 0, 0, -1, 1])  # mean .2, s² = .7, half = z √.14
    assert interval is not None
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.2, -0.53335, 0.93335), abs=1e-5)
    assert paired([1.0]) is None
    assert paired([]) is None


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=40))
def test_an_interval_holds_its_mean_and_stays_between_0_and_1(means):
    interval = clustered(means, 4 * len(means))
    assert 0 <= interval.low <= interval.mean + 1e-12
    assert interval.mean - 1e-12 <= interval.high <= 1
    assert interval.low < interval.high


@pytest.mark.parametrize(
    ("better", "worse", "p"),
    [
        (8, 2, 112 / 1024),  # 2 * (1 + 10 + 45) / 2^10
        (10, 0, 2 / 1024),
        (5, 5, 1.0),
        (1, 0, 1.0),
        (59, 121, 4.4e-6),
        (100, 140, 0.01178),
    ],
)
def test_with_right_and_wrong_the_test_is_mcnemars(better, worse, p):
    assert p_value([1] * better + [-1] * worse + [0] * 7) == pytest.approx(p, rel=0.05)
    n = better + worse
    exact = min(1.0, 2 * sum(comb(n, k) for k in range(min(better, worse) + 1)) / 2**n)
    assert p_value([1] * better + [-1] * worse) == pytest.approx(exact, rel=1e-12)


def test_without_a_pair_that_differs_there_is_no_p_value():
    assert p_value([]) is p_value([0.0, 0.0]) is None


@given(st.lists(st.sampled_from([-1, -0.75, -0.5, -1 / 3, 0, 0.25, 2 / 3, 1]), max_size=9))
def test_the_p_value_counts_all_signs(differences):
    differ = [d for d in differences if d]
    seen = abs(sum(differ)) - 1e-9
    signs = itertools.product((1, -1), repeat=len(differ))
    as_far = sum(abs(sum(s * d for s, d in zip(some, differ, strict=True))) >= seen for some in signs)
    assert p_value(differences) == (pytest.approx(as_far / 2 ** len(differ)) if differ else None)


def test_a_thousand_fine_differences_take_no_time_worth_telling():
    differences = [((i * 37) % 64 - 28) / 64 for i in range(1000)]
    assert 0 < p_value(differences) < 1
