"""Criteria: formulas on numbers that can be checked by hand."""

import math
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd_pipeline.criteria import CRITERIA, Candidate, Select, perplexity_of
from ssd_pipeline.errors import RowError

CANDIDATE = Candidate(branch=2, tokens=7, chunk=1.5, trajectory=3.0, draw=0.25)
UNDEFINED = Candidate(branch=0, tokens=0, chunk=None, trajectory=None, draw=0.5)


def value(criterion, candidate=CANDIDATE, **more):
    return CRITERIA[criterion].value(candidate, Select(criterion=criterion, **more))


def test_every_name_in_a_recipe_is_a_criterion_and_says_where_it_comes_from():
    assert set(typing.get_args(Select.model_fields["criterion"].annotation)) == set(CRITERIA)
    assert all(criterion.value.__doc__ for criterion in CRITERIA.values())


def test_only_the_perplexities_need_a_student():
    assert {name for name, criterion in CRITERIA.items() if criterion.scores} == {"perplexity", "highest"}


@pytest.mark.parametrize(
    ("criterion", "scope", "expected"),
    [
        ("perplexity", "chunk", 1.5),
        ("perplexity", "trajectory", 3.0),
        ("highest", "chunk", -1.5),
        ("highest", "trajectory", -3.0),
        ("random", "chunk", 0.25),
        ("first", "chunk", 2),
        ("longest", "chunk", -7),
        ("shortest", "chunk", 7),
    ],
)
def test_values(criterion, scope, expected):
    assert value(criterion, scope=scope) == expected


@pytest.mark.parametrize("criterion", ["perplexity", "highest"])
def test_an_undefined_perplexity_comes_last_either_way(criterion):
    assert value(criterion, UNDEFINED) == math.inf


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
