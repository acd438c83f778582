"""Intervals and p-values against values worked out by hand."""

from __future__ import annotations

import itertools
import math
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


@pytest.mark.parametrize(
    ("better", "worse", "p"),  # scipy 1.17.1: binomtest(better, better + worse).pvalue
    [
        (10_150, 9_850, 0.034491372609841475),
        (10_500, 9_500, 1.6011093401587764e-12),
        (3_000, 2_800, 0.00896943600119357),
        (1_000, 0, 1.8665272370064378e-301),
    ],
)
def test_p_values_of_many_pairs_are_those_of_scipy(better, worse, p):
    assert p_value([1] * better + [-1] * worse + [0] * 100) == pytest.approx(p, rel=1e-12)


def test_fine_differences_of_many_problems_are_neither_coarsened_nor_slow():
    """Eight samples for each of 20,000 problems: exact, and so near to the normal limit; rounding to a grid was not."""
    fine = [((i * 37) % 17 - 8 + (i % 13 == 0)) / 8 for i in range(20_000)]
    limit = math.erfc(abs(math.fsum(fine)) / math.sqrt(2 * math.fsum(d * d for d in fine)))
    assert 0.001 < limit < 0.1
    assert p_value(fine) == pytest.approx(limit, rel=0.02)
    uneven = [d * 8 / (7 + i % 50) for i, d in enumerate(fine)]  # no common denominator worth having
    for some in (uneven[:400], uneven * 2):
        limit = math.erfc(abs(math.fsum(some)) / math.sqrt(2 * math.fsum(d * d for d in some)))
        assert p_value(some) == pytest.approx(limit, rel=0.02)
