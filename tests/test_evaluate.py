"""evaluate: what a model is asked, what is kept of it, and the numbers made of that."""

from __future__ import annotations

import asyncio

import pytest
from fakes.measuring import RowContext, SayingSampler

from ssd_pipeline.errors import RowError
from ssd_pipeline.intervals import wilson
from ssd_pipeline.isolated import Workers
from ssd_pipeline.records import Spend, Verdict, arrow_schema, plain
from ssd_pipeline.stage import Chunk, Sampling
from ssd_pipeline.stages.evaluate import Evaluated, EvaluateParams, evaluate, failed, summarize

ROW = {"problem": "1+1", "answer": "2", "uuid": "u"}


@pytest.fixture(scope="module")
def workers():
    pool = Workers(1)
    yield pool
    pool.close()


def run(params: EvaluateParams, says: SayingSampler, workers=None, row=ROW, **more) -> tuple[Evaluated, RowContext]:
    ctx = RowContext(workers, says, **more)
    return asyncio.run(evaluate(row, params, ctx)), ctx


def test_greedy_and_sampled_solutions_are_kept_with_their_verdicts(workers):
    says = SayingSampler({"<1+1>": (r"It is \boxed{2}", [r"\boxed{4/2}", "no idea", r"\boxed{3}"])})
    params = EvaluateParams(model="learned", samples=3, sampling=Sampling(temperature=0.8), max_tokens=50)
    done, ctx = run(params, says, workers)
    assert [(s.mode, s.verdict, s.extracted) for s in done.solutions] == [
        ("greedy", Verdict.correct, "2"),
        ("sampled", Verdict.correct, "4/2"),
        ("sampled", Verdict.no_answer, None),
        ("sampled", Verdict.incorrect, "3"),
    ]
    assert done.spend == ctx.spend == Spend(bought=3 + 1 + 2 + 1, kept=7)
    greedy, sampled = says.asked
    assert greedy.sampling.temperature == 0
    assert sampled.sampling == Sampling(temperature=0.8)
    assert greedy.chunk == sampled.chunk == Chunk(max_tokens=50)
    assert len(set(sampled.seeds)) == 3
    arrow_schema(Evaluated)
    assert plain(done)["solutions"][0]["verdict"] == "correct"


def test_seeds_come_from_the_problem_and_grow_by_addition():
    def seeds(samples, row=ROW, **more):
        says = SayingSampler({f"<{row['problem']}>": (r"\boxed{2}", [r"\boxed{2}"] * samples)})
        params = EvaluateParams(model="learned", greedy=False, samples=samples)
        run(params, says, row=row, **more)
        return says.asked[0].seeds

    assert seeds(5)[:3] == seeds(3)
    others = [seeds(3, seed=18), seeds(3, take=1), seeds(3, ordinal=1), seeds(3, row={**ROW, "problem": "2+0"})]
    assert len({seeds(3), *others}) == 5


def test_a_row_that_came_with_an_error_asks_nothing():
    with pytest.raises(RowError, match="empty statement"):
        run(EvaluateParams(model="learned"), SayingSampler({}), row={**ROW, "error": "empty statement"})
    assert failed("why") == Evaluated(None, "why", None)


def test_parameters_that_ask_for_nothing_are_a_mistake():
    assert list(EvaluateParams(model="m").mistakes()) == []
    assert [path for path, _ in EvaluateParams(model="m", greedy=False).mistakes()] == [("samples",)]
    cold = EvaluateParams(model="m", samples=2, sampling=Sampling(temperature=0))
    assert [path for path, _ in cold.mistakes()] == [("sampling", "temperature")]


def solution(mode: str, verdict: str, tokens: int = 10, finish: str = "eos") -> dict:
    return {"mode": mode, "verdict": verdict, "tokens": tokens, "finish": finish}


def test_the_summary_gives_accuracy_with_its_interval_and_counts_what_could_not_be_judged():
    rows = [
        {
            "solutions": [
                solution("greedy", "correct"),
                solution("sampled", "correct"),
                solution("sampled", "incorrect"),
            ]
        },
        {
            "solutions": [
                solution("greedy", "incorrect", 30),
                solution("sampled", "correct"),
                solution("sampled", "error"),
            ]
        },
        {"solutions": [solution("greedy", "error"), solution("sampled", "error"), solution("sampled", "error")]},
        {"solutions": [solution("greedy", "no_answer", 30, "length")] + [solution("sampled", "incorrect")] * 2},
        {"solutions": None},
    ]
    said = summarize(EvaluateParams(model="m", samples=2), iter(rows))
    greedy, sampled = said["greedy"], said["sampled"]
    assert (greedy["accuracy"], greedy["count"], greedy["tokens"]) == (pytest.approx(1 / 3), 3, 20)
    assert (greedy["no_answer"], greedy["cut"], greedy["errors"]) == (1, 1, 2)
    near = wilson(1 / 3, 2)  # spread between three problems of one answer each: n - 1 effective trials
    assert (greedy["low"], greedy["high"]) == pytest.approx((near.low, near.high))
    assert (sampled["accuracy"], sampled["count"], sampled["errors"]) == (0.5, 3, 4)


def test_nothing_judged_is_no_accuracy_and_not_zero():
    said = summarize(EvaluateParams(model="m"), iter([{"solutions": None}]))
    assert said == {
        "greedy": {
            "accuracy": None,
            "low": None,
            "high": None,
            "count": 0,
            "tokens": None,
            "no_answer": 0,
            "cut": 0,
            "errors": 1,
        }
    }
