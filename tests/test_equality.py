"""What equals what: a table of 250 pairs with a careful person's verdicts, and the exact rules below it."""

from __future__ import annotations

from fractions import Fraction

import pytest
from fakes.answer_pairs import PAIRS
from hypothesis import given
from hypothesis import strategies as st

from ssd_pipeline.answers import extract, reference_answer
from ssd_pipeline.equality import equal, judged_at_once, number, plainly, quantity


def ours(reference: str, text: str) -> str:
    found = extract(text)
    return "no_answer" if found is None else equal(reference_answer(reference), found).partition(":")[0]


def test_no_wrong_answer_is_accepted_and_more_are_judged_rightly_than_by_math_verify_alone():
    said = [ours(reference, text) for reference, text, _ in PAIRS]
    plain = [plainly(reference, text) for reference, text, _ in PAIRS]
    verdicts = [verdict for *_, verdict in PAIRS]
    assert len(PAIRS) == len(set(PAIRS)) == 250
    assert [p for p, s in zip(PAIRS, said, strict=True) if s == "correct" != p[2]] == []
    assert [p[:2] for p, s in zip(PAIRS, said, strict=True) if s != p[2]] == KNOWN_TO_BE_MISSED
    right = [sum(s == v for s, v in zip(some, verdicts, strict=True)) for some in (said, plain)]
    print(f"right: ours {right[0]}, math-verify called plainly {right[1]} of {len(PAIRS)}")
    assert right[0] > right[1]


KNOWN_TO_BE_MISSED = [("5", r"So it is \boxed{five}.")]

EQUAL = [
    ("72", "72.0"),
    ("1,000", "1000"),
    ("12 345", "12345"),
    (r"11\,000", "11000"),
    ("12345", "12{,}345"),
    ("1/2", "0.5"),
    (r"\frac{1}{2}", r"\dfrac12"),
    ("3 1/2", "3.5"),
    ("1e-3", "0.001"),
    ("-5", "\u22125"),
    ("$1,234.50", "1234.5"),
    ("5", r"\(5\)."),
    ("x=5", "5"),
    (r"\sqrt{8}", r"2\sqrt2"),
    ("a+b", "b+a"),
    ("1,2", "2,1"),
    ("[0,1]", r"0\le x\le 1"),
    (r"\text{yes}", "Yes."),
    ("Paris", r"\text{paris}"),
    ("B", "(b)"),
    ("(C)", "C) 5"),
    (r"\textbf{(C)}", r"\textbf{(C)}\ 5"),
    (r"0.\overline{3}", r"0.\overline{3}"),
    ("@@@", "@@@"),
    (r"50\%", "50"),  # forgiven by math-verify, as answers.py says
    (r"2\text{ million}", "2000000"),
    (r"2\text{ million dollars}", "2 million"),
    ("5 dozen", "60"),
    (r"6.02\times10^{23}", "6.02e23"),
    (r"10\text{ m/s}", "10 m/s"),
    ("20 mph", "20 miles per hour"),
    (r"5^\circ C", r"5^\circ\text{C}"),
    ("5 L", "5"),
    ("45°", "45"),
    ("1A_{16}", "1a_{16}"),
    (r"12\pi\text{ cm}^2", r"12\pi"),
    (r"\frac{1}{3}\pi r^2 h", r"\frac{\pi r^2 h}{3}"),
    ("(B)", "B) f(A) = 5"),
]
UNEQUAL = [
    ("72", "73"),
    ("-5", "5"),
    (r"2\sqrt{3}", "2"),
    (r"12\pi", "12"),
    ("10^{20}", "10^{20}+1"),
    ("(0,1)", "[0,1]"),
    ("seat", "east"),
    ("Paris", "5"),
    ("C", "(B)"),
    ("C", r"\text{B}"),
    ("1e-10", "2e-10"),
    ("5", "__import__('os').system('true')"),
    ("5", "not a number at all %%"),
    (r"\frac{1}{3}\pi r^2 h", r"\frac{1}{3}\pi r^2"),  # math-verify takes every last letter for a unit
    ("x+2t", "x+2"),
    ("5", "5t"),
    (r"\frac{1}{2}h", r"\frac{1}{2}"),
    ("5 m", "5 s"),
    ("5 km", "5 m"),
    ("7 pm", "7 am"),
    (r"2\text{ million}", "2"),
    ("5", r"5\text{ thousand}"),
    ("5", "5 dozen"),
    ("5", "5 squared"),
    ("3", "3 tenths"),
    ("5", r"5\text{ or more}"),
    ("5 cents", r"\$5"),
    (r"\$5", "5 euros"),
    ("A", "(A) or (B)"),
    ("B", "(A) 5, (B) 6"),
    ("1.0004e-5", "1.00000e-5"),
    ("1e-10", "0.000000"),
    (r"1,2,3,\ldots", "1,2,3"),
]


@pytest.mark.parametrize(("reference", "answer"), EQUAL)
def test_equal_answers(reference, answer):
    assert equal(reference, answer) == "correct"


@pytest.mark.parametrize(("reference", "answer"), UNEQUAL)
def test_unequal_answers(reference, answer):
    assert equal(reference, answer).partition(":")[0] == "incorrect"


@pytest.mark.parametrize("reference", ["@@@", r"\frac{1}", ""])
def test_a_reference_that_cannot_be_read_makes_nobody_wrong(reference):
    assert equal(reference, "1/3") == "error: reference not parseable"


def test_an_answer_that_cannot_be_read_is_told_apart_from_a_wrong_one():
    assert equal("5", "@@@") == "incorrect: answer not parseable"
    assert equal("5", r"\sqrt{5}") == "incorrect"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-0.5", Fraction(-1, 2)),
        (".5", Fraction(1, 2)),
        ("1e-3", Fraction(1, 1000)),
        ("7/2", Fraction(7, 2)),
        ("-3 1/2", Fraction(-7, 2)),
        (r"3\frac{1}{2}", Fraction(7, 2)),
        (r"-\frac12", Fraction(-1, 2)),
        ("2 million", Fraction(2_000_000)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        (r"-1.\overline{3}", Fraction(-4, 3)),
        ("1/0", None),
        ("x", None),
        ("1e9999", None),
        ("9" * 300, None),
    ],
)
def test_a_plain_number_is_exact(text, value):
    assert number(text) == value


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (r"5 \mathrm{ cm}^2", ("5", "cm 2")),
        ("5 centimeters", ("5", "cm")),
        (r"60\text{ km} / \mathrm{h}", ("60", "km / h")),
        (r"90^{\circ}", ("90", "degree")),
        (r"50 \%", ("50", "percent")),
        ("18 apples", ("18", "apple")),
        (r"12\pi\text{ cm}", (r"12\pi", "cm")),
        ("x+5 m", ("x+5 m", "")),
        ("2 xy", ("2 xy", "")),
        ("2 million", ("2 million", "")),
        (r"\text{no}", (r"\text{no}", "")),
    ],
)
def test_a_unit_is_told_from_a_formula(text, parts):
    assert quantity(text) == parts


@given(st.fractions(max_denominator=1000), st.fractions(max_denominator=1000))
def test_fractions_are_equal_when_their_values_are(a, b):
    written = rf"\frac{{{b.numerator}}}{{{b.denominator}}}"
    assert judged_at_once(f"{a.numerator}/{a.denominator}", written) == ("correct" if a == b else "incorrect")


@given(st.integers(-(10**9), 10**9), st.integers(0, 6))
def test_a_number_with_separators_or_zeros_is_the_same_number(value, zeros):
    assert judged_at_once(str(value), f"{value:,}") == "correct"
    assert judged_at_once(f"{value:,}", str(value) + ("." + "0" * zeros if zeros else "")) == "correct"
    assert judged_at_once(str(value), str(value + 1)) == "incorrect"


@pytest.mark.parametrize("places", [6, 9, 12])
def test_a_value_rounded_to_six_decimals_or_more_is_right(places):
    assert judged_at_once("2/7", f"{2 / 7:.{places}f}") == "correct"
    assert judged_at_once("2/7", f"{2 / 7 + 2 * 10**-places:.{places}f}") == "incorrect"
    assert judged_at_once("2/7", "0.2857") == "incorrect"


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_equals_itself_and_any_two_are_judged_without_an_error(a, b):
    assert judged_at_once(a, a) == "correct"
    judged_at_once(a, b)


def test_math_verify_called_plainly_takes_the_last_number():
    assert plainly("12", "I ran out of tokens after step 12") == "correct"
    assert plainly("12", "no number") == "no_answer"
