"""sample_branches: the search, its models and the row put together."""

import asyncio
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fakes.scripted import FakeContext, MergingStudent, ScriptedStudent, ScriptedTeacher, Unexpected

from ssd_pipeline.acceptance import Accept
from ssd_pipeline.criteria import Select
from ssd_pipeline.errors import RowError, RunError
from ssd_pipeline.options import Draws
from ssd_pipeline.records import Fate, Spend, arrow_schema, columns, plain, table_types
from ssd_pipeline.stage import Branch, Chunk, PromptFormat, Scored, StageRef
from ssd_pipeline.stages.sample_branches import STAGE, SampleParams, Trajectory

ROW = {"uuid": "u1", "problem": "1+1?", "answer": "2", "source": "s", "error": None}
ALONE = Select(min_scored_tokens=0)
PARAMS = SampleParams(teacher="big", student="small", branches=2, chunk=Chunk(max_tokens=3), max_tokens=6, select=ALONE)


def says(*perplexities):
    return Scored(tuple(-math.log(p) for p in perplexities))


def script():
    """Both templates open a think tag: the teacher's is put back into the text, the student's is left out before it."""
    teacher = ScriptedTeacher(
        "big[Be brief.][1+1?]><think>\n",
        {
            "": [Branch("so\n", 2, "stop"), Branch("hm\n", 3, "stop")],
            "so\n": [Branch("</think>2", 3, "eos"), Branch("</think>2", 3, "eos")],
        },
    )
    student = ScriptedStudent(
        "small[Q: 1+1?]>",
        {
            ("", "<think>\nso\n"): says(2, 2),
            ("", "<think>\nhm\n"): says(3, 3),
            ("<think>\nso\n", "</think>2"): says(4),
        },
    )
    return FakeContext(
        samplers={"big": teacher},
        scorers={"small": student},
        formats={
            "big": PromptFormat(system="Be brief.", think=("<think>", "</think>")),
            "small": PromptFormat(prompt="Q: {problem}", think=("<think>", "</think>")),
        },
        templates={"big": "><think>\n", "small": "><think>"},
    )


def grow(ctx, params=PARAMS, row=ROW):
    return asyncio.run(STAGE.run(row, params, ctx))


def test_a_row_becomes_a_trajectory():
    ctx = script()
    made = grow(ctx)
    assert made.solution == "<think>\nso\n</think>2"
    assert [(m.role, m.content) for m in made.messages] == [
        ("system", "Be brief."),
        ("user", "1+1?"),
        ("assistant", made.solution),
    ]
    assert (made.fate, made.error, made.tokens) == (Fate.accepted, None, 5)
    assert made.chunk_perplexities == pytest.approx([2, 4])
    assert made.perplexity == pytest.approx(16 ** (1 / 3))
    assert made.margins == [pytest.approx(1), None]
    assert made.spend == ctx.spend == Spend(bought=11, kept=5, pruned=6, scored=5)
    assert [(b.chunk, b.branch, b.chosen, b.same_as) for b in made.branches] == [
        (0, 0, True, None),
        (0, 1, False, None),
        (1, 0, True, None),
        (1, 1, False, 0),
    ]


ANSWERING = PARAMS.model_copy(update={"select": Select(criterion="answer_gain", cue=" =", min_scored_tokens=0)})


def test_the_reference_answer_is_read_after_each_branch_by_the_students_own_tokens():
    """The last of the student's tokens are the answer's, also one that straddles the cue (here there is none)."""
    teacher = ScriptedTeacher("big[1+1?]>", {"": [Branch("a", 1, "eos"), Branch("b", 1, "eos")]})
    said = {
        ("", " =2"): says(9, 9, 8),
        ("", "a"): says(2), ("", "b"): says(3),
        ("", "a =2"): says(2, 9, 9, 4), ("", "b =2"): says(3, 9, 9, 2),
    }  # fmt: skip
    before = "small[1+1?]>"
    spans = {before + text: [(0, len(before)), *((len(before) + i, len(before) + i + 1) for i in range(len(text)))]
             for text in (" =2", "a =2", "b =2")}  # fmt: skip
    ctx = FakeContext(
        samplers={"big": teacher},
        scorers={"small": ScriptedStudent(before, said, spans)},
        formats={"big": PromptFormat(), "small": PromptFormat()},
    )
    made = grow(ctx, ANSWERING, {**ROW, "answer": "so 1 + 1 is\n#### 2"})
    assert made.solution == "b"
    assert [b.value for b in made.branches] == pytest.approx([4 / 8, 2 / 8])
    assert made.spend == ctx.spend == Spend(bought=2, kept=1, pruned=1, scored=3 + 1 + 1 + 4 + 4)
    assert STAGE.reads(ANSWERING) == ("problem", "answer")


@pytest.mark.parametrize("answer", [None, "", "  "])
def test_a_row_without_a_reference_answer_is_an_error_where_one_is_needed(answer):
    with pytest.raises(RowError, match="answer_gain needs a reference answer"):
        grow(script(), ANSWERING, {**ROW, "answer": answer})


def test_loops_are_told_by_row():
    again = PARAMS.model_copy(update={"select": Select(min_scored_tokens=0, loop_words=1)})
    made = grow(script(), again)
    assert made.looping == 0
    ctx = script()
    ctx.samplers["big"].script["so\n"] = [Branch("so\n", 3, "length")] * 2
    ctx.scorers["small"].script["<think>\nso\n", "so\n"] = says(1)
    made = grow(ctx, again)
    assert (made.fate, made.solution, made.looping) == (Fate.given_up, "<think>\nso\n", 0.5)


def test_seeds_come_from_the_recipe_the_statement_and_its_ordinal():
    ctx = script()
    ctx.seed, ctx.take, ctx.ordinal = 5, 1, 2
    grow(ctx)
    draws = Draws(seed=5, statement="1+1?", ordinal=2, take=1)
    asked = ctx.samplers["big"].asked
    assert [ask.seeds for ask in asked] == [draws.seeds("", 2), draws.seeds("so\n", 2)]
    assert [ask.chunk.max_tokens for ask in asked] == [3, 3]


def test_no_student_is_opened_when_none_is_named():
    ctx = script()
    ctx.scorers.clear()
    ctx.formats.pop("small")
    made = grow(ctx, SampleParams(teacher="big", branches=2, chunk=PARAMS.chunk, max_tokens=6,
                                  select=Select(criterion="shortest")))  # fmt: skip
    assert (made.fate, made.perplexity, made.chunk_perplexities) == (Fate.accepted, None, None)


def test_a_prepared_rule_gives_up():
    ctx = script()
    ctx.prepared = STAGE.prepare(PARAMS.model_copy(update={"accept": Accept(absolute=3.0)}), None)
    made = grow(ctx)
    assert (made.fate, made.solution) == (Fate.given_up, "<think>\nso\n")
    assert made.spend == ctx.spend == Spend(bought=11, kept=2, pruned=9, scored=5)
    assert made.messages[-1].content == made.solution


def test_row_errors_pass_through():
    with pytest.raises(RowError, match=r"^no statement$"):
        grow(script(), row={**ROW, "error": "no statement"})
    with pytest.raises(RowError, match="control text"):
        grow(script(), row={**ROW, "problem": "<|end|>"})


def test_what_a_model_raises_is_not_swallowed():
    ctx = script()
    ctx.samplers["big"].script.pop("so\n")
    with pytest.raises(Unexpected):
        grow(ctx)


def test_a_failed_row_has_nulls():
    failed = plain(STAGE.failed("too bad"))
    assert {name: value for name, value in failed.items() if value is not None} == {
        "fate": "error",
        "error": "too bad",
        "branches": [],
    }


def test_results_fit_the_declared_schema():
    import pyarrow as pa

    made = plain(grow(script()))
    rows = [{k: v for k, v in made.items() if k != "branches"}, plain(STAGE.failed("x"))]
    table = pa.Table.from_pylist(rows, schema=arrow_schema(Trajectory))
    assert table.column("solution").to_pylist() == ["<think>\nso\n</think>2", None]
    side = pa.Table.from_pylist(made["branches"], schema=arrow_schema(table_types(Trajectory)["branches"]))
    assert side.num_rows == 4
    assert {c.name for c in columns(Trajectory) if c.measured} == {"chunk_perplexities", "perplexity", "margins"}


def test_the_rule_is_fixed_by_the_stage_that_it_names():
    def stage(ref):
        def rows(wanted):
            assert (ref, wanted) == (StageRef(stage="pilot"), ["chunk_perplexities"])
            return iter([{"chunk_perplexities": [1.0, 2.0, 4.0]}, {"chunk_perplexities": None}])

        return SimpleNamespace(rows=rows)

    params = PARAMS.model_copy(update={"accept": Accept(quantile=0.75, of=StageRef(stage="pilot"))})
    assert STAGE.prepare(params, SimpleNamespace(stage=stage)).limit == 3.0
    assert STAGE.prepare(PARAMS, None) is None


def test_a_stage_without_the_column_stops_the_run():
    def stage(ref):
        return SimpleNamespace(rows=lambda wanted: iter([{}]))

    params = PARAMS.model_copy(update={"accept": Accept(quantile=0.75, of=StageRef(stage="pilot"))})
    with pytest.raises(RunError, match="pilot"):
        STAGE.prepare(params, SimpleNamespace(stage=stage))


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ({"branches": 1}, []),
        ({"branches": 2}, [("select", "criterion")]),
        ({"branches": 2, "select": Select(criterion="highest")}, [("select", "criterion")]),
        ({"branches": 2, "select": Select(criterion="answer_gain")}, [("select", "criterion")]),
        ({"branches": 2, "beam_width": 3, "student": "small"}, [("beam_width",)]),
        ({"branches": 2, "select": Select(criterion="random")}, []),
        ({"branches": 2, "select": Select(criterion="first")}, []),
        ({"branches": 2, "select": Select(criterion="longest")}, []),
        ({"branches": 2, "select": Select(criterion="shortest")}, []),
        ({"branches": 1, "accept": Accept(absolute=2.0)}, [("accept",)]),
        ({"branches": 2, "accept": Accept(absolute=2.0), "student": "small"}, []),
    ],
)
def test_mistakes(given, keys):
    assert [key for key, _ in SampleParams(teacher="big", **given).mistakes()] == keys


def test_the_summary():
    chunk = {"candidates": 2, "finish": "stop"}
    last = {"candidates": 1, "finish": "eos"}
    rows = [
        {"fate": "accepted", "tokens": 10, "chunks": [chunk, last], "perplexity": 2.0, "looping": 0.5},
        {"fate": "accepted", "tokens": 20, "chunks": [chunk], "perplexity": 4.0, "looping": 0.0},
        {"fate": "given_up", "tokens": 99, "chunks": [chunk], "perplexity": 99.0, "looping": 0.25},
        {"fate": "error", "tokens": None, "chunks": None, "perplexity": None, "looping": None},
    ]
    assert STAGE.summarize(PARAMS, iter(rows)) == {
        "fates": {"accepted": 2, "error": 1, "given_up": 1},
        "mean_tokens": 15,
        "mean_chunks": 1.5,
        "mean_perplexity": 3,
        "repeated_decisions": 0.25,
        "finished_decisions": 0.25,
        "looping_branches": 0.25,
    }
    nothing = STAGE.summarize(PARAMS, iter([]))
    assert nothing.pop("fates") == {}
    assert set(nothing.values()) == {None}


def test_bounds_and_randomness_are_declared():
    assert STAGE.most_tokens(PARAMS) == 12
    assert STAGE.most_tokens(PARAMS.model_copy(update={"beam_width": 2})) == 24
    assert (STAGE.random, STAGE.seeded_by, STAGE.reads(PARAMS)) == (True, ("problem",), ("problem",))
    assert STAGE.reads(PARAMS.model_copy(update={"select": Select(criterion="lalp")})) == ("problem",)


def test_a_student_that_cannot_hold_the_text_fails_the_row():
    class Short(MergingStudent):
        async def score(self, ask):
            raise RowError("the text is longer than the student's context")

    ctx = replace(script(), scorers={"small": Short("")})
    with pytest.raises(RowError, match="context"):
        grow(ctx)
