"""compare: evaluations side by side, paired by problem.

Two accuracies on the same problems differ more surely than their two intervals suggest, because hard problems are hard
for both; so the difference to the baseline is taken problem by problem. The rows name evaluations by their place among
the inputs, never by a stage's name, so that a rename stays a hit. This file does not know how an evaluation was made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field

from ssd_pipeline.errors import RunError
from ssd_pipeline.intervals import paired
from ssd_pipeline.records import arrow_schema, plain
from ssd_pipeline.stage import Input, InputName, Params, StageContext, Summary, WholeStage
from ssd_pipeline.stages.evaluate import Score, share_correct

MODES = ("greedy", "sampled")
Problem = tuple[str, int]  # uuid (or the statement, without one) and the place among equal ones


class CompareParams(Params):
    """What the others are compared to."""

    baseline: InputName = Field(description="the input that differences are taken to")


@dataclass(frozen=True)
class Compared:
    """One mode of one evaluation. `position`: its place among the inputs, from 0. `count`: problems with a verdict.
    `difference` and its 95% interval: accuracy minus the baseline's on the `paired` problems that both judged; `better`
    and `worse` count these problems. All five are null for the baseline itself."""

    position: int
    baseline: bool
    mode: str
    accuracy: float | None
    low: float | None
    high: float | None
    count: int
    tokens: float | None
    no_answer: int
    cut: int
    errors: int
    paired: int | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    better: int | None = None
    worse: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """One input: per mode its score, and per mode and problem the share of correct solutions (judged ones alone)."""

    scores: Mapping[str, Score]
    shares: Mapping[str, Mapping[Problem, float]]
    problems: frozenset[Problem]


def compare(params: CompareParams, ctx: StageContext) -> Summary:
    """One row per input and mode. Raises RunError when the baseline shares no problem with another input."""
    names = [source.name for source in ctx.inputs]
    base = names.index(params.baseline)
    evaluations = []
    for done, source in enumerate(ctx.inputs):
        evaluations.append(read(source))
        ctx.progress(done + 1, len(names))
    common = [len(e.problems & evaluations[base].problems) for e in evaluations]
    if 0 in common:
        raise RunError(
            f"{names[common.index(0)]} and {params.baseline} have no problem in common: evaluate both on the same input"
        )
    rows = [
        row_of(position, base, mode, evaluation, evaluations[base])
        for position, evaluation in enumerate(evaluations)
        for mode in MODES
        if mode in evaluation.scores
    ]
    ctx.write_rows(arrow_schema(Compared), (plain(row) for row in rows))
    return {
        "table": [plain(row) for row in rows],
        "problems": [len(e.problems) for e in evaluations],
        "in_common_with_baseline": common,
    }


def read(source: Input) -> Evaluation:
    """Fold an evaluation's rows; its texts are not kept. Raises RunError for an input of another kind."""
    if source.kind != "evaluate":
        raise RunError(f"{source.name} is not an evaluation but {source.kind}")
    scores: dict[str, Score] = {}
    shares: dict[str, dict[Problem, float]] = {}
    seen: Counter[str] = Counter()
    failures = 0
    for row in source.rows():
        name = row.get("uuid") or row["problem"] or ""
        problem = (name, seen[name])
        seen[name] += 1
        failures += row["solutions"] is None
        for mode in MODES:
            solutions = [s for s in row["solutions"] or () if s["mode"] == mode]
            if solutions:
                scores.setdefault(mode, Score([])).add(solutions)
            share = share_correct(solutions)
            if share is not None:
                shares.setdefault(mode, {})[problem] = share
    for score in scores.values():
        score.errors += failures
    return Evaluation(scores, shares, frozenset((n, i) for n, count in seen.items() for i in range(count)))


def row_of(position: int, base: int, mode: str, evaluation: Evaluation, baseline: Evaluation) -> Compared:
    """One row of the table."""
    alone = Compared(position, position == base, mode, **evaluation.scores[mode].summary())
    if position == base:
        return alone
    mine, theirs = evaluation.shares.get(mode, {}), baseline.shares.get(mode, {})
    differences = [mine[problem] - theirs[problem] for problem in mine if problem in theirs]
    return Compared(**{**vars(alone), **difference(differences)})


def difference(differences: Sequence[float]) -> dict[str, float | int | None]:
    """The columns that pair an evaluation with the baseline; null where there is too little to say."""
    interval = paired(differences)
    return {
        "paired": len(differences),
        "difference": sum(differences) / len(differences) if differences else None,
        "difference_low": interval.low if interval else None,
        "difference_high": interval.high if interval else None,
        "better": sum(d > 0 for d in differences),
        "worse": sum(d < 0 for d in differences),
    }


STAGE = WholeStage(
    "compare",
    version=1,
    params=CompareParams,
    run=compare,
    gives="rows",
    adds=Compared,
    reads=lambda params: ("problem", "solutions"),
    inputs=(2, None),
)
