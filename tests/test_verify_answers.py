"""Verdicts of rows, with real workers: what cannot be told is an error, never wrong, and harms no other row."""

from __future__ import annotations

import asyncio
import time

import pytest
from fakes.measuring import RowContext

from ssd_pipeline.errors import RowError, RunError
from ssd_pipeline.isolated import Workers
from ssd_pipeline.records import Verdict
from ssd_pipeline.stages.verify_answers import STAGE, Checked, VerifyParams, checker_there, summarize, verify


@pytest.fixture(scope="module")
def workers():
    pool = Workers(2)
    yield pool
    pool.close()


def verdict(workers, answer, solution, params=VerifyParams(), **more) -> Checked:  # noqa: B008
    row = {"answer": answer, "solution": solution, **more}
    return asyncio.run(verify(row, params, RowContext(workers)))


@pytest.mark.parametrize(
    ("answer", "solution", "checked"),
    [
        ("72", r"so \boxed{72}", Checked(Verdict.correct, "72")),
        ("1/2", r"so \boxed{0.5}", Checked(Verdict.correct, "0.5")),
        ("1/2", r"so \boxed{0.51}", Checked(Verdict.incorrect, "0.51")),
        ("72", "so 72", Checked(Verdict.no_answer)),
        (None, r"\boxed{72}", Checked(Verdict.error, "72", "no reference answer")),
        ("  ", "so 72", Checked(Verdict.error, None, "no reference answer")),
        ("@@@", r"\boxed{72}", Checked(Verdict.error, "72", "reference not parseable")),
        ("72", None, Checked(Verdict.error, None, "no solution")),
    ],
)
def test_the_verdict_of_a_row(workers, answer, solution, checked):
    assert verdict(workers, answer, solution) == checked
    assert verdict(workers, answer, solution, fate="accepted") == checked


@pytest.mark.parametrize("fate", ["given_up", "too_long", "error"])
def test_only_accepted_rows_are_checked(fate):
    assert verdict(None, "72", r"\boxed{72}", fate=fate) == Checked(None)


def test_equal_text_needs_no_worker():
    assert verdict(None, "1,000", r"\boxed{1000}").verdict is Verdict.correct


@pytest.mark.parametrize(
    "hostile",
    [
        "9^{9^{9^9}}",
        "(10^9)!",
        "+".join("1" * 200_000),
        "{" * 5_000 + "1" + "}" * 5_000,
        "__import__('os').system('touch {canary}')",
        r"\text{__import__('os').system('touch {canary}')}",
    ],
    ids=lambda text: text[:12],
)
def test_a_hostile_answer_ends_in_time_and_harms_no_other(workers, tmp_path, hostile):
    canary = tmp_path / "canary"
    row = {"answer": "5", "solution": rf"\boxed{{{hostile.replace('{canary}', str(canary))}}}"}
    params = VerifyParams(timeout_s=1)

    async def together():
        began = time.monotonic()
        bad = asyncio.create_task(verify(row, params, RowContext(workers)))
        good = [
            await verify({"answer": "5", "solution": rf"\boxed{{{i}+1}}"}, VerifyParams(), RowContext(workers))
            for i in range(6)
        ]
        return await bad, time.monotonic() - began, [g.verdict for g in good]

    verdict(workers, "5", r"\boxed{2+3}")
    bad, took, good = asyncio.run(together())
    assert bad.verdict in (Verdict.error, Verdict.incorrect)
    assert bad.verdict_reason in ("timeout", None)
    assert took < 6
    assert good == [Verdict.correct if i == 4 else Verdict.incorrect for i in range(6)]
    assert not canary.exists()


def test_a_time_out_is_an_error_with_its_reason(workers):
    said = verdict(workers, "5", r"\boxed{9^{9^{9^9}}}", VerifyParams(timeout_s=0.5))
    assert said == Checked(Verdict.error, "9^{9^{9^9}}", "timeout")


def test_a_checker_killed_from_outside_is_asked_again_but_one_that_breaks_is_a_result():
    class Broken(RowContext):
        async def isolated(self, function, *args, timeout_s):
            raise RowError("the worker died", curable=self.ordinal == 1)

    row = {"answer": "5", "solution": r"\boxed{2+3}"}
    with pytest.raises(RowError):
        asyncio.run(verify(row, VerifyParams(), Broken(ordinal=1)))
    said = asyncio.run(verify(row, VerifyParams(), Broken(ordinal=0)))
    assert said == Checked(Verdict.error, "2+3", "the worker died")


def test_300_short_answers_are_checked_quickly():
    pool = Workers()
    rows = [{"answer": str(i), "solution": rf"\boxed{{{i}}}" if i % 2 else rf"\boxed{{{i}+1}}"} for i in range(300)]

    async def all_rows():
        return await asyncio.gather(*(verify(row, VerifyParams(), RowContext(pool)) for row in rows))

    began = time.monotonic()
    try:
        said = asyncio.run(all_rows())
    finally:
        pool.close()
    assert [s.verdict for s in said] == [Verdict.correct if i % 2 else Verdict.incorrect for i in range(300)]
    assert time.monotonic() - began < 10  # about 1 s on two idle cores; the bound allows for busy ones


def test_the_summary_counts_every_verdict_and_says_why_the_checker_failed():
    rows = [
        *[{"verdict": "correct", "verdict_reason": None}] * 3,
        {"verdict": "incorrect", "verdict_reason": None},
        {"verdict": "no_answer", "verdict_reason": None},
        *[{"verdict": "error", "verdict_reason": "timeout"}] * 2,
        {"verdict": None, "verdict_reason": None},
    ]
    assert summarize(VerifyParams(), iter(rows)) == {
        "verdicts": {"correct": 3, "error": 2, "incorrect": 1, "no_answer": 1},
        "share_correct": 0.6,
        "errors": {"timeout": 2},
    }
    assert summarize(VerifyParams(), iter([]))["share_correct"] is None


def test_a_missing_checker_is_said_before_any_row(monkeypatch):
    assert checker_there(VerifyParams(), None) is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RunError, match=r'pip install "ssd-pipeline\[local\]"'):
        checker_there(VerifyParams(), None)


def test_the_stage_reads_what_it_uses():
    assert STAGE.reads(VerifyParams()) == ("answer", "solution", "fate")
    assert STAGE.optional(VerifyParams()) == ("fate",)
    assert STAGE.prepare is checker_there
    assert STAGE.failed("why") == Checked(Verdict.error, None, "why")
