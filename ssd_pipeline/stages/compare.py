"""compare: evaluations side by side, paired by problem; of a sweep, over its seeds.

Two accuracies on the same problems differ more surely than their two intervals suggest, because hard problems are hard
for both; so the difference to the baseline is taken problem by problem. Evaluations that differ in their seed alone are
one line, paired seed by seed, and its intervals cover the seeds as well as the problems. Beside them stands what the
models were trained on, for an equal accuracy at another price is another result. The rows name evaluations by their
place among the inputs, never by a stage's name, so that a rename stays a hit. This file does not know how an evaluation
was made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from pydantic import Field

from ssd_pipeline.crossed import crossed
from ssd_pipeline.errors import RunError
from ssd_pipeline.intervals import p_value, paired
from ssd_pipeline.names import instance, labels_of, selects, stage_of
from ssd_pipeline.records import Fate, Spend, arrow_schema, column, plain
from ssd_pipeline.stage import DataName, Input, InputName, Params, StageContext, Summary, WholeStage
from ssd_pipeline.stages.evaluate import Score, share_correct

MODES = ("greedy", "sampled")
SEED = "seed"  # the axis of a sweep whose values are repetitions
Problem = tuple[str, int]  # uuid (or the statement, without one) and the place among equal ones
Shares = Mapping[Hashable, float]  # by problem


class CompareParams(Params):
    """What the others are compared to."""

    baseline: InputName | tuple[InputName, ...] = Field(
        min_length=1, description="the input, or inputs, that differences are taken to; of a sweep: scores[arm=kd]"
    )
    data: tuple[DataName, ...] = Field((), description="inputs that models were trained on: their spend and shares")


@dataclass(frozen=True)
class Compared:
    """One mode of one evaluation, or of `runs` that differ in their seed, against one baseline (`against`: its place
    among the baselines, from 0). `position`: the place of the first among the inputs. `by_run`: the accuracy of each.
    `count`: problems with a verdict. `difference`, its 95% interval and `p`, its p-value: accuracy minus the baseline's
    on the `paired` answers that both judged, `difference_by_run` of each run alone; `better` and `worse` count answers.
    All are null for the baseline itself, which `baseline` tells.

    The rest is of the data that the models were trained on, a mean over the runs, null where `data` names none: teacher
    tokens `bought` and `kept`, mean `length` of accepted solutions in them, share `correct` of those with a verdict,
    share `given_up` of all; `perplexity` is the mean over solutions, by whom the last of the data stages asked."""

    position: int
    against: int
    baseline: bool
    runs: int
    mode: str
    accuracy: float | None
    low: float | None
    high: float | None
    by_run: list[float]
    count: int
    tokens: float | None
    no_answer: int
    cut: int
    errors: int
    paired: int | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    difference_by_run: list[float] | None
    p: float | None
    better: int | None
    worse: int | None
    bought: float | None
    kept: float | None
    length: float | None
    correct: float | None
    given_up: float | None
    perplexity: float | None = column(measured=True)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One input: per mode its score, and per mode and problem the share of correct solutions (judged ones alone)."""

    name: str
    position: int
    scores: Mapping[str, Score]
    shares: Mapping[str, Shares]
    problems: frozenset[Problem]


def compare(params: CompareParams, ctx: StageContext) -> Summary:
    """One row per line, mode and baseline. Raises RunError when a baseline shares no problem with what is compared."""
    evaluations = []
    for done, source in enumerate(ctx.inputs):
        if stage_of(source.name) not in params.data:
            evaluations.append(read(source, done))
        ctx.progress(done + 1, len(ctx.inputs))
    lines: dict[str, list[Evaluation]] = {}
    for one in evaluations:
        others = {axis: label for axis, label in labels_of(one.name).items() if axis != SEED}
        lines.setdefault(instance(stage_of(one.name), others), []).append(one)
    baselines = (params.baseline,) if isinstance(params.baseline, str) else params.baseline
    rows = []
    for line in lines.values():
        data = trained_on(line, params.data, ctx.inputs)
        for mode in (mode for mode in MODES if any(mode in one.scores for one in line)):
            for against, selector in enumerate(baselines):
                rows.append(row_of(line, mode, against, selector, evaluations, data))
    ctx.write_rows(arrow_schema(Compared), (plain(row) for row in rows))
    return {"table": [plain(row) for row in rows]}


def read(source: Input, position: int) -> Evaluation:
    """Fold an evaluation's rows; its texts are not kept. Raises RunError for an input of another kind."""
    if source.kind != "evaluate":
        raise RunError(f"{source.name} is not an evaluation but {source.kind}")
    scores: dict[str, Score] = {}
    shares: dict[str, dict[Hashable, float]] = {}
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
    problems = frozenset((n, i) for n, count in seen.items() for i in range(count))
    return Evaluation(source.name, position, scores, shares, problems)


def row_of(
    line: Sequence[Evaluation],
    mode: str,
    against: int,
    selector: str,
    every: Sequence[Evaluation],
    data: Mapping[str, Any],
) -> Compared:
    """One row of the table. Raises RunError as `compare` does."""
    itself = any(selects(selector, one.name) for one in line)
    score = Score([])
    for one in line:
        if mode in one.scores:
            score.join(one.scores[mode])
    said = score.summary()
    shares = [one.shares.get(mode, {}) for one in line]
    said["by_run"] = [fmean(run.values()) for run in shares if run]
    said["count"] = len({problem for run in shares for problem in run})
    if interval := crossed(shares):
        said |= {"low": max(0.0, interval.low), "high": min(1.0, interval.high)}
    paired_with = difference(None if itself else differences(line, mode, selector, every))
    return Compared(line[0].position, against, itself, len(line), mode, **said, **paired_with, **data)


def differences(line: Sequence[Evaluation], mode: str, selector: str, every: Sequence[Evaluation]) -> list[Shares]:
    """For each pair of an evaluation and its baseline: the differences of the problems that both judged."""
    found: list[Shares] = []
    for one in line:
        for base in partners(one, selector, every):
            if not one.problems & base.problems:
                raise RunError(f"{one.name} and {base.name} have no problem in common: evaluate both on the same input")
            mine, theirs = one.shares.get(mode, {}), base.shares.get(mode, {})
            found.append({problem: mine[problem] - theirs[problem] for problem in mine if problem in theirs})
    return found


def partners(one: Evaluation, selector: str, every: Sequence[Evaluation]) -> list[Evaluation]:
    """The baselines of an evaluation: selected, of the same seed (of any, where one of them has none), and like it on
    every other axis that makes a difference to the baseline's stage."""
    mine, fixed = labels_of(one.name), labels_of(selector)
    labels = {base: labels_of(base.name) for base in every if stage_of(base.name) == stage_of(selector)}
    axes = {axis for said in labels.values() for axis in said} - fixed.keys() - {SEED}
    return [
        base
        for base, said in labels.items()
        if selects(selector, base.name)
        and all(said.get(axis) == mine.get(axis) for axis in axes)
        and mine.get(SEED, said.get(SEED)) == said.get(SEED, mine.get(SEED))
    ]


def difference(runs: Sequence[Shares] | None) -> dict[str, Any]:
    """The columns that pair a line with its baseline; null where there is too little to say, or no baseline."""
    if runs is None:
        of_interval = ("difference", "difference_low", "difference_high", "difference_by_run")
        return dict.fromkeys(("paired", *of_interval, "p", "better", "worse"))
    every = [value for run in runs for value in run.values()]
    several = crossed(runs)
    interval = several or paired(every)
    return {
        "paired": len(every),
        "difference": fmean(every) if every else None,
        "difference_low": interval.low if interval else None,
        "difference_high": interval.high if interval else None,
        "difference_by_run": [fmean(run.values()) for run in runs if run],
        "p": several.p if several else p_value(every),
        "better": sum(d > 0 for d in every),
        "worse": sum(d < 0 for d in every),
    }


def trained_on(line: Sequence[Evaluation], data: Sequence[str], inputs: Sequence[Input]) -> dict[str, float | None]:
    """The columns of the data: of each evaluation the data stages that its model comes from, as their records tell."""
    told = []
    for one in line:
        sources = [inputs[place] for place in inputs[one.position].made_from]
        told.append(
            _of_records([source.record for name in data for source in sources if stage_of(source.name) == name])
        )
    return {name: _mean([one[name] for one in told]) for name in told[0]}


def _of_records(records: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The data stages of one model in one: tokens are added, and of the rest the last that tells counts."""
    fates: Mapping[str, int] = {}
    summary: dict[str, Any] = {}
    spends = [record.get("spend", asdict(Spend())) for record in records]
    for record in records:
        fates = record.get("fates") or fates
        summary |= {name: value for name, value in record["summary"].items() if value is not None}
    return {
        "bought": sum(spend["bought"] for spend in spends) if records else None,
        "kept": sum(spend["kept"] for spend in spends) if records else None,
        "length": summary.get("mean_tokens"),
        "correct": summary.get("share_correct"),
        "given_up": fates.get(Fate.given_up, 0) / sum(fates.values()) if fates else None,
        "perplexity": summary.get("mean_perplexity"),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


STAGE = WholeStage(
    "compare",
    version=4,
    params=CompareParams,
    run=compare,
    gives="rows",
    adds=Compared,
    reads=lambda params: ("problem", "solutions"),
    inputs=(1, None),
    gathers=True,
)
