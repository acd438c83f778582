"""verify_answers: does a solution's final answer equal the reference?

Only accepted rows are checked (all rows, where there is no fate); the others get no verdict. A reference that cannot be
read, a time-out or a crash of the checker is the verdict `error` with its reason, never `incorrect`. What counts as the
answer is the rule in answers.py; this file knows neither LaTeX nor processes.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field

from ssd_pipeline.answers import END_OF_THOUGHT, RULES, Rule, extract, same
from ssd_pipeline.errors import RowError, RunError
from ssd_pipeline.records import Fate, Row, Verdict
from ssd_pipeline.stage import Params, RowContext, RowStage, StageContext, Summary


class VerifyParams(Params):
    """How an answer is found and checked."""

    rules: tuple[Rule, ...] = Field(RULES, min_length=1, description="what states an answer; the first that occurs")
    after: str = Field(END_OF_THOUGHT, description="only what follows the last such tag counts, where there is one")
    timeout_s: float = Field(10, gt=0, le=3600, description="for one comparison; then the verdict is error")


@dataclass(frozen=True)
class Checked:
    """What the checker says. `extracted`: the answer as written; `verdict_reason`: why the verdict is an error."""

    verdict: Verdict | None
    extracted: str | None = None
    verdict_reason: str | None = None


async def verify(row: Row, params: VerifyParams, ctx: RowContext) -> Checked:
    """The verdict of one row. Raises RowError (curable) when something outside killed the checker."""
    if row.get("fate") not in (None, Fate.accepted):
        return Checked(None)
    if row["solution"] is None:
        return Checked(Verdict.error, None, "no solution")
    return await check(row["answer"], row["solution"], params, ctx)


async def check(reference: str | None, solution: str, params: VerifyParams, ctx: RowContext) -> Checked:
    """The verdict of one text. Equal strings, which most are, need no worker."""
    found = extract(solution, params.rules, params.after)
    if reference is None or not reference.strip():
        return Checked(Verdict.error, found, "no reference answer")
    if found is None:
        return Checked(Verdict.no_answer)
    if same(reference, found):
        return Checked(Verdict.correct, found)
    try:
        said = await ctx.isolated("ssd_pipeline.answers:equal", reference, found, timeout_s=params.timeout_s)
    except TimeoutError:
        return Checked(Verdict.error, found, "timeout")
    except RowError as error:
        if error.curable:
            raise
        return Checked(Verdict.error, found, str(error))
    verdict, _, reason = said.partition(": ")
    return Checked(Verdict(verdict), found, reason or None)


def checker_there(params: Params, ctx: StageContext) -> None:
    """Raises RunError, before any row, where math-verify is not installed: else every row would be an error."""
    if importlib.util.find_spec("math_verify") is None:
        raise RunError('checking answers needs math-verify: pip install "ssd-pipeline[local]"')


def failed(reason: str) -> Checked:
    """The columns of a row that could not be done."""
    return Checked(Verdict.error, None, reason)


def summarize(params: VerifyParams, rows: Iterator[Row]) -> Summary:
    """Rows by verdict, the share correct among those with one (errors left out), and why the checker failed."""
    verdicts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for row in rows:
        if row["verdict"] is not None:
            verdicts[row["verdict"]] += 1
        if row["verdict_reason"] is not None:
            reasons[row["verdict_reason"]] += 1
    judged = verdicts.total() - verdicts[Verdict.error]
    return {
        "verdicts": dict(sorted(verdicts.items())),
        "share_correct": verdicts[Verdict.correct] / judged if judged else None,
        "errors": dict(reasons.most_common(10)),
    }


STAGE = RowStage(
    "verify_answers",
    version=1,
    params=VerifyParams,
    reads=lambda params: ("answer", "solution", "fate"),
    optional=lambda params: ("fate",),
    adds=Checked,
    run=verify,
    failed=failed,
    prepare=checker_there,
    summarize=summarize,
    extra="local:math_verify",
)
