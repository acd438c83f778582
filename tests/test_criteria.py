"""Criteria: formulas on numbers that can be checked by hand."""

import math
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd_pipeline.criteria import CRITERIA, Candidate, Select, Told, loops, perplexity_of
from ssd_pipeline.errors import RowError

# Two chunks of two tokens: probabilities 1/2, 1/8 and then 1/4, 1/32, of ranks 1, 3 and then 2, 200.
SPAN = [
    Told(-math.log(2), 1, 0),
    Told(-math.log(8), 3, 1),
    Told(-math.log(4), 2, 0),
    Told(-math.log(32), 200, 1),
]
HALVES = [math.log(1 / 2)] * 3  # of the answer given the text
CANDIDATE = Candidate(
    branch=2, tokens=7, draw=0.25, span=SPAN, local=[-1.0, -2.0, -4.5], answer=HALVES, question=[math.log(1 / 8)] * 3
)
UNDEFINED = Candidate(branch=0, tokens=0, draw=0.5)


def value(criterion, candidate=CANDIDATE, **more):
    return CRITERIA[criterion].value(candidate, Select(criterion=criterion, **more))


BY_HAND = {  # value, which is better, what it needs
    "perplexity": (2 ** (11 / 4), "low", "scores"),  # geometric mean of 2, 8, 4, 32: 2 to the (1 + 3 + 2 + 5) / 4
    "highest": (2 ** (11 / 4), "high", "scores"),
    "rsr": ((1 + 3 + 2 + 100) / (11 * math.log(2)), "low", "ranks"),  # 200 counts as 100
    "drop": (-(3 + 5) / 2 * math.log(2), "high", "scores"),  # of each chunk the first token is passed over
    "min_token": (1 / 32, "high", "scores"),
    "lalp": (-2.5, "high", "local"),
    "answer_gain": (2 / 8, "low", "answer"),  # perplexity 2 with the text, 8 without
    "answer_probability": (1 / 2, "high", "answer"),
    "random": (0.25, "low", None),
    "first": (2, "low", None),
    "longest": (7, "high", None),
    "shortest": (7, "low", None),
}


@pytest.mark.parametrize("criterion", CRITERIA)
def test_values_by_hand(criterion):
    expected, better, needs = BY_HAND[criterion]
    assert value(criterion, drop_tokens=1) == pytest.approx(expected)
    assert (CRITERIA[criterion].better, CRITERIA[criterion].needs) == (better, needs)


def test_every_criterion_can_be_named_in_a_recipe_and_says_where_it_comes_from():
    assert typing.get_args(Select.model_fields["criterion"].annotation) == tuple(CRITERIA)
    assert all(criterion.value.__doc__ for criterion in CRITERIA.values())


@pytest.mark.parametrize("criterion", [name for name, criterion in CRITERIA.items() if criterion.needs])
def test_an_undefined_value_comes_last_either_way(criterion):
    assert value(criterion, UNDEFINED) is None
    assert CRITERIA[criterion].order(None) == CRITERIA[criterion].order(math.nan) == math.inf


def test_the_better_value_comes_first():
    assert CRITERIA["perplexity"].order(2.0) < CRITERIA["perplexity"].order(3.0)
    assert CRITERIA["highest"].order(3.0) < CRITERIA["highest"].order(2.0)
    assert CRITERIA["drop"].order(-math.inf) == CRITERIA["perplexity"].order(math.inf) == math.inf


def test_certainty_is_no_division_by_zero():
    sure = Candidate(0, 1, 0.5, span=[Told(0.0, 1, 0)])
    assert value("rsr", sure) == 1e12
    impossible = Candidate(0, 1, 0.5, span=[Told(-math.inf, 9, 0)], answer=[-1000.0], question=[-1.0])
    assert (value("rsr", impossible), value("min_token", impossible)) == (None, 0)
    assert value("answer_gain", impossible) == math.inf


def test_nothing_is_left_of_a_chunk_shorter_than_what_is_dropped():
    assert value("drop", drop_tokens=2) is None
    assert value("drop", drop_tokens=0) == pytest.approx(-11 / 4 * math.log(2))


def test_perplexity_of():
    assert perplexity_of([math.log(0.5), math.log(0.125)]) == pytest.approx(4)  # geometric mean of 2 and 8
    assert perplexity_of([]) is None
    assert perplexity_of([-1000.0]) == math.inf
    assert perplexity_of([-math.inf, -1.0]) == math.inf
    with pytest.raises(RowError, match="not a number"):
        perplexity_of([-1.0, math.nan])


@given(st.integers(2, 200_000), st.integers(1, 50))
def test_a_uniform_model_gives_its_vocabulary_size(vocabulary, tokens):
    assert perplexity_of([-math.log(vocabulary)] * tokens) == pytest.approx(vocabulary)


@pytest.mark.parametrize(
    ("before", "text", "words", "looping"),
    [
        ("so it is. wait, ", "so it is. wait, ", 3, True),
        ("so it is. wait, ", "so it was. wait, ", 3, False),
        ("so it is. wait, so it", " is.", 3, True),  # in the middle of the loop
        ("so it is. wait, so it", " is. wait, no", 3, False),
        ("so it is. wait, so it", " is.", 5, False),  # no five words stand twice
        ("so it is. wait, ", "so it is.", 4, False),  # shorter than a run, and not yet in the loop
        ("a b c ", "d d d d d d", 3, True),  # a loop of its own
        ("a b c", "", 1, False),
        ("a b c ", "\n\n", 1, False),  # a text without words says nothing again
        ("a b c ", "a", 4, False),  # not yet four words
        ("a b c ", "b", 1, True),
        ("a b ab", "c", 1, False),  # the rest of a word is none
        ("a b a b ", "a b", 0, False),
    ],
)
def test_a_loop_says_only_what_was_written(before, text, words, looping):
    assert loops(before, text, words) == looping


@given(st.text("ab ", max_size=12), st.lists(st.sampled_from("abc"), min_size=1, max_size=8), st.integers(1, 4))
def test_whatever_is_written_again_is_a_loop(before, period, words):
    text = " ".join(period) + " "
    assert loops(f"{before} {text}", text, words) or len(period) < words
    assert loops(f"{before} {4 * text}", text, words)
