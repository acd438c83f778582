"""The search: trees worked out on paper, and what must hold for any tree."""

import hashlib
import itertools
import json
import math
from dataclasses import replace

import pytest
from fakes.scripted import MergingStudent, ScriptedStudent, ScriptedTeacher, Unexpected, run
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_pipeline.acceptance import Accept, rule
from ssd_pipeline.criteria import CRITERIA, Select, perplexity_of
from ssd_pipeline.errors import RowError
from ssd_pipeline.options import Accepted, Draws, Setup
from ssd_pipeline.records import Fate, Spend
from ssd_pipeline.search import search
from ssd_pipeline.stage import Branch, Chunk, Sampling, Scored

DRAWS = Draws(seed=17, statement="1+1?")


def select(criterion="perplexity", **more):
    """A criterion that looks at a branch alone, however short."""
    return Select(**{"criterion": criterion, "min_scored_tokens": 0, **more})


def setup(**more):
    """Two branches of at most four tokens, twenty in all, and a student."""
    given = {
        "prompt": "T>",
        "respond": lambda text: text,
        "judge": "S>",
        "draws": DRAWS,
        "branches": 2,
        "chunk": Chunk(max_tokens=4),
        "max_tokens": 20,
        "sampling": Sampling(),
        "select": select(),
    }
    return Setup(**{**given, **more})


def says(*perplexities, **more):
    """What a student says that gives each token such a perplexity."""
    return Scored(tuple(-math.log(p) for p in perplexities), **more)


def teacher(script):
    return ScriptedTeacher("T>", {prefix: [Branch(*branch) for branch in made] for prefix, made in script.items()})


def student(script):
    return ScriptedStudent("S>", script)


# ------------------------------------------------------------------------------------------------- on paper

TREE = {
    "": [("x ", 3, "length"), ("y ", 2, "stop")],
    "y ": [("z", 1, "eos"), ("z", 1, "eos")],
    "x ": [("w", 4, "eos"), ("vv", 2, "eos")],
}
SAID = {
    ("", "x "): says(4, 4),
    ("", "y "): says(2),
    ("y ", "z"): says(2, 8),
    ("x ", "w"): says(3),
    ("x ", "vv"): says(8, 1.25),
}


def test_the_branch_of_lowest_perplexity_joins_the_text():
    writer, judge = teacher(TREE), student(SAID)
    done = run(setup(), writer, judge)
    assert (done.text, done.fate) == ("y z", Fate.accepted)
    assert done.chunks == [Accepted("y ", 2, "stop", 1, 2), Accepted("z", 1, "eos", 0, 1)]
    assert done.chunk_perplexities == pytest.approx([2, 4])
    assert done.perplexity == pytest.approx(32 ** (1 / 3))  # of 2, 2, 8
    assert done.margins == [pytest.approx(2), None]  # 4 - 2; the second z is the same branch
    assert done.spend == Spend(bought=3 + 2 + 1 + 1, kept=3, pruned=4, scored=2 + 1 + 2)
    assert [ask.branches for ask in judge.asked] == [("x ", "y "), ("z",)]  # the equal branch is scored once
    assert [(b.chunk, b.branch, b.chosen, b.same_as) for b in done.branches] == [
        (0, 0, False, None),
        (0, 1, True, None),
        (1, 0, True, None),
        (1, 1, False, 0),
    ]
    assert [b.value for b in done.branches] == pytest.approx([4, 2, 4, 4])
    assert [b.seed for b in done.branches] == [*writer.asked[0].seeds, *writer.asked[1].seeds]


@pytest.mark.parametrize(
    ("criterion", "text"),
    [
        ("highest", "x vv"),  # 4 over 2, then 3.2 over 3
        ("first", "x w"),
        ("longest", "x w"),
        ("shortest", "y z"),
        ("min_token", "y z"),  # at least 1/2 over 1/4
    ],
)
def test_other_criteria_take_other_branches(criterion, text):
    assert run(setup(select=select(criterion)), teacher(TREE), student(SAID)).text == text


def test_a_tie_goes_to_the_lowest_branch():
    script = {"": [("a", 1, "eos"), ("b", 1, "eos"), ("c", 1, "eos")]}
    said = {("", "a"): says(3), ("", "b"): says(2), ("", "c"): says(2)}
    done = run(setup(branches=3), teacher(script), student(said))
    assert (done.text, done.margins) == ("b", [0.0])


def test_criteria_without_scores_need_no_student():
    done = run(setup(judge=None, select=select("longest")), teacher(TREE))
    assert (done.text, done.spend.scored, done.perplexity) == ("x w", 0, None)
    assert done.chunk_perplexities == [None, None]
    assert done.margins == [1.0, 2.0]  # 3 tokens to 2, 4 to 2
    assert all(b.perplexity is None and b.value == b.tokens for b in done.branches)


def test_one_branch_needs_no_student_but_uses_a_given_one():
    script = {"": [("a b", 3, "eos")]}
    alone = run(setup(judge=None, branches=1), teacher(script))
    assert (alone.text, alone.spend) == ("a b", Spend(bought=3, kept=3))
    scored = run(setup(branches=1), teacher(script), student({("", "a b"): says(2, 8)}))
    assert scored.perplexity == pytest.approx(4)
    assert scored.spend == Spend(bought=3, kept=3, scored=2)


def test_a_student_that_is_needed_and_missing_is_refused():
    with pytest.raises(ValueError, match="needs a student"):
        next(search(setup(judge=None)))
    with pytest.raises(ValueError, match="needs a student"):
        next(search(setup(judge=None, branches=1, rule=rule(Accept(absolute=2.0), ()))))


def test_max_tokens_shrinks_the_last_chunk_and_ends_too_long():
    script = {
        "": [("aaaa", 4, "length"), ("bbbb", 4, "length")],
        "aaaa": [("cc", 2, "length"), ("dd", 2, "length")],
    }
    said = {("", "aaaa"): says(1), ("", "bbbb"): says(2), ("aaaa", "cc"): says(2), ("aaaa", "dd"): says(1)}
    writer = teacher(script)
    given_chunk = Chunk(min_tokens=3, max_tokens=4, stop=("\n",))
    done = run(setup(max_tokens=6, chunk=given_chunk), writer, student(said))
    assert (done.text, done.fate) == ("aaaadd", Fate.too_long)
    assert [ask.chunk for ask in writer.asked] == [given_chunk, Chunk(min_tokens=2, max_tokens=2, stop=("\n",))]
    assert done.spend == Spend(bought=12, kept=6, pruned=6, scored=4)


def test_a_text_that_ends_with_its_last_token_is_accepted():
    script = {"": [("aaaa", 4, "eos"), ("bbbb", 4, "length")]}
    done = run(setup(max_tokens=4), teacher(script), student({("", "aaaa"): says(1), ("", "bbbb"): says(2)}))
    assert done.fate == Fate.accepted


# The chosen branches have perplexities 2, 6, 6, 3, and then the text ends.
HARD = {
    "": [("a", 1, "length"), ("A", 2, "length")],
    "a": [("b", 1, "length"), ("B", 2, "length")],
    "ab": [("c", 1, "length"), ("C", 2, "length")],
    "abc": [("d", 1, "eos"), ("D", 2, "eos")],
}
HARD_SAID = {
    ("", "a"): says(2), ("", "A"): says(9),
    ("a", "b"): says(6), ("a", "B"): says(9),
    ("ab", "c"): says(6), ("ab", "C"): says(9),
    ("abc", "d"): says(3), ("abc", "D"): says(9),
}  # fmt: skip


@pytest.mark.parametrize(
    ("accept", "text", "fate"),
    [
        (Accept(absolute=1.5), "", Fate.given_up),
        (Accept(absolute=5.0), "a", Fate.given_up),
        (Accept(absolute=6.5), "abcd", Fate.accepted),
        (Accept(absolute=5.0, patience=2), "ab", Fate.given_up),  # b is tolerated, c is not
        (Accept(absolute=5.0, patience=3), "abcd", Fate.accepted),  # d is acceptable again
        (Accept(absolute=2.5, patience=3), "abc", Fate.given_up),  # d is the third in a row, though it ends the text
        (Accept(absolute=5.0, min_chunks=2), "ab", Fate.given_up),  # b is not looked at
        (Accept(absolute=5.0, min_chunks=3), "abcd", Fate.accepted),
        (Accept(relative=2.9, min_chunks=1), "a", Fate.given_up),  # 6 > 2.9 * 2
        (Accept(relative=3.1, min_chunks=1), "abcd", Fate.accepted),  # 6 <= 3.1 * 2, 6 <= 3.1 * 4
    ],
)
def test_the_acceptance_rule_ends_a_trajectory(accept, text, fate):
    done = run(setup(rule=rule(accept, ())), teacher(HARD), student(HARD_SAID))
    assert (done.text, done.fate) == (text, fate)
    decisions = len(text) + (fate == Fate.given_up)
    assert len(done.chunks) == len(done.chunk_perplexities) == len(done.margins) == len(text)
    assert done.spend == Spend(
        bought=3 * decisions, kept=len(text), pruned=3 * decisions - len(text), scored=2 * decisions
    )
    chosen = [b.chunk for b in done.branches if b.chosen]
    assert chosen == list(range(len(text)))  # of the last decision of a given-up one, none
    assert done.perplexity == (pytest.approx(math.prod([2, 6, 6, 3][: len(text)]) ** (1 / len(text))) if text else None)


def test_patience_counts_decisions_in_a_row():
    script = {"": [("a", 1, "length")], "a": [("b", 1, "length")], "ab": [("c", 1, "eos")]}
    said = {("", "a"): says(9), ("a", "b"): says(1), ("ab", "c"): says(9)}
    done = run(setup(branches=1, rule=rule(Accept(absolute=2.0, patience=2), ())), teacher(script), student(said))
    assert (done.text, done.fate) == ("abc", Fate.accepted)


def test_the_rule_looks_at_the_chosen_branch_whatever_chose_it():
    chosen = setup(select=select("longest"), rule=rule(Accept(absolute=8.0), ()))
    assert run(chosen, teacher(HARD), student(HARD_SAID)).fate == Fate.given_up


def test_a_finished_branch_without_text_is_judged_by_the_response_before_it():
    script = {"": [("ab", 2, "length"), ("cd", 2, "length")], "ab": [("", 0, "eos"), ("x", 1, "length")]}
    said = {("", "ab"): says(2, 8), ("", "cd"): says(9), ("ab", "x"): says(5)}
    done = run(setup(), teacher(script), student(said))
    assert (done.text, done.fate) == ("ab", Fate.accepted)
    assert done.chunks[1] == Accepted("", 0, "eos", 0, 2)
    assert done.chunk_perplexities == pytest.approx([4, 4])
    assert done.perplexity == pytest.approx(4)
    assert done.margins[1] == pytest.approx(1)


def test_an_empty_response_cannot_be_chosen():
    script = {"": [("", 0, "eos"), ("x", 1, "eos")]}
    done = run(setup(), teacher(script), student({("", "x"): says(100)}))
    assert (done.text, done.chunks[0].branch) == ("x", 1)
    assert [b.value for b in done.branches] == [None, pytest.approx(100)]
    for finish in ("eos", "length", "stop"):
        with pytest.raises(RowError, match="no branch"):
            run(setup(), teacher({"": [("", 0, finish), ("", 0, "eos")]}), student({}))


def test_less_than_a_character_left_is_too_long():
    script = {"": [("aaaa", 4, "length"), ("bbbb", 4, "length")], "aaaa": [("", 0, "length"), ("", 0, "length")]}
    said = {("", "aaaa"): says(1), ("", "bbbb"): says(2)}
    done = run(setup(max_tokens=5), teacher(script), student(said))
    assert (done.text, done.fate, done.spend) == ("aaaa", Fate.too_long, Spend(8, 4, 4, 2))
    with pytest.raises(RowError, match="no branch"):
        run(setup(max_tokens=20), teacher(script), student(said))
    with pytest.raises(RowError, match="no branch"):
        run(setup(max_tokens=3), teacher({"": [("", 0, "length"), ("", 0, "length")]}), student({}))


def test_what_retokenising_takes_back_is_counted_once():
    """The last token of "ab" becomes part of the first token of the next chunk."""
    script = {"": [("ab", 2, "length"), ("cd", 2, "length")], "ab": [("e", 1, "eos"), ("f", 1, "eos")]}
    said = {
        ("", "ab"): says(2, 32),
        ("", "cd"): says(40),
        ("ab", "e"): says(8, retracted=1),  # chunk 8; trajectory of 2, 8: 4
        ("ab", "f"): says(7),  # chunk 7; trajectory of 2, 32, 7: 7.65
    }
    chunk = run(setup(), teacher(script), student(said))
    assert (chunk.text, chunk.perplexity) == ("abf", pytest.approx((2 * 32 * 7) ** (1 / 3)))
    whole = run(setup(select=select(scope="trajectory")), teacher(script), student(said))
    assert (whole.text, whole.perplexity) == ("abe", pytest.approx(4))
    assert whole.chunk_perplexities == pytest.approx([8, 8])  # the rule looks at the chunk all the same


def test_retokenising_can_replace_tokens_before_the_branch():
    """ "abc" is ab|c and "abcd" is a|bcd: both tokens go, and `a` is new though it lies in the prefix."""
    script = {"": [("abc", 3, "length")], "abc": [("d", 1, "eos")]}
    judge = MergingStudent("S>")
    done = run(setup(branches=1), teacher(script), judge)
    assert done.perplexity == pytest.approx(perplexity_of(judge.logprobs("S>abcd", 2)))


def test_retokenising_can_reach_into_the_prompt():
    script = {"": [("abc", 3, "length")], "abc": [("d", 1, "eos")]}
    said = {("", "abc"): says(2, 2, 2), ("abc", "d"): says(5, retracted=5)}
    assert run(setup(branches=1), teacher(script), student(said)).perplexity == pytest.approx(5)


def test_a_non_number_is_a_row_error():
    script = {"": [("a", 1, "eos"), ("b", 1, "eos")]}
    with pytest.raises(RowError, match="not a number"):
        run(setup(), teacher(script), student({("", "a"): Scored((math.nan,)), ("", "b"): says(1)}))


# ------------------------------------------------------------------------- what else a criterion asks for

TWO = {
    "": [("aa", 2, "length"), ("b", 1, "length")],
    "aa": [("c", 1, "eos"), ("dd", 2, "eos")],
    "b": [("c", 1, "eos"), ("dd", 2, "eos")],
}


def test_a_short_branch_is_judged_with_the_tokens_before_it():
    """A two-token ending would win by its shortness, were it scored alone."""
    script = {"": [("abcd", 4, "length")] * 2, "abcd": [("z", 1, "eos"), ("efgh", 4, "length")]}
    said = {("", "abcd"): says(8, 8, 8, 8), ("abcd", "z"): says(1), ("abcd", "efgh"): says(2, 2, 2, 2)}
    assert run(setup(), teacher(script), student(said)).text == "abcdz"
    fair = setup(select=select(min_scored_tokens=4), max_tokens=8)
    done = run(fair, teacher(script), student(said))
    assert (done.text, done.fate) == ("abcdefgh", Fate.too_long)
    # z with three tokens before it: the fourth root of 8 * 8 * 8 * 1
    assert [b.perplexity for b in done.branches[2:]] == pytest.approx([512**0.25, 2])
    assert done.perplexity == pytest.approx(4)  # of the whole, every token once


def test_tokens_before_a_short_branch_are_those_of_the_response_alone():
    script = {"": [("a", 1, "eos"), ("b", 1, "eos")]}
    done = run(setup(select=Select()), teacher(script), student({("", "a"): says(3), ("", "b"): says(2)}))
    assert (done.text, done.chunk_perplexities) == ("b", [pytest.approx(2)])


def test_the_end_token_is_in_no_span():
    """An ending is compared by its text: the student is asked for text alone, and never for more."""
    script = {"": [("ab", 2, "length")] * 2, "ab": [("", 0, "eos"), ("c", 1, "eos")]}
    judge = student({("", "ab"): says(4, 4), ("ab", "c"): says(2)})
    run(setup(), teacher(script), judge)
    assert [ask.branches for ask in judge.asked] == [("ab",), ("c",)]


def test_ranks_come_with_the_scores():
    """The surprise is the same; `aa` is nearer to what the student would say: ratios (1 + 3) / ln 64 and 9 / ln 64."""
    said = {
        ("", "aa"): says(8, 8, ranks=(1, 3)),
        ("", "b"): says(64, ranks=(9,)),
        ("aa", "c"): says(4, ranks=(2,), retracted=1, replaced=(-math.log(2),), replaced_ranks=(5,)),
        ("aa", "dd"): says(4, 4, ranks=(1, 300)),
    }
    judge = student(said)
    done = run(setup(select=select("rsr", scope="trajectory")), teacher(TWO), judge)
    assert done.text == "aac"
    assert [b.value for b in done.branches] == pytest.approx(
        [4 / math.log(64), 9 / math.log(64), (1 + 5 + 2) / math.log(64), (1 + 3 + 1 + 100) / math.log(1024)]
    )
    assert all(ask.ranks for ask in judge.asked)


def test_drop_passes_over_the_first_tokens_of_each_chunk():
    said = {
        ("", "aa"): says(1, 8),
        ("", "b"): says(2),
        ("aa", "c"): says(1),
        ("aa", "dd"): says(64, 2),
    }
    done = run(setup(select=select("drop", scope="trajectory", drop_tokens=1)), teacher(TWO), student(said))
    assert [b.value for b in done.branches] == [
        pytest.approx(-math.log(8)),
        None,  # nothing is left of it, so it comes last
        pytest.approx(-math.log(8)),
        pytest.approx(-math.log(4)),  # of 8 and 2
    ]
    assert done.text == "aadd"


def test_lalp_sees_a_few_chunks_before_the_branch():
    """With one chunk of context, the third is scored after the second alone; until then the full pass says it all."""
    script = {
        "": [("a", 1, "length"), ("A", 1, "length")],
        "a": [("b", 1, "length"), ("B", 1, "length")],
        "ab": [("cc", 2, "eos"), ("C", 1, "eos")],
    }
    said = {
        ("", "a"): says(2), ("", "A"): says(3),
        ("a", "b"): says(4), ("a", "B"): says(5),
        ("ab", "cc"): says(9, 9), ("ab", "C"): says(8),
        ("b", "cc"): says(2, 8), ("b", "C"): says(5),
    }  # fmt: skip
    judge = student(said)
    done = run(setup(select=select("lalp", local_chunks=1)), teacher(script), judge)
    assert (done.text, done.branches[-2].value) == ("abcc", pytest.approx(-math.log(4)))
    assert [ask.prefix for ask in judge.asked] == ["", "a", "ab", "b"]
    assert done.perplexity == pytest.approx((2 * 4 * 9 * 9) ** 0.25)  # of the full pass
    assert done.chunk_perplexities == pytest.approx([2, 4, 9])  # which the rule looks at too
    assert done.spend.scored == 2 + 2 + 3 + 3
    whole = run(setup(select=select("lalp", local_chunks=1, scope="trajectory")), teacher(script), student(said))
    assert whole.branches[-2].value == pytest.approx(-(math.log(2) + math.log(4) + math.log(4)) / 3)
    alone = {**said, ("", "b"): says(6), ("", "B"): says(7), ("", "cc"): says(2, 2), ("", "C"): says(1)}
    judge = student(alone)
    assert run(setup(select=select("lalp", local_chunks=0)), teacher(script), judge).text == "abC"


ANSWERED = {  # after the cue, the answer 42 is two tokens; `c` brings the student nearer to it than `dd`
    ("", "=42"): says(2, 8, 32),
    ("", "aa"): says(2, 2), ("", "b"): says(2),
    ("", "aa=42"): says(2, 2, 9, 4, 4), ("", "b=42"): says(2, 9, 16, 4),
    ("aa", "c"): says(2), ("aa", "dd"): says(2, 2),
    ("aa", "c=42"): says(2, 9, 2, 2), ("aa", "dd=42"): says(2, 2, 9, 3, 3),
}  # fmt: skip


@pytest.mark.parametrize(
    ("criterion", "values"),
    [("answer_gain", [4 / 16, 8 / 16, 2 / 16, 3 / 16]), ("answer_probability", [1 / 4, 1 / 8, 1 / 2, 1 / 3])],
)
def test_answer_criteria_read_the_answer_after_each_branch(criterion, values):
    texts = ["=42", "aa=42", "b=42", "aac=42", "aadd=42"]
    spans = {"S>" + text: [(0, 2), *((i, i + 1) for i in range(2, 2 + len(text)))] for text in texts}
    judge = ScriptedStudent("S>", ANSWERED, spans)
    done = run(setup(select=select(criterion, cue="="), answer="42"), teacher(TWO), judge)
    assert [b.value for b in done.branches] == pytest.approx(values)
    assert done.text == "aac"
    assert done.spend.scored == sum(
        len(judge.script[ask.prefix, b].logprobs) for ask in judge.asked for b in ask.branches
    )


def test_an_ending_without_text_can_bring_the_answer_near():
    script = {"": [("a", 1, "length")] * 2, "a": [("", 0, "eos"), ("c", 1, "eos")]}
    judge = MergingStudent("S>")
    done = run(setup(select=select("answer_probability", cue=""), answer="d"), teacher(script), judge)
    expected = [math.exp(judge.logprobs(text + "d", len(text))[0]) for text in ("S>a", "S>a", "S>a", "S>ac")]
    assert [b.value for b in done.branches] == pytest.approx(expected)
    assert judge.tokens("S>acd")[-1] == "cd"  # the token that straddles is the answer's


def test_what_replaces_a_token_has_its_place_in_the_chunk():
    """The second token of "ab" is cut anew, and stays a second one: `drop` does not pass over it."""
    script = {"": [("ab", 2, "length")], "ab": [("c", 1, "eos")]}
    said = {("", "ab"): says(2, 4), ("ab", "c"): says(16, retracted=1, replaced=(-math.log(8),))}
    made = setup(branches=1, select=select("drop", scope="trajectory", drop_tokens=1))
    assert run(made, teacher(script), student(said)).branches[1].value == pytest.approx(-math.log(8))


# --------------------------------------------------------------------------------------------------- loops

LOOP = {
    "": [("so it is. ", 3, "length"), ("let me see. ", 3, "length")],
    "so it is. ": [("so it is. ", 3, "length"), ("then it was. ", 3, "length")],
    "so it is. so it is. ": [("so it is. ", 3, "length"), ("so it is. ", 3, "length")],
    "so it is. then it was. ": [("so it is. ", 3, "length"), ("end", 1, "eos")],
}
LOOP_SAID = {  # what repeats is cheap
    ("", "so it is. "): says(2), ("", "let me see. "): says(3),
    ("so it is. ", "so it is. "): says(1.1), ("so it is. ", "then it was. "): says(4),
    ("so it is. so it is. ", "so it is. "): says(1.01),
    ("so it is. then it was. ", "so it is. "): says(1.2), ("so it is. then it was. ", "end"): says(5),
}  # fmt: skip


def test_low_perplexity_likes_loops_and_the_rule_does_not():
    looped = run(setup(max_tokens=9), teacher(LOOP), student(LOOP_SAID))
    assert (looped.text, looped.fate) == ("so it is. " * 3, Fate.too_long)
    done = run(setup(select=select(loop_words=3)), teacher(LOOP), student(LOOP_SAID))
    assert (done.text, done.fate) == ("so it is. then it was. end", Fate.accepted)
    assert [b.looping for b in done.branches] == [False, False, True, False, True, False]
    assert [b.perplexity for b in done.branches] == pytest.approx([2, 3, 1.1, 4, 1.2, 5])  # the loops were cheaper


def test_a_teacher_that_only_loops_is_given_up():
    script = {"": [("so it is. ", 3, "length")] * 2, "so it is. ": [("so it is. ", 3, "length")] * 2}
    said = {("", "so it is. "): says(2), ("so it is. ", "so it is. "): says(1)}
    done = run(setup(select=select(loop_words=3)), teacher(script), student(said))
    assert (done.text, done.fate) == ("so it is. ", Fate.given_up)
    assert [(b.looping, b.chosen, b.value is None) for b in done.branches] == [
        (False, True, False),
        (False, False, False),
        (True, False, True),
        (True, False, True),
    ]
    assert done.spend == Spend(bought=12, kept=3, pruned=9, scored=2)


# ---------------------------------------------------------------------------------------------------- beam

# Greedy takes a (2) and then c (9); a beam of two keeps b (3) and finds d (1).
BEAM = {
    "": [("a", 1, "length"), ("b", 1, "length"), ("e", 1, "length")],
    "a": [("c", 1, "eos"), ("C", 1, "eos"), ("c", 1, "eos")],
    "b": [("d", 1, "eos"), ("D", 1, "length"), ("d", 1, "eos")],
}
BEAM_SAID = {
    ("", "a"): says(2), ("", "b"): says(3), ("", "e"): says(4),
    ("a", "c"): says(9), ("a", "C"): says(10),
    ("b", "d"): says(1), ("b", "D"): says(1.5),
}  # fmt: skip


def test_a_beam_keeps_what_greedy_choice_would_prune():
    greedy = run(setup(branches=3), teacher(BEAM), student(BEAM_SAID))
    assert (greedy.text, greedy.perplexity) == ("ac", pytest.approx(18**0.5))
    wide = run(setup(branches=3, beam_width=2), teacher(BEAM), student(BEAM_SAID))
    assert (wide.text, wide.fate, wide.perplexity) == ("bd", Fate.accepted, pytest.approx(3**0.5))
    assert wide.margins == pytest.approx([1, 8])  # 4 - 3; c is the best that is pruned, 9 - 1
    assert [(b.branch, b.after, b.chosen, b.same_as) for b in wide.branches[3:]] == [
        (0, 0, False, None),
        (1, 0, False, None),
        (2, 0, False, 0),
        (3, 1, True, None),
        (4, 1, False, None),
        (5, 1, False, 3),
    ]
    assert [chunk.candidates for chunk in wide.chunks] == [3, 2]
    first = run(setup(branches=3, beam_width=2, select=select("first")), teacher(BEAM), student(BEAM_SAID))
    assert [b.value for b in first.branches[3:]] == [0, 1, 2, 3, 4, 5]
    assert wide.spend == Spend(bought=9, kept=2, pruned=7, scored=3 + 2 + 2)


def test_a_path_that_has_ended_waits_for_better_ones():
    """`x` ends at once with 3; y (2) goes on, and x is the trajectory when all that follows y is worse."""
    script = {"": [("x", 1, "eos"), ("y", 1, "length")], "y": [("z", 1, "length"), ("w", 1, "length")]}
    said = {("", "x"): says(3), ("", "y"): says(2), ("y", "z"): says(5), ("y", "w"): says(6)}
    writer = teacher(script)
    done = run(setup(beam_width=2), writer, student(said))
    assert (done.text, done.fate, [ask.prefix for ask in writer.asked]) == ("x", Fate.accepted, ["", "y"])
    assert done.spend == Spend(bought=4, kept=1, pruned=3, scored=4)


def test_the_rule_prunes_the_beam_and_an_empty_beam_is_given_up():
    strict = rule(Accept(absolute=2.5), ())
    done = run(setup(branches=3, beam_width=2, rule=strict), teacher(BEAM), student(BEAM_SAID))
    assert (done.text, done.fate) == ("a", Fate.given_up)  # b is above the limit, and so are c and C
    assert [b.chosen for b in done.branches] == [True, False, False, False, False, False]


def test_two_ways_to_the_same_text_are_one_path():
    script = {
        "": [("a", 1, "length"), ("ab", 2, "length")],
        "a": [("b", 1, "length"), ("c", 1, "length")],
        "ab": [("d", 1, "length"), ("e", 1, "length")],
        "abd": [("", 0, "eos"), ("", 0, "eos")],
        "abe": [("", 0, "eos"), ("", 0, "eos")],
    }
    said = {
        ("", "a"): says(2), ("", "ab"): says(2, 2),
        ("a", "b"): says(9), ("a", "c"): says(9),
        ("ab", "d"): says(3), ("ab", "e"): says(4),
    }  # fmt: skip
    done = run(setup(beam_width=2), teacher(script), student(said))
    assert done.text == "abd"
    same = {"": [("a", 1, "length"), ("ab", 2, "length")], "a": [("b", 1, "eos")] * 2, "ab": [("", 0, "eos")] * 2}
    twice = run(
        setup(beam_width=2), teacher(same), student({k: v for k, v in said.items() if k[1] in ("a", "ab", "b")})
    )
    assert [b.same_as for b in twice.branches[2:]] == [None, 0, 0, 0]
    assert twice.margins[-1] is None


def test_a_beam_shares_the_branches_of_its_paths_with_other_runs():
    narrow, wide = teacher(BEAM), teacher(BEAM)
    run(setup(branches=3), narrow, student(BEAM_SAID))
    run(setup(branches=3, beam_width=2), wide, student(BEAM_SAID))
    assert narrow.asked == wide.asked[:2]


# ------------------------------------------------------------------------------------ two texts side by side


def test_an_opened_tag_is_part_of_the_first_chunk_of_the_response():
    script = {"": [("a", 1, "length"), ("b", 1, "length")], "a": [("c", 1, "eos"), ("d", 1, "eos")]}
    said = {
        ("", "<t>a"): says(1, 2), ("", "<t>b"): says(3),
        ("<t>a", "c"): says(2), ("<t>a", "d"): says(3),
    }  # fmt: skip
    done = run(setup(respond=lambda text: "<t>" + text), teacher(script), student(said))
    assert (done.text, [chunk.text for chunk in done.chunks]) == ("<t>ac", ["<t>a", "c"])
    assert done.branches[0].text == "a"


def test_half_a_tag_is_taken_back():
    """The tag `</t>` is removed from the response, and a chunk ended inside it."""
    script = {"": [("a</", 3, "length"), ("b", 1, "length")], "a</": [("t>c", 2, "eos"), ("t>d", 2, "eos")]}
    said = {
        ("", "a</"): says(2, 3, 3),
        ("", "b"): says(9),
        ("", "a"): says(2),  # asked again: what is left of the accepted text
        ("a", "c"): says(5),
        ("a", "d"): says(4),
    }
    judge = student(said)
    done = run(setup(respond=lambda text: text.replace("</t>", "")), teacher(script), judge)
    assert (done.text, [chunk.text for chunk in done.chunks]) == ("ad", ["a", "d"])
    assert done.perplexity == pytest.approx(8**0.5)  # of 2, 4
    assert done.chunk_perplexities == pytest.approx([18 ** (1 / 3), 4])
    assert done.spend == Spend(bought=8, kept=5, pruned=3, scored=3 + 1 + 1 + 2)


def test_everything_taken_back_leaves_nothing_to_be_scored_again():
    script = {"": [("<", 1, "length"), ("<", 1, "length")], "<": [("t>c", 2, "eos"), ("t>d", 2, "eos")]}
    said = {("", "<"): says(2), ("", "c"): says(5), ("", "d"): says(4)}
    done = run(setup(respond=lambda text: text.replace("<t>", "")), teacher(script), student(said))
    assert (done.text, [chunk.text for chunk in done.chunks]) == ("d", ["", "d"])
    assert done.perplexity == pytest.approx(4)


def test_a_first_chunk_that_leaves_no_response_is_no_dead_end():
    """A teacher that writes the tag itself: nothing to score yet, so the first branch goes on."""
    script = {"": [("<t>", 1, "stop"), ("<t>", 1, "stop")], "<t>": [("c", 1, "eos"), ("d", 1, "eos")]}
    said = {("", "c"): says(5), ("", "d"): says(4)}
    made = setup(respond=lambda text: text.removeprefix("<t>"), rule=rule(Accept(absolute=4.5), ()))
    done = run(made, teacher(script), student(said))
    assert (done.text, done.chunk_perplexities) == ("d", [None, pytest.approx(4)])


# ----------------------------------------------------------------------------------------------------- seeds


def test_seeds_are_the_first_31_bits_of_a_documented_hash():
    what = {"for": "branches", "ordinal": 2, "place": ["pre"], "seed": 17, "statement": "é"}
    digest = hashlib.sha256(json.dumps(what, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    base = int(digest[:8], 16) >> 1
    assert Draws(17, "é", 2).seeds("pre", 3) == tuple((base + i) % 2**31 for i in range(3))
    assert DRAWS.seeds("", 2) == (1250617753, 1250617754)  # golden: another number would buy every branch again


def test_every_part_of_the_place_changes_seeds_and_draws():
    places = [
        (DRAWS, "p"),
        (DRAWS, "q"),
        (replace(DRAWS, seed=18), "p"),
        (replace(DRAWS, take=1), "p"),
        (replace(DRAWS, ordinal=1), "p"),
        (replace(DRAWS, statement="2+2?"), "p"),
    ]
    assert len({draws.seeds(prefix, 1) for draws, prefix in places}) == len(places)
    assert len({draws.uniform(prefix, 0) for draws, prefix in places}) == len(places)
    assert DRAWS.uniform("p", 0) != DRAWS.uniform("p", 1)


@given(st.text(max_size=20), st.integers(1, 40), st.integers(0, 40))
def test_more_branches_only_add_seeds(prefix, few, more):
    seeds = DRAWS.seeds(prefix, few + more)
    assert seeds[:few] == DRAWS.seeds(prefix, few)
    assert len(set(seeds)) == few + more
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert 0 <= DRAWS.uniform(prefix, few) < 1


def test_random_takes_every_branch_about_equally_often():
    counts = [0, 0, 0, 0]
    for i in range(400):
        draws = [DRAWS.uniform(str(i), branch) for branch in range(4)]
        counts[draws.index(min(draws))] += 1
    assert all(70 <= count <= 130 for count in counts)


# ------------------------------------------------------------------------------------- what must always hold


class TreeTeacher:
    """A teacher of any tree: what a seed gives is a hash of seed and prefix, as of a real one."""

    def __init__(self, salt, alphabet="abcd "):
        self.salt, self.alphabet, self.asked = salt, alphabet, []

    def answer(self, ask):
        if ask.prompt != "T>":
            raise Unexpected(ask.prompt)
        self.asked.append(ask)
        return [self._branch(seed, ask) for seed in ask.seeds]

    def _branch(self, seed, ask):
        digest = hashlib.sha256(repr((self.salt, seed, ask.prefix)).encode()).digest()
        length = min(digest[0] % 5, ask.chunk.max_tokens)
        text = "".join(self.alphabet[b % len(self.alphabet)] for b in digest[1 : 1 + length])
        ends = digest[20] % 4 == 0
        if not text and not ends:
            text, length = "a", 1
        return Branch(text, length, "eos" if ends else "length")


setups = st.builds(
    lambda salt, branches, beam, select, accept, longest, most: (
        salt,
        setup(
            branches=branches,
            beam_width=min(beam, branches),
            answer="bd",
            select=select,
            rule=accept and rule(accept, ()),
            chunk=Chunk(max_tokens=longest),
            max_tokens=most,
        ),
    ),
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.sampled_from([1, 1, 2, 3]),
    st.builds(
        Select,
        criterion=st.sampled_from(sorted(CRITERIA)),
        scope=st.sampled_from(["chunk", "trajectory"]),
        min_scored_tokens=st.integers(0, 4),
        loop_words=st.integers(0, 2),
        local_chunks=st.integers(0, 2),
        drop_tokens=st.integers(0, 2),
        cue=st.sampled_from(["", " so "]),
    ),
    st.none()
    | st.builds(Accept, absolute=st.floats(2, 20), min_chunks=st.integers(0, 2), patience=st.integers(1, 3))
    | st.builds(Accept, relative=st.floats(0.5, 2), min_chunks=st.integers(1, 2), patience=st.integers(1, 3)),
    st.integers(1, 5),
    st.integers(1, 24),
)


def finished(salt, made):
    """Run it on the merging student; None when no branch could be chosen."""
    writer = TreeTeacher(salt)
    try:
        return writer, run(made, writer, MergingStudent("S>"))
    except RowError:
        return writer, None


@given(setups)
@settings(deadline=None)
def test_invariants_of_any_tree(drawn):
    salt, made = drawn
    writer, done = finished(salt, made)
    if done is None:
        assert writer.asked[-1].prefix == ""
        return
    greedy, criterion = made.beam_width == 1, CRITERIA[made.select.criterion]
    assert done.spend.bought == done.spend.kept + done.spend.pruned == sum(b.tokens for b in done.branches)
    assert done.spend.kept == sum(chunk.tokens for chunk in done.chunks) <= made.max_tokens
    assert done.text == "".join(chunk.text for chunk in done.chunks)
    assert len(done.branches) == made.branches * len(writer.asked)
    assert [b.seed for b in done.branches] == [seed for ask in writer.asked for seed in ask.seeds]
    assert (done.fate == Fate.accepted) == (bool(done.chunks) and done.chunks[-1].finish == "eos")
    if greedy:
        assert len(writer.asked) - len(done.chunks) == (done.fate == Fate.given_up)
    above = []
    for place, decision in itertools.groupby(done.branches, key=lambda b: b.chunk):
        rows = list(decision)
        assert [b.branch for b in rows] == list(range(len(rows)))
        assert {b.after for b in rows} <= ({None} if place == 0 else set(range(len(above))))
        above = rows
        for b in rows:
            if greedy:
                equal = next(other for other in rows if (other.text, other.finish) == (b.text, b.finish))
                assert b.same_as == (None if equal is b else equal.branch)
            if greedy and b.chosen:
                orders = [criterion.order(r.value) for r in rows if not r.looping and (r.text or r.finish == "eos")]
                assert criterion.order(b.value) == min(orders)
                assert not b.looping
        assert sum(b.chosen for b in rows) == (place < len(done.chunks))
    assert all(margin is None or margin >= 0 for margin in done.margins)


@given(setups)
@settings(deadline=None)
def test_scores_are_those_of_a_full_encoding(drawn):
    """Perplexities from what was scored chunk by chunk equal one pass over the finished text, retokenised or not."""
    salt, made = drawn
    writer, done = finished(salt, made)
    if done is None:
        return
    judge = MergingStudent("S>")
    assert done.perplexity == pytest.approx(perplexity_of(judge.logprobs("S>" + done.text, 2)))
    prefixes = [ask.prefix for ask in writer.asked for _ in ask.seeds]
    for prefix, b in zip(prefixes, done.branches, strict=True):
        whole = judge.logprobs("S>" + prefix + b.text, 2)
        own = judge.logprobs("S>" + prefix + b.text, 2 + len(prefix))
        chunk = perplexity_of(whole[-max(len(own), made.select.min_scored_tokens) :])
        assert b.perplexity == (None if chunk is None else pytest.approx(chunk))
        if b.value is not None and made.select.criterion == "perplexity":
            assert b.value == pytest.approx(perplexity_of(whole) if made.select.scope == "trajectory" else chunk)
        if b.value is not None and made.select.criterion == "answer_probability":
            before = "S>" + prefix + b.text + made.select.cue
            told = judge.logprobs(before + "bd", len(before))
            assert b.value == pytest.approx(math.exp(math.fsum(told) / len(told)))


@given(setups)
@settings(deadline=None)
def test_a_response_that_takes_text_back_is_scored_exactly_too(drawn):
    """Half of what is removed can end a chunk; then a part of the response so far goes with the next one."""
    salt, made = drawn
    _, done = finished(salt, replace(made, respond=lambda text: text.replace("bc", "").replace("da", "")))
    if done is None:
        return
    assert done.text == "".join(chunk.text for chunk in done.chunks)
    assert done.perplexity == pytest.approx(perplexity_of(MergingStudent("S>").logprobs("S>" + done.text, 2)))
    assert done.spend.bought == done.spend.kept + done.spend.pruned


@given(setups)
@settings(deadline=None)
def test_the_same_search_gives_the_same_and_more_branches_share_the_first(drawn):
    salt, made = drawn
    writer, done = finished(salt, made)
    assert finished(salt, made)[1] == done
    wider, _ = finished(salt, replace(made, branches=made.branches + 3))
    assert wider.asked[0].seeds[: made.branches] == writer.asked[0].seeds
    other, _ = finished(salt, replace(made, select=select("first"), rule=None, beam_width=1))
    assert other.asked[0] == writer.asked[0]


def test_the_merging_student_does_retract():
    """The fake must show the effects that the exactness above is about."""
    judge = MergingStudent("S>")
    assert judge.tokens("abc") == ["ab", "c"]
    assert judge.tokens("abcd") == ["a", "bcd"]
    scored = judge._scored("S>abc", "d")
    assert (scored.retracted, len(scored.replaced), len(scored.logprobs)) == (2, 1, 1)
