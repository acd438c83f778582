"""The stated rule of what an answer is, and the table of what equals what."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd_pipeline.answers import RULES, choice, equal, extract, normalise, reference_answer, same, words

EXTRACTED = [
    (r"so \boxed{5}", "5"),
    (r"\boxed{\frac{1}{2}} is it", r"\frac{1}{2}"),
    (r"\boxed{3}. Wait, \boxed{4}", "4"),
    (r"\boxed{3} and then \boxed{4", "3"),
    (r"\boxed{5", None),
    (r"put it within \boxed{}", None),
    (r"\boxed{7}. Put it within \boxed{ }", "7"),
    (r"\boxed{\boxed{5}}", "5"),
    (r"\boxed{ \{1, 2\} }", r"\{1, 2\}"),
    (r"{{ \boxed{8} ", "8"),
    (r"}} \boxed{8}", "8"),
    (r"\boxed {9}", "9"),
    (r"$\boxed 5$", "5"),
    (r"\fbox{7}", "7"),
    (r"\boxed{1}" + "\n#### 2\nThe answer is 3.", "1"),
    ("The answer is 3.\n#### 2", "2"),
    ("#### 1,000\n", "1,000"),
    ("####72", "72"),
    ("#### 1\n#### \n", "1"),
    ("##### a heading", None),
    ("The final answer is $7$.", "7"),
    ("**Answer:** 42", "42"),
    ("ANSWER: (C)\r\nmore", "(C)"),
    ("Answer: 1\nAnswer: 2\nand no more", "2"),
    ("Answer: .5", ".5"),
    ("the answer is\n", None),
    ("the answers, 12 of them", None),
    ("I ran out after step 12", None),
    (r"<think>\boxed{1}</think> It is \boxed{2}", "2"),
    (r"<think>\boxed{1}</think> no answer", None),
    (r"<think>a</think>\boxed{1}</think>#### 3", "3"),
    (r"<think>still thinking \boxed{1}", "1"),
    ("", None),
]


@pytest.mark.parametrize(("text", "answer"), EXTRACTED)
def test_the_answer_is_found_by_the_stated_rule(text, answer):
    assert extract(text) == answer


def test_the_rules_and_the_tag_are_parameters():
    text = "\\boxed{1}\n#### 2\nAnswer: 3<end>none"
    assert [extract(text, (rule,), after="") for rule in RULES] == ["1", "2", "3<end>none"]
    assert extract(text, ("phrase", "boxed"), after="") == "3<end>none"
    assert extract(text, RULES, after="<end>") is None


@given(st.text(), st.text(alphabet="ab{}\\ 1$", min_size=1), st.text(alphabet="xyz .\n"))
def test_whatever_stands_before_a_last_balanced_box_is_found(before, inside, after):
    depths = [inside[:i].count("{") - inside[:i].count("}") for i in range(len(inside) + 1)]
    if "\\" in inside or min(depths) < 0 or depths[-1] or not inside.strip():
        return
    assert extract(before + r" \boxed{" + inside + "}" + after, after="") == inside.strip().rstrip(".")


@pytest.mark.parametrize(
    "hostile",
    [
        r"\boxed{" * 140_000,
        r"\boxed{" * 70_000 + "}" * 70_000,
        r"\boxed{ " * 60_000 + " }" * 60_000,
        r"\boxed" + " " * 1_000_000,
        "{" * 1_000_000,
        "answer is " * 100_000,
        "answer" + " " * 1_000_000,
        "answer:\n" * 120_000,
        "####\n" * 200_000,
        "#" * 1_000_000,
        " " * 1_000_000 + "####",
        "</think>" * 125_000,
        "\\" * 1_000_000,
        "1,000" * 200_000,
        "1 " * 500_000 + "1/2",
        r"\text{" * 160_000,
    ],
    ids=lambda text: f"{text[:8]!r}",
)
def test_a_hostile_megabyte_costs_less_than_a_second(hostile):
    began = time.process_time()
    extract(hostile)
    found = time.process_time()
    same(hostile, "5")
    choice(normalise(hostile))
    words(normalise(hostile))
    assert found - began < 1
    assert time.process_time() - found < 1


@pytest.mark.parametrize(
    ("field", "answer"),
    [
        ("He sold 48/2 = <<48/2=24>>24 clips.\n#### 72", "72"),
        ("#### $1,234.50", "$1,234.50"),
        (r"We get $\boxed{\frac34}$ units, since $a=2$.", r"\frac34"),
        (r"It is $\boxed 2$.", "2"),
        (" 42 ", "42"),
        ("Paris", "Paris"),
        ("", ""),
    ],
)
def test_a_reference_field_is_cut_down_to_its_answer(field, answer):
    assert reference_answer(field) == answer


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
]


@pytest.mark.parametrize(("reference", "answer"), EQUAL)
def test_equal_answers(reference, answer):
    assert equal(reference, answer) == "correct"


@pytest.mark.parametrize(("reference", "answer"), UNEQUAL)
def test_unequal_answers(reference, answer):
    assert equal(reference, answer) == "incorrect"


@pytest.mark.parametrize("reference", ["@@@", r"0.\overline{3}", r"\frac{1}", ""])
def test_a_reference_that_cannot_be_read_makes_nobody_wrong(reference):
    assert equal(reference, "1/3") == "error: reference not parseable"


@given(st.text(max_size=30), st.text(max_size=30))
def test_sameness_is_symmetric_and_holds_of_itself(a, b):
    assert same(a, a)
    assert same(a, b) == same(b, a)
