"""score_trajectories: one pass over a finished text, cut into chunks afterwards."""

import asyncio
import itertools
import math

import pytest
from fakes.scripted import FakeContext, MergingStudent, ScriptedStudent

from ssd_pipeline.criteria import perplexity_of
from ssd_pipeline.errors import ModelError, RowError
from ssd_pipeline.records import Spend, arrow_schema, columns, plain
from ssd_pipeline.stage import Chunk, PromptFormat, Scored
from ssd_pipeline.stages.score_trajectories import STAGE, ScoreParams, Scores

ROW = {"problem": "1+1?", "solution": "a;bc", "error": None}
BEFORE = "small[Q: 1+1?]>"


def context(student, template=">", **form):
    return FakeContext(
        scorers={"small": student},
        formats={"small": PromptFormat(prompt="Q: {problem}", **form)},
        templates={"small": template},
    )


def scripted():
    said = Scored(tuple(-math.log(p) for p in (2, 8, 3, 3)))
    ends = range(len(BEFORE), len(BEFORE) + 5)
    spans = [(0, len(BEFORE)), *itertools.pairwise(ends)]
    return ScriptedStudent(BEFORE, {("", "a;bc"): said}, {BEFORE + "a;bc": spans})


def score(ctx, chunk=None, row=ROW, least=0):
    return asyncio.run(STAGE.run(row, ScoreParams(student="small", chunk=chunk, min_scored_tokens=least), ctx))


def test_a_solution_is_scored_once_as_a_whole():
    ctx = context(scripted())
    made = score(ctx)
    assert made == Scores(4, None, Spend(scored=4), pytest.approx(144**0.25), None)
    assert ctx.spend == made.spend


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        (Chunk(max_tokens=10), [144**0.25]),
        (Chunk(max_tokens=3), [48 ** (1 / 3), 3]),
        (Chunk(max_tokens=10, stop=(";",)), [4, 3]),
    ],
)
def test_chunks_are_cut_out_of_the_one_pass(chunk, expected):
    student = scripted()
    assert score(context(student), chunk).chunk_perplexities == pytest.approx(expected)
    assert len(student.asked) == 1


@pytest.mark.parametrize(
    ("least", "expected"), [(1, [4, 3, 3]), (2, [4, 24**0.5, 3]), (3, [4, 48 ** (1 / 3), 72 ** (1 / 3)])]
)
def test_a_short_chunk_is_scored_with_the_tokens_before_it(least, expected):
    """The tokens have perplexities 2, 8, 3, 3; the chunks are the first two, the third and the fourth."""
    made = score(context(scripted()), Chunk(max_tokens=2, stop=("b",)), least=least)
    assert made.chunk_perplexities == pytest.approx(expected)


def test_a_token_that_straddles_the_prompt_counts_to_the_solution():
    """The prompt ends in `a`, which joins the first letter of the solution."""

    class Student(MergingStudent):
        async def score(self, ask):
            return self.answer(ask)

    before = BEFORE[:-1] + "a"
    student = Student(before)
    assert student.tokens(before + "bcab")[-3:] == ["ab", "c", "ab"]
    made = score(context(student, template="a"), Chunk(max_tokens=2), {**ROW, "solution": "bcab"})
    logprobs = student.logprobs(before + "bcab", len(before))
    assert made.scored_tokens == len(logprobs) == 3
    assert made.chunk_perplexities == pytest.approx([perplexity_of(logprobs[:2]), perplexity_of(logprobs[2:])])


def test_a_tag_that_the_students_template_opens_is_not_put_before_the_solution():
    student = scripted()
    made = score(context(student, template="><think>\n", think=("<think>", "</think>")))
    assert made.perplexity is not None
    assert student.asked[0].prompt == BEFORE


def test_a_scorer_that_disagrees_with_its_own_tokens_stops_the_run():
    student = scripted()
    student.spans[BEFORE + "a;bc"].pop()
    with pytest.raises(ModelError, match="4 log-probabilities for 3 tokens"):
        score(context(student), Chunk(max_tokens=2))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**ROW, "error": "no statement"}, "^no statement$"),
        ({**ROW, "solution": None}, "no solution"),
        ({**ROW, "solution": ""}, "no solution"),
        ({**ROW, "problem": "<|end|>"}, "control text"),
    ],
)
def test_rows_that_cannot_be_scored(row, reason):
    with pytest.raises(RowError, match=reason):
        score(context(scripted()), row=row)


def test_rows_fit_the_schema_and_failures_are_null():
    import pyarrow as pa

    rows = [plain(score(context(scripted()), Chunk(max_tokens=2))), plain(STAGE.failed("why"))]
    table = pa.Table.from_pylist(rows, schema=arrow_schema(Scores))
    assert table.column("error").to_pylist() == [None, "why"]
    assert table.column("perplexity").to_pylist()[1] is None
    assert {c.name for c in columns(Scores) if c.measured} == {"perplexity", "chunk_perplexities"}


def test_the_summary():
    rows = [
        {"perplexity": 2.0, "scored_tokens": 10},
        {"perplexity": 4.0, "scored_tokens": 20},
        {"perplexity": None, "scored_tokens": None},
    ]
    params = ScoreParams(student="small")
    assert STAGE.summarize(params, iter(rows)) == {"scored": 2, "mean_perplexity": 3, "mean_tokens": 15}
    assert STAGE.summarize(params, iter([])) == {"scored": 0, "mean_perplexity": None, "mean_tokens": None}
    assert (STAGE.reads(params), STAGE.random) == (("problem", "solution"), False)
