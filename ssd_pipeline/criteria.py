"""What orders the branches of one decision. The best value is chosen; ties go to the lowest branch.

All criteria stand in the dict below: a function of one candidate, which of its values are better, and what it needs of
the student. A new one is a function and a line there. A candidate whose value is undefined (no token to judge yet)
comes last. The end token is in no span, so that no branch is chosen for ending. What `loops` finds is no candidate at
all. This file does not know how candidates are sampled, scored or accepted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from ssd_pipeline.errors import RowError
from ssd_pipeline.stage import Params

RANK_CAP = 100


class Told(NamedTuple):
    """What the student says of one of its tokens. `logprob`: natural; `rank`: 1 is the most probable token, 0 if not
    asked for; `place`: which token of its chunk it is, from 0."""

    logprob: float
    rank: int
    place: int


@dataclass(frozen=True)
class Candidate:
    """One branch as a criterion sees it; what a criterion did not ask for is empty.

    `tokens`: the teacher's. `draw`: a number in [0, 1) hashed from the place of the branch. `span`: the student's
    tokens over the scope, those before a short branch included. `local`: mean log-probabilities of the chunks of the
    scope, each given the prompt and a few chunks before it alone. `answer`, `question`: log-probabilities of the
    reference answer's tokens after the response with this branch, and after the prompt alone.
    """

    branch: int
    tokens: int
    draw: float
    span: Sequence[Told] = ()
    local: Sequence[float] = ()
    answer: Sequence[float] = ()
    question: Sequence[float] = ()


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


def perplexity(candidate: Candidate, select: Select) -> float | None:
    """exp(mean NLL) of the span: Gen-SSD (arXiv 2604.02819); its logarithm is GRAPE's (2502.04194). `highest` is the
    sign check: if that trains as well, the student's choice explains nothing."""
    return perplexity_of([told.logprob for told in candidate.span])


def rsr(candidate: Candidate, select: Select) -> float | None:
    """Rank-surprisal ratio, sum min(rank, 100) / max(sum NLL, 1e-12) over the span (arXiv 2601.14249): low for text
    that is improbable to the student and yet near the top of what it would say."""
    surprisal = -math.fsum(told.logprob for told in candidate.span)
    if not candidate.span or math.isinf(surprisal):
        return None
    return sum(min(told.rank, RANK_CAP) for told in candidate.span) / max(surprisal, 1e-12)


def drop(candidate: Candidate, select: Select) -> float | None:
    """Mean log-probability of the span without the first `drop_tokens` of each chunk (arXiv 2604.06834): the first
    tokens of a step tell which way it goes, not whether it can be followed."""
    kept = [told.logprob for told in candidate.span if told.place >= select.drop_tokens]
    return fmean(kept) if kept else None


def min_token(candidate: Candidate, select: Select) -> float | None:
    """The least probability of a token of the span (arXiv 2509.22230, where at least 0.01 is acceptable)."""
    return math.exp(min(told.logprob for told in candidate.span)) if candidate.span else None


def lalp(candidate: Candidate, select: Select) -> float | None:
    """Local average log-probability: mean over chunks of the mean log-probability of the chunk's tokens, given the
    prompt and the `local_chunks` chunks before it alone (arXiv 2510.03988, where steps stand for our chunks)."""
    return fmean(candidate.local) if candidate.local else None


def answer_gain(candidate: Candidate, select: Select) -> float | None:
    """PPL(answer | question, text) / PPL(answer | question), the rationale's difficulty of MoRSD (arXiv 2509.23574):
    below 1 where the text brings the student nearer to the reference answer."""
    if not candidate.answer or not candidate.question:
        return None
    nearer = fmean(candidate.question) - fmean(candidate.answer)
    return math.exp(nearer) if nearer < 709 else math.inf


def answer_probability(candidate: Candidate, select: Select) -> float | None:
    """exp(mean log-probability of the reference answer's tokens after the text): CoRD's score (arXiv 2605.02290)."""
    return math.exp(fmean(candidate.answer)) if candidate.answer else None


def random(candidate: Candidate, select: Select) -> float:
    """A hashed draw: separates "more samples" from "the student's choice"."""
    return candidate.draw


def first(candidate: Candidate, select: Select) -> float:
    """The branch's index."""
    return candidate.branch


def length(candidate: Candidate, select: Select) -> float:
    """The number of teacher tokens: a choice without a student; low perplexity can be mere length or shortness."""
    return candidate.tokens


@dataclass(frozen=True)
class Criterion:
    """`better`: which values. `needs`: what the student is asked for, None where no student is needed. All need its
    pass over the branch, `ranks` takes more of that pass; `local` and `answer` are a pass more."""

    value: Callable[[Candidate, Select], float | None]
    better: Literal["low", "high"]
    needs: Literal["scores", "ranks", "local", "answer"] | None = None

    def order(self, value: float | None) -> float:
        """A number that is lower where the value is better; infinity for an undefined one."""
        if value is None or math.isnan(value):
            return math.inf
        return value if self.better == "low" else -value


CRITERIA = {
    "perplexity": Criterion(perplexity, "low", "scores"),
    "highest": Criterion(perplexity, "high", "scores"),
    "rsr": Criterion(rsr, "low", "ranks"),
    "drop": Criterion(drop, "high", "scores"),
    "min_token": Criterion(min_token, "high", "scores"),
    "lalp": Criterion(lalp, "high", "local"),
    "answer_gain": Criterion(answer_gain, "low", "answer"),
    "answer_probability": Criterion(answer_probability, "high", "answer"),
    "random": Criterion(random, "low"),
    "first": Criterion(first, "low"),
    "longest": Criterion(length, "high"),
    "shortest": Criterion(length, "low"),
}
if TYPE_CHECKING:
    CriterionName = str
else:
    CriterionName = Literal[*CRITERIA]


class Select(Params):
    """Which of the branches is accepted."""

    criterion: CriterionName = Field("perplexity", description="what branches are compared by; see docs/method.md")
    scope: Literal["chunk", "trajectory"] = Field(
        "chunk", description="what the student's criteria look at: the branch alone, or the response up to its end"
    )
    min_scored_tokens: int = Field(
        16, ge=0, le=4096, description="a shorter branch is scored with the response's tokens before it, up to so many"
    )
    loop_words: int = Field(
        0,
        ge=0,
        le=1000,
        description="a branch is a loop if every run of so many words in it stands twice in the text; 0 is off",
    )
    drop_tokens: int = Field(2, ge=0, le=1000, description="drop: how many tokens of each chunk are passed over")
    local_chunks: int = Field(4, ge=0, le=1000, description="lalp: how many chunks before a chunk the student sees")
    cue: str = Field("\n\nFinal answer: ", description="answer criteria: what stands between text and answer")


def loops(before: str, text: str, words: int) -> bool:
    """Does `text` say again what was written: does every run of `words` words in it stand twice in `before + text`?

    Words are what white space parts; of a shorter text the last run of the whole is looked at. 0 words find no loop.
    """
    said, start = (before + text).split(), len(before.split())
    if not words or len(said) < words or len(said) == start:
        return False
    joined = f" {' '.join(said)} "
    ends = range(min(start + words, len(said)), len(said) + 1)
    return all(joined.find(run) < joined.rfind(run) for run in (f" {' '.join(said[e - words : e])} " for e in ends))
