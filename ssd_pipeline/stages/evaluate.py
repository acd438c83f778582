"""evaluate: how many problems does one model solve, greedily and when sampled?

Each problem keeps its solutions with their verdicts, so that `compare` can pair them. Greedy decoding shows the model's
usual way, sampling how sure it is of it; both are worth printing. The accuracy leaves out what the checker could not
tell (counted beside it); a text without an answer is not correct, one that was cut at `max_tokens` is judged by what it
says. This file knows neither how a model is run nor how answers are compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from math import comb
from statistics import fmean, median
from typing import Any, Literal

from pydantic import Field

from ssd_pipeline.equality import alike
from ssd_pipeline.errors import RowError
from ssd_pipeline.intervals import clustered
from ssd_pipeline.options import Draws
from ssd_pipeline.records import Row, Spend, Verdict
from ssd_pipeline.stage import Chunk, ModelName, Params, RowContext, RowStage, Sample, Sampling, Summary
from ssd_pipeline.stages.verify_answers import VerifyParams, check, checker_there

Mode = Literal["greedy", "sampled"]


class EvaluateParams(Params):
    """Whom to ask, how often, and how the answers are checked."""

    model: ModelName = Field(description="the model that is measured")
    greedy: bool = Field(True, description="one greedy solution per problem")
    samples: int = Field(0, ge=0, le=1024, description="sampled solutions per problem")
    sampling: Sampling = Field(Sampling(), description="how they are sampled")
    max_tokens: int = Field(4096, ge=1, le=1_000_000, description="a solution is cut here; the model's own tokens")
    check: VerifyParams = Field(VerifyParams(), description="how an answer is found and checked")

    def mistakes(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if not self.greedy and not self.samples:
            yield ("samples",), "nothing to do: `greedy` is off and there are no samples"
        if self.samples > 1 and self.sampling.temperature == 0:
            yield ("sampling", "temperature"), "0 is greedy: all samples would be the same"


@dataclass(frozen=True)
class Solution:
    """One text of the model and what the checker says of it; columns as in verify_answers."""

    mode: str
    text: str
    verdict: Verdict
    extracted: str | None
    verdict_reason: str | None
    tokens: int
    finish: str


@dataclass(frozen=True)
class Evaluated:
    """All solutions of one problem, the greedy one first; or why there are none."""

    solutions: list[Solution] | None
    error: str | None
    spend: Spend | None


async def evaluate(row: Row, params: EvaluateParams, ctx: RowContext) -> Evaluated:
    """Ask the model and check what it says. Raises RowError for a row that came with an error."""
    if row.get("error") is not None:
        raise RowError(row["error"])
    problem: str = row["problem"]
    draws = Draws(seed=ctx.seed, statement=problem, ordinal=ctx.ordinal, take=ctx.take)
    solutions: list[Solution] = []
    if params.greedy:
        solutions += await _solve("greedy", Sampling(temperature=0), (0,), row, params, ctx)
    if params.samples:
        solutions += await _solve("sampled", params.sampling, draws.seeds("", params.samples), row, params, ctx)
    bought = sum(s.tokens for s in solutions)
    ctx.spent(Spend(bought=bought, kept=bought))
    return Evaluated(solutions, None, Spend(bought=bought, kept=bought))


async def _solve(
    mode: Mode, sampling: Sampling, seeds: tuple[int, ...], row: Row, params: EvaluateParams, ctx: RowContext
) -> list[Solution]:
    """One whole solution per seed, checked."""
    prompts = await ctx.prompts(params.model)
    sampler = await ctx.sampler(params.model)
    whole = Chunk(max_tokens=params.max_tokens)
    ask = Sample(prompts.render(row["problem"]), "", whole, sampling, seeds)
    found = []
    for branch in await sampler.sample(ask):
        text = prompts.respond(row["problem"], branch.text)
        said = await check(row["answer"], text, params.check, ctx)
        verdict = said.verdict or Verdict.error
        found.append(Solution(mode, text, verdict, said.extracted, said.verdict_reason, branch.tokens, branch.finish))
    return found


def failed(reason: str) -> Evaluated:
    """The columns of a row that could not be done."""
    return Evaluated(None, reason, None)


# ----------------------------------------------------------------------------------------------- in numbers


@dataclass
class Score:
    """One mode of one evaluation, problem by problem. `means`: per problem, the share of its judged solutions that is
    correct; problems without a judged solution are not in it."""

    means: list[float]
    trials: int = 0
    tokens: int = 0
    solutions: int = 0
    no_answer: int = 0
    cut: int = 0
    errors: int = 0

    def add(self, solutions: Sequence[Row]) -> None:
        """One more problem."""
        mean = share_correct(solutions)
        if mean is not None:
            self.means.append(mean)
        for solution in solutions:
            self.trials += solution["verdict"] != Verdict.error
            self.tokens += solution["tokens"]
            self.no_answer += solution["verdict"] == Verdict.no_answer
            self.errors += solution["verdict"] == Verdict.error
            self.cut += solution["finish"] == "length"
        self.solutions += len(solutions)

    def join(self, other: Score) -> None:
        """All problems of another evaluation too."""
        self.means += other.means
        for count in ("trials", "tokens", "solutions", "no_answer", "cut", "errors"):
            setattr(self, count, getattr(self, count) + getattr(other, count))

    def summary(self) -> dict[str, Any]:
        """Accuracy with its 95% interval (null without any judged solution), problems, mean tokens, and the counts of
        solutions without an answer, cut at the limit, and that could not be judged."""
        interval = clustered(self.means, self.trials) if self.means else None
        return {
            "accuracy": interval and interval.mean,
            "low": interval and interval.low,
            "high": interval and interval.high,
            "count": len(self.means),
            "tokens": self.tokens / self.solutions if self.solutions else None,
            "no_answer": self.no_answer,
            "cut": self.cut,
            "errors": self.errors,
        }


@dataclass
class Several:
    """What several solutions of a problem are worth together: pass@k, maj@k, and how long they are."""

    passed: dict[int, list[float]]
    voted: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def add(self, solutions: Sequence[Row]) -> None:
        """One more problem; solutions that could not be judged are left out."""
        self.lengths += [s["tokens"] for s in solutions]
        judged = [s for s in solutions if s["verdict"] != Verdict.error]
        if judged:
            correct = sum(s["verdict"] == Verdict.correct for s in judged)
            for k, shares in self.passed.items():
                shares.append(pass_at(min(k, len(judged)), correct, len(judged)))
            self.voted.append(majority(judged))

    def summary(self) -> dict[str, Any]:
        """Shares with 95% intervals by k, and the median and the longest length; null without a judged solution."""
        longest = max(self.passed)
        return {
            "pass_at": {str(k): _share(shares) for k, shares in self.passed.items()},
            "maj_at": {str(longest): _share(self.voted)},
            "tokens_median": median(self.lengths) if self.lengths else None,
            "tokens_longest": max(self.lengths, default=None),
        }


def _share(means: Sequence[float]) -> dict[str, float] | None:
    return asdict(clustered(means, len(means))) if means else None


def pass_at(k: int, correct: int, count: int) -> float:
    """The chance that one of k solutions, drawn without replacement from `count` of which `correct` are, is correct:
    1 - C(count - correct, k) / C(count, k) (Chen et al. 2021, arXiv 2107.03374, eq. 1)."""
    return 1 - comb(count - correct, k) / comb(count, k)


def majority(judged: Sequence[Row]) -> float:
    """1 if the answer that most solutions state is correct, 0 if not, and between them for a tie; no answer is no vote.

    All correct answers are one; others are told apart by how they are written, numbers by their value.
    """
    votes = Counter(
        True if s["verdict"] == Verdict.correct else alike(s["extracted"]) for s in judged if s["extracted"] is not None
    )
    most = [answer for answer, count in votes.items() if count == max(votes.values())]
    return (True in most) / len(most) if most else 0.0


def share_correct(solutions: Sequence[Row]) -> float | None:
    """The share of correct solutions among those that could be judged; None if none could."""
    judged = [s["verdict"] == Verdict.correct for s in solutions if s["verdict"] != Verdict.error]
    return fmean(judged) if judged else None


def summarize(params: EvaluateParams, rows: Iterator[Row]) -> Summary:
    """One entry per mode; see Score.summary (with k samples its accuracy is avg@k) and Several.summary. A problem
    without solutions counts as an error of each mode."""
    asked = {"greedy": int(params.greedy), "sampled": params.samples}
    scores = {mode: Score([]) for mode, samples in asked.items() if samples}
    several = {mode: Several({k: [] for k in ks(samples)}) for mode, samples in asked.items() if samples}
    for row in rows:
        for mode, score in scores.items():
            if row["solutions"] is None:
                score.errors += 1
            else:
                solutions = [s for s in row["solutions"] if s["mode"] == mode]
                score.add(solutions)
                several[mode].add(solutions)
    return {
        mode: {
            **score.summary(),
            "share_no_answer": score.no_answer / score.solutions if score.solutions else None,
            **several[mode].summary(),
        }
        for mode, score in scores.items()
    }


def ks(samples: int) -> list[int]:
    """The powers of two up to `samples`, and `samples` itself."""
    return [*(2**i for i in range(samples.bit_length()) if 2**i < samples), samples]


STAGE = RowStage(
    "evaluate",
    version=4,
    params=EvaluateParams,
    reads=lambda params: ("problem", "answer", "error"),
    optional=lambda params: ("error",),
    adds=Evaluated,
    run=evaluate,
    failed=failed,
    random=True,
    seeded_by=("problem",),
    prepare=checker_there,
    summarize=summarize,
    most_tokens=lambda params: params.max_tokens * (params.greedy + params.samples),
    extra="local:math_verify",
)
