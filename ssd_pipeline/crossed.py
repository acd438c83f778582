"""Means over several runs on the same problems: how far the choice of both may have moved them.

A run is one seed: other training problems, samples and initialisations. Its numbers move together, and so do those of
one problem over all runs; counting all of them as independent would make every interval far too short. What the runs
share (the models they begin with, the set of test problems as a whole) no interval here covers. This file knows numbers
only.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from ssd_pipeline.intervals import Z


@dataclass(frozen=True)
class Crossed:
    """A mean, its 95% interval, and the chance `p` of one at least as far from 0, were it 0 in truth."""

    mean: float
    low: float
    high: float
    p: float


def crossed(runs: Sequence[Mapping[Hashable, float]]) -> Crossed | None:
    """The mean of numbers that belong to a run and to a problem each, both drawn by chance; None below two runs or two
    problems, or where all are alike, of which no spread is known. A run may lack problems.

    Mean ± t √V with V = V_runs + V_problems - V_both, each the variance of the mean under clustering by runs, by
    problems and by neither, with the factor n/(n-1) of its n clusters (Cameron, Gelbach and Miller 2011, J. Bus. Econ.
    Stat. 29:238, eq. 2.10), and at least the larger of the first two; t has (the smaller number of clusters) - 1
    degrees of freedom. With one number in each run it is the t interval over runs.
    """
    values = [(run, problem, value) for run, row in enumerate(runs) for problem, value in row.items()]
    if not values:
        return None
    mean = math.fsum(value for *_, value in values) / len(values)
    by_run: dict[int, float] = {}
    by_problem: dict[Hashable, float] = {}
    for run, problem, value in values:
        by_run[run] = by_run.get(run, 0.0) + value - mean
        by_problem[problem] = by_problem.get(problem, 0.0) + value - mean
    freedom = min(len(by_run), len(by_problem)) - 1
    if freedom < 1:
        return None
    clusters = ([*by_run.values()], [*by_problem.values()], [value - mean for *_, value in values])
    of_runs, of_problems, of_both = (
        math.fsum(c * c for c in sums) * len(sums) / (len(sums) - 1) / len(values) ** 2 for sums in clusters
    )
    error = math.sqrt(max(of_runs + of_problems - of_both, of_runs, of_problems))
    if not error:
        return None
    half = t_quantile(freedom) * error
    return Crossed(mean, mean - half, mean + half, 1 - t_within(abs(mean) / error, freedom))


def t_quantile(freedom: int) -> float:
    """The 97.5% quantile of Student's t, by bisection of P(|T| < t) = 0.95."""
    low, high = Z, 13.0  # 12.71 at one degree of freedom
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, freedom) < 0.95 else (low, middle)
    return low


def t_within(t: float, freedom: int) -> float:
    """P(|T| < t) of Student's t for a whole number of degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term = total = cosine if odd and freedom > 1 else float(not odd)
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
