"""95% intervals for shares of correct answers: how far chance alone may have moved them.

They cover the choice of problems and of samples, and nothing else: not another teacher, seed of training, or data set.
This file knows numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean, variance

GRID = 200_000
WORK = 20_000 * GRID  # pairs times steps that are worth a few seconds
Z = 1.959963984540054  # the 97.5% quantile of the normal distribution


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its 95% interval."""

    mean: float
    low: float
    high: float


def wilson(share: float, count: float) -> Interval:
    """Wilson's score interval for a share of `count` > 0 independent trials (Wilson 1927, JASA 22:209, eq. for p):

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n). Never empty at 0 or 1, where the normal interval is.
    """
    scale = 1 + Z * Z / count
    centre = (share + Z * Z / (2 * count)) / scale
    half = Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count)) / scale
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def clustered(means: Sequence[float], trials: int) -> Interval:
    """The mean over problems of each problem's share of correct samples; samples of one problem are not independent.

    Wilson's interval for the effective number of trials, p(1-p) / (variance of the mean over problems): the number of
    independent trials that would vary as much (Korn and Graubard 1998, Survey Methodology 24:193). At least the number
    of problems when the variance says nothing (all correct, all wrong, one problem), at most `trials`.
    """
    share = fmean(means)
    spread = variance(means) / len(means) if len(means) > 1 else 0.0
    if spread == 0:
        effective = float(len(means) if share in (0, 1) or len(means) == 1 else trials)
    else:
        effective = min(float(trials), share * (1 - share) / spread)
    return wilson(share, effective)


def paired(differences: Sequence[float]) -> Interval | None:
    """The mean of per-problem differences ± z s/√n; None below two problems, of which no spread is known."""
    if len(differences) < 2:
        return None
    mean = fmean(differences)
    half = Z * math.sqrt(variance(differences) / len(differences))
    return Interval(mean, mean - half, mean + half)


def p_value(differences: Sequence[float]) -> float | None:
    """The chance of a mean at least as far from 0, were the two of each pair alike; None without a pair that differs.

    The exact two-sided test over all 2^n signs of the differences (Fisher 1935, The Design of Experiments, 21), which
    holds for shares of any fineness. Where they are -1, 0 and 1 it is McNemar's exact test. Shares without a useful
    common denominator are rounded to GRID steps in all, and what is more than WORK is near enough to the normal limit.
    """
    import numpy as np

    scale = Fraction(math.lcm(*(Fraction(d).limit_denominator(1000).denominator for d in differences)))
    signed = [whole for d in differences if (whole := round(scale * Fraction(d)))]
    if not signed:
        return None
    total = sum(map(abs, signed))
    if len(signed) * min(total, GRID) > WORK:
        return math.erfc(abs(math.fsum(differences)) / math.sqrt(2 * math.fsum(d * d for d in differences)))
    if total > GRID:
        signed = [whole for size in signed if (whole := round(size * GRID / total))]
    total, distance = sum(map(abs, signed)), abs(sum(signed))
    least = (total - distance) // 2  # a subset of sum s has plus signs, so its signed sum is 2s - total
    chances = np.zeros(least + 1)  # of a subset of each sum
    chances[0] = 1
    for size in map(abs, signed):
        chances /= 2
        chances[size:] += chances[:-size].copy()
    return 1.0 if distance == 0 else min(1.0, 2 * float(chances.sum()))
