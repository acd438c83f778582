"""verify_answers: does a solution's final answer equal the reference?

Only accepted rows are checked (all rows, where there is no fate); the others get no verdict. A reference that cannot be
read, a time-out or a crash of the checker is the verdict `error` with its reason, never `incorrect`. A checker can be
wrong, so a row whose answer is not simply the reference is judged a second time, by math-verify called plainly on the
end of the text, and the summary counts where the two differ. What counts as the answer is the rule in answers.py, what
equals it the one in equality.py; this file knows neither LaTeX nor processes.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pydantic import Field

from ssd_pipeline.answers import END_OF_THOUGHT, RULES, Rule, extract
from ssd_pipeline.equality import judged_at_once
from ssd_pipeline.errors import RowError, RunError
from ssd_pipeline.notation import normalise
from ssd_pipeline.records import Fate, Row, Verdict
from ssd_pipeline.stage import Params, RowContext, RowStage, StageContext, Summary

TIMEOUT = "timeout"
NO_REFERENCE, UNREAD_REFERENCE, UNREAD_ANSWER = (
    "no reference answer",
    "reference not parseable",
    "answer not parseable",
)
END = 2_000  # characters of a text that the second way of checking sees


class VerifyParams(Params):
    """How an answer is found and checked."""

    rules: tuple[Rule, ...] = Field(RULES, min_length=1, description="what states an answer; the first that occurs")
    after: str = Field(END_OF_THOUGHT, description="only what follows the last such tag counts, where there is one")
    timeout_s: float = Field(10, gt=0, le=3600, description="for one comparison; then the verdict is error")


@dataclass(frozen=True)
class Checked:
    """What the checker says. `extracted`: the answer as written; `verdict_reason`: why the verdict is an error, or that
    an incorrect answer could not be read. `second_verdict`: math-verify's own; null where it was not asked."""

    verdict: Verdict | None
    extracted: str | None = None
    verdict_reason: str | None = None
    second_verdict: Verdict | None = None


async def verify(row: Row, params: VerifyParams, ctx: RowContext) -> Checked:
    """The verdict of one row. Raises RowError (curable) when something outside killed the checker."""
    if row.get("fate") not in (None, Fate.accepted):
        return Checked(None)
    if row["solution"] is None:
        return Checked(Verdict.error, None, "no solution")
    checked = await check(row["answer"], row["solution"], params, ctx)
    alike = checked.extracted is not None and normalise(row["answer"] or "") == normalise(checked.extracted)
    if alike or checked.verdict_reason in (NO_REFERENCE, TIMEOUT):
        return checked
    said = row["solution"].rpartition(params.after)[2] if params.after else row["solution"]
    second, _ = await _called("plainly", row["answer"], said[-END:], params, ctx)
    return replace(checked, second_verdict=None if second is Verdict.error else second)


async def check(reference: str | None, solution: str, params: VerifyParams, ctx: RowContext) -> Checked:
    """The verdict of one text. What is decided at once, which is most, needs no worker."""
    found = extract(solution, params.rules, params.after)
    if reference is None or not reference.strip():
        return Checked(Verdict.error, found, NO_REFERENCE)
    if found is None:
        return Checked(Verdict.no_answer)
    if at_once := judged_at_once(reference, found):
        return Checked(Verdict(at_once), found)
    verdict, reason = await _called("equal", reference, found, params, ctx)
    return Checked(verdict, found, reason)


async def _called(
    function: str, reference: str, said: str, params: VerifyParams, ctx: RowContext
) -> tuple[Verdict, str | None]:
    """What a function of equality.py says in a worker, and why."""
    try:
        told = await ctx.isolated(f"ssd_pipeline.equality:{function}", reference, said, timeout_s=params.timeout_s)
    except TimeoutError:
        return Verdict.error, TIMEOUT
    except RowError as error:
        if error.curable:
            raise
        return Verdict.error, str(error)
    verdict, _, reason = told.partition(": ")
    return Verdict(verdict), reason or None


def checker_there(params: Params, ctx: StageContext) -> None:
    """Raises RunError, before any row, where math-verify is not installed: else every row would be an error."""
    if importlib.util.find_spec("math_verify") is None:
        raise RunError('checking answers needs math-verify: pip install "ssd-pipeline[local]"')


def failed(reason: str) -> Checked:
    """The columns of a row that could not be done."""
    return Checked(Verdict.error, None, reason)


def summarize(params: VerifyParams, rows: Iterator[Row]) -> Summary:
    """Rows by verdict, the share correct among those with one (errors left out), why the checker failed, and the audit:
    what could not be read, time-outs, and how often math-verify says something else, as `ours, then its own`."""
    verdicts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    differ: Counter[str] = Counter()
    twice = 0
    for row in rows:
        verdict, second = row["verdict"], row["second_verdict"]
        if verdict is not None:
            verdicts[verdict] += 1
        if row["verdict_reason"] is not None:
            reasons[row["verdict_reason"]] += 1
            errors[row["verdict_reason"]] += verdict == Verdict.error
        twice += second is not None
        if second is not None and second != verdict:
            differ[f"{verdict}, then {second}"] += 1
    judged = verdicts.total() - verdicts[Verdict.error]
    return {
        "verdicts": dict(sorted(verdicts.items())),
        "share_correct": verdicts[Verdict.correct] / judged if judged else None,
        "errors": dict((+errors).most_common(10)),
        "audit": {
            "references_missing": reasons[NO_REFERENCE],
            "references_unread": reasons[UNREAD_REFERENCE],
            "answers_unread": reasons[UNREAD_ANSWER],
            "timeouts": reasons[TIMEOUT],
            "judged_twice": twice,
            "judged_differently": dict(differ.most_common()),
        },
    }


STAGE = RowStage(
    "verify_answers",
    version=4,
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
