"""One way of writing, whoever wrote it; and what is a list, a pair, a set or the name of something."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd_pipeline.notation import BETWEEN, EQUALS, as_tuple, condition, named, normalise, parts, shape, without_letter


@pytest.mark.parametrize(
    ("written", "usual"),
    [
        ("3√5", r"3\sqrt{5}"),
        ("√(x+1) − ½", r"\sqrt{x+1} - \frac{1}{2}"),
        ("2*sqrt(3)", r"2*\sqrt{3}"),
        ("∛8", r"\sqrt[3]{8}"),
        ("2πr²", r"2\pi r^{2}"),
        ("x₁₂ ≤ 10⁻³", r"x_{12} \le 10^{-3}"),
        ("spin 2pi", r"spin 2\pi"),
        ("（１，２）", "(1,2)"),
        ("—5", "-5"),
        ("10–20", "10–20"),  # a range is no difference
        ("1,2,...", r"1,2,\ldots"),
        ("1, 2, … , 10", r"1, 2, \ldots , 10"),
        ("3:30 P.M.", "3:30 Pm"),
        (r"11,\! 111,\! 100", "11111100"),
        (r"42(\mathrm{~cm})", r"42 \mathrm{ cm}"),
        (r"\text{No solutions.}", r"\text{No solutions.}"),
        ("There are no solutions", r"\emptyset"),
        (r"\text{all reals}", r"\mathbb{R}"),
    ],
)
def test_signs_and_words_are_written_in_one_way(written, usual):
    assert normalise(written) == usual


@given(st.text(alphabet="√π²½−–…≤x15,. {}()\\$", max_size=30))
def test_what_is_written_in_one_way_stays(text):
    once = normalise(normalise(text))
    assert normalise(once) == once


def test_brackets_hold_their_parts_together():
    assert parts(r"(1,2), \{3,4\} \text{ and } f(a,b)", BETWEEN) == ["(1,2)", r"\{3,4\}", "f(a,b)"]
    assert parts("x=y >= f(a=b)=5", EQUALS) == ["x", "y >= f(a=b)", "5"]
    assert parts("1," * 10_000, BETWEEN) == ["1," * 10_000]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("5", ""),
        ("1,2", "list"),
        ("x=1 or x=2", "list"),
        ("x_1=1, x_2=2", "list"),
        ("x=1, y=2", "names"),
        ("(1,2)", "tuple"),
        ("(x,y)=(1,2)", "tuple"),
        ("(1,2),(3,4)", "list"),
        (r"\{1,2\}", "set"),
        ("{1,2}", "set"),
        ("{5}", ""),
        (r"1 \le x < 2", "range"),
        (r"\left", ""),
    ],
)
def test_shapes(text, kind):
    assert shape(text) == kind


@pytest.mark.parametrize(
    "head",
    [
        *("x", "x_1", "x_{12}", r"\alpha", "f(2)", "f'(x)", "AB", "|AB|", "[ABC]", r"m\angle ABC", r"\overline{AB}"),
        *(r"\text{Area}", "number of ways", r"P(A \cap B)", r"\cos A", r"\frac{AB}{CD}", r"\lim_{x \to 0} f(x)", "2+3"),
        "(x,y)",
    ],
)
def test_what_names_a_value(head):
    assert named(f"{head} = 5")


@pytest.mark.parametrize(
    "head",
    [
        "2x",
        "x+y",
        "x^2",
        "-x",
        "1/x",
        "xy",
        "xyz",
        "|x|",
        "x(x+1)",
        "f(x)+g(x)",
        r"\sqrt{x}",
        r"\frac{x}{2}",
        r"\log x",
    ],
)
def test_what_leaves_the_value_to_be_found(head):
    assert not named(f"{head} = 5")
    assert not named(f"y=1, {head}=5")


def test_other_forms_of_a_tuple_and_of_a_condition():
    assert as_tuple("x=1, y=2") == "(1,2)"
    assert as_tuple(r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}") == as_tuple(r"\begin{bmatrix}1&2\end{bmatrix}") == "(1,2)"
    square = r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"
    assert as_tuple(square) == square
    assert as_tuple(r"\begin{vmatrix} 1 & 2 \end{vmatrix}").startswith(r"\begin")
    assert condition(r"\{ x \mid x>1 \}") == "x>1"
    assert condition(r"\{1,2\}") == r"\{1,2\}"
    assert [without_letter(text) for text in ("(E) 32", "(A) 5, (B) 6", "E")] == ["32", "(A) 5, (B) 6", "E"]
