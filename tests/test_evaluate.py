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
from ssd_pipeline.stages.evaluate import Evaluated, EvaluateParams, evaluate, failed, ks, majority, pass_at, summarize

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
    return {"mode": mode, "verdict": verdict, "tokens": tokens, "finish": finish, "extracted": "5"}


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
    said = summarize(EvaluateParams(model="m"), iter([{"solutions": None}]))["greedy"]
    assert said.pop("pass_at") == said.pop("maj_at") == {"1": None}
    assert said == {
        **dict.fromkeys(("accuracy", "low", "high", "tokens", "share_no_answer", "tokens_median", "tokens_longest")),
        "count": 0,
        "no_answer": 0,
        "cut": 0,
        "errors": 1,
    }


@pytest.mark.parametrize(
    ("k", "correct", "count", "share"),
    [(1, 1, 4, 0.25), (2, 1, 4, 0.5), (4, 1, 4, 1.0), (2, 2, 4, 5 / 6), (3, 0, 4, 0.0), (1, 4, 4, 1.0)],
)
def test_pass_at_k_is_the_chance_of_a_correct_one_among_k(k, correct, count, share):
    assert pass_at(k, correct, count) == pytest.approx(share)


@pytest.mark.parametrize(
    ("said", "share"),
    [
        (["c:5", "c:5.0", "i:7"], 1.0),
        (["c:5", "i:7", "i:7"], 0.0),
        (["c:5", "i:7"], 0.5),
        (["c:5", "i:7", "i:7.0", "c:10/2"], 0.5),
        (["c:5", "n", "n", "n"], 1.0),
        (["n", "n"], 0.0),
        (["i:yes", "i:\\text{Yes}", "c:no"], 0.0),
    ],
)
def test_the_majority_is_of_answers_and_not_of_their_spelling(said, share):
    names = {"c": "correct", "i": "incorrect", "n": "no_answer"}
    judged = [{"verdict": names[s[0]], "extracted": s[2:] or None} for s in said]
    assert majority(judged) == share


def test_several_samples_give_avg_pass_and_maj_at_k():
    def row(*said: str) -> dict:
        return {"solutions": [{**solution("sampled", v), "extracted": v} for v in said]}

    rows = [row("correct", "incorrect", "incorrect"), row("correct", "correct", "no_answer"), row(*["incorrect"] * 3)]
    sampled = summarize(EvaluateParams(model="m", greedy=False, samples=3), iter(rows))["sampled"]
    assert sampled["accuracy"] == pytest.approx(3 / 9)
    assert {k: s["mean"] for k, s in sampled["pass_at"].items()} == {
        "1": pytest.approx(1 / 3),
        "2": pytest.approx((2 / 3 + 1) / 3),
        "3": pytest.approx(2 / 3),
    }
    assert (sampled["maj_at"]["3"]["mean"], sampled["share_no_answer"]) == (pytest.approx(1 / 3), pytest.approx(1 / 9))
    assert ks(1) == [1]
    assert ks(8) == [1, 2, 4, 8]
    assert ks(6) == [1, 2, 4, 6]
