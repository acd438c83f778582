"""The stated rule of what an answer is."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd_pipeline.answers import RULES, extract, reference_answer
from ssd_pipeline.equality import judged_at_once

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
    ("The final answer is $7$. I hope it is correct.", "7"),
    ("The answer is 3.5 and no more", "3.5 and no more"),
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
        "x=" * 500_000,
        "√(" * 300_000,
        "²³" * 300_000,
        r"(\text{a}" * 120_000,
        "." * 1_000_000 + "1",
    ],
    ids=lambda text: f"{text[:8]!r}",
)
def test_a_hostile_megabyte_costs_seconds_and_not_hours(hostile):
    began = time.process_time()
    extract(hostile)
    found = time.process_time()
    judged_at_once(hostile, "5")
    judged_at_once("5", hostile)
    assert found - began < 20
    assert time.process_time() - found < 20


@pytest.mark.parametrize(
    ("field", "answer"),
    [
        ("He sold 48/2 = <<48/2=24>>24 clips.\n#### 72", "72"),
        ("#### $1,234.50", "$1,234.50"),
        (r"We get $\boxed{\frac34}$ units, since $a=2$.", r"\frac34"),
        (r"It is $\boxed 2$.", "2"),
        (" 42 ", "42"),
        ("Paris", "Paris"),
        ("proof", ""),
        ("notfound", ""),
        ("none", "none"),
        ("", ""),
    ],
)
def test_a_reference_field_is_cut_down_to_its_answer(field, answer):
    assert reference_answer(field) == answer
