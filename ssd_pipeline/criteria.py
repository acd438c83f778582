"""What orders the branches of one decision. The lowest value is chosen; ties go to the lowest branch.

All criteria stand in the dict at the end: a function of one candidate, and whether it needs a student's scores. A
candidate whose perplexity is undefined (no token to judge yet) comes last. This file does not know how candidates
are sampled, scored or accepted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from ssd_pipeline.errors import RowError
from ssd_pipeline.stage import Params

Name = Annotated[
    Literal["perplexity", "highest", "random", "first", "longest", "shortest"],
    Field(description="perplexity takes the lowest; the others are controls"),
]


class Select(Params):
    """Which of the branches is accepted."""

    criterion: Name = "perplexity"
    scope: Literal["chunk", "trajectory"] = Field(
        "chunk", description="the span of perplexity and highest: the branch alone, or the response up to its end"
    )


@dataclass(frozen=True)
class Candidate:
    """One branch as a criterion sees it.

    `tokens`: the teacher's. `chunk`, `trajectory`: the student's perplexity of the branch and of the response up to
    its end, None without a student or without a token. `draw`: a number in [0, 1) hashed from the place of the branch.
    """

    branch: int
    tokens: int
    chunk: float | None
    trajectory: float | None
    draw: float


def perplexity_of(logprobs: Sequence[float]) -> float | None:
    """exp(-mean of natural log-probabilities); None without tokens, infinity beyond the range of a float.

    Raises RowError when a log-probability is not a number.
    """
    if not logprobs:
        return None
    nll = -math.fsum(logprobs) / len(logprobs)
    if math.isnan(nll):
        raise RowError("the student gave a log-probability that is not a number")
    return math.exp(nll) if nll < 709 else math.inf


def perplexity(candidate: Candidate, select: Select) -> float:
    """exp(mean NLL) of the student over the scope: Gen-SSD (arXiv 2604.02819)."""
    measured = getattr(candidate, select.scope)
    return math.inf if measured is None else measured


def highest(candidate: Candidate, select: Select) -> float:
    """Minus the perplexity: the sign check. If this trains as well, the student's choice explains nothing."""
    measured = getattr(candidate, select.scope)
    return math.inf if measured is None else -measured


def random(candidate: Candidate, select: Select) -> float:
    """A hashed draw: separates "more samples" from "the student's choice"."""
    return candidate.draw


def first(candidate: Candidate, select: Select) -> float:
    """The branch's index."""
    return candidate.branch


def longest(candidate: Candidate, select: Select) -> float:
    """Minus the number of teacher tokens: a choice without a student."""
    return -candidate.tokens


def shortest(candidate: Candidate, select: Select) -> float:
    """The number of teacher tokens: low perplexity can be mere shortness."""
    return candidate.tokens


@dataclass(frozen=True)
class Criterion:
    """`value`: lower is better. `scores`: it needs a student."""

    value: Callable[[Candidate, Select], float]
    scores: bool = False


CRITERIA = {
    "perplexity": Criterion(perplexity, scores=True),
    "highest": Criterion(highest, scores=True),
    "random": Criterion(random),
    "first": Criterion(first),
    "longest": Criterion(longest),
    "shortest": Criterion(shortest),
}
