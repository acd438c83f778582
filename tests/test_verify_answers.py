"""Verdicts of rows, with real workers: what cannot be told is an error, never wrong, and harms no other row."""

from __future__ import annotations

import asyncio

import pytest
from fakes.measuring import RowContext

from ssd_pipeline.errors import RowError, RunError
from ssd_pipeline.isolated import Workers
from ssd_pipeline.records import Verdict
from ssd_pipeline.stages.verify_answers import STAGE, Checked, VerifyParams, check, checker_there, summarize, verify


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
        ("72", r"so \boxed{72.0}", Checked(Verdict.correct, "72.0", None, Verdict.correct)),
        (r"\sqrt{8}", r"so \boxed{2\sqrt{2}}", Checked(Verdict.correct, r"2\sqrt{2}", None, Verdict.correct)),
        ("1/2", r"so \boxed{0.51}", Checked(Verdict.incorrect, "0.51", None, Verdict.incorrect)),
        ("72", "so 72", Checked(Verdict.no_answer, None, None, Verdict.correct)),
        ("(1,2)", r"\boxed{\{1,2\}}", Checked(Verdict.incorrect, r"\{1,2\}", None, Verdict.correct)),
        ("72", r"\boxed{@@@}", Checked(Verdict.incorrect, "@@@", "answer not parseable", Verdict.incorrect)),
        ("72", r"<think>\boxed{72}</think> none", Checked(Verdict.no_answer, None, None, Verdict.no_answer)),
        (None, r"\boxed{72}", Checked(Verdict.error, "72", "no reference answer")),
        ("  ", "so 72", Checked(Verdict.error, None, "no reference answer")),
        ("@@@", r"\boxed{72}", Checked(Verdict.error, "72", "reference not parseable", Verdict.incorrect)),
        ("72", None, Checked(Verdict.error, None, "no solution")),
    ],
)
def test_the_verdict_of_a_row(workers, answer, solution, checked):
    assert verdict(workers, answer, solution) == checked
    assert verdict(workers, answer, solution, fate="accepted") == checked


@pytest.mark.parametrize("fate", ["given_up", "too_long", "error"])
def test_only_accepted_rows_are_checked(fate):
    assert verdict(None, "72", r"\boxed{72}", fate=fate) == Checked(None)


@pytest.mark.parametrize("solution", [r"\boxed{1000}", r"\boxed{1000.5}", "nothing"])
def test_what_is_decided_at_once_needs_no_worker(solution):
    said = asyncio.run(check("1,000", solution, VerifyParams(), RowContext(None)))
    assert said.verdict is not Verdict.error


@pytest.mark.parametrize(
    "hostile",
    [
        "9^{9^{9^9}}",
        "2^{2^{40}}",
        "(10^9)!",
        r"\frac{30000000!}{29999999!}",
        r"\binom{10^6}{5\cdot 10^5}",
        "(x+1)^{3000}-(x+2)^{3000}",
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
        bad = asyncio.create_task(verify(row, params, RowContext(workers)))
        good = [
            await verify({"answer": "5", "solution": rf"\boxed{{{i}+1}}"}, VerifyParams(), RowContext(workers))
            for i in range(6)
        ]
        return await bad, [g.verdict for g in good]

    verdict(workers, "5", r"\boxed{2+3}")
    bad, good = asyncio.run(together())
    assert bad.verdict in (Verdict.error, Verdict.incorrect)
    assert bad.verdict_reason in ("timeout", "answer not parseable", None)
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


def test_300_short_answers_all_get_their_verdicts(workers):
    rows = [(str(i), rf"\boxed{{{i}}}" if i % 2 else rf"\boxed{{{i}+1}}") for i in range(300)]

    async def all_rows():
        return await asyncio.gather(*(check(*row, VerifyParams(), RowContext(workers)) for row in rows))

    assert [s.verdict for s in asyncio.run(all_rows())] == [
        Verdict.correct if i % 2 else Verdict.incorrect for i in range(300)
    ]


def test_the_summary_counts_every_verdict_and_audits_the_checker():
    rows = [
        *[("correct", None, "correct")] * 2,
        ("correct", None, "incorrect"),
        ("incorrect", "answer not parseable", "no_answer"),
        ("no_answer", None, "correct"),
        ("error", "reference not parseable", None),
        *[("error", "timeout", None)] * 2,
        (None, None, None),
    ]
    named = [dict(zip(("verdict", "verdict_reason", "second_verdict"), row, strict=True)) for row in rows]
    assert summarize(VerifyParams(), iter(named)) == {
        "verdicts": {"correct": 3, "error": 3, "incorrect": 1, "no_answer": 1},
        "share_correct": 0.6,
        "errors": {"timeout": 2, "reference not parseable": 1},
        "audit": {
            "references_missing": 0,
            "references_unread": 1,
            "answers_unread": 1,
            "timeouts": 2,
            "judged_twice": 5,
            "judged_differently": {
                "correct, then incorrect": 1,
                "incorrect, then no_answer": 1,
                "no_answer, then correct": 1,
            },
        },
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
