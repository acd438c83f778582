"""Prompts: the exact characters before and inside a response."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd_pipeline.errors import RowError, UserErrors
from ssd_pipeline.prompts import RECENT, ModelPrompts
from ssd_pipeline.stage import PromptFormat

THINK = ("<think>", "</think>")


def prompts(end="<|assistant|>", control=("<|user|>", "<|assistant|>"), **form):
    """Templates that differ in what they write last."""

    def render(messages):
        return "".join(f"<|{m['role']}|>{m['content']}" for m in messages) + end

    return ModelPrompts(PromptFormat(**form), render, control)


def test_messages_and_rendering():
    made = prompts(prompt="Q: {problem}\n", system="Be brief.")
    assert made.messages("1+1?") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Q: 1+1?\n"},
    ]
    assert made.render("1+1?") == "<|system|>Be brief.<|user|>Q: 1+1?\n<|assistant|>"
    assert prompts(system="").messages("x")[0] == {"role": "system", "content": ""}
    assert prompts().messages("x") == [{"role": "user", "content": "x"}]


@given(st.text())
def test_a_problem_is_put_in_verbatim(problem):
    made = prompts(prompt="{{x}} {0} {problem} \\boxed{}")
    if "<|user|>" not in problem and "<|assistant|>" not in problem:
        assert made.messages(problem)[0]["content"] == "{{x}} {0} " + problem + " \\boxed{}"


def test_braces_of_a_problem_are_text():
    assert prompts(prompt="{problem}!").messages("a {problem} {x}")[0]["content"] == "a {problem} {x}!"


@pytest.mark.parametrize("token", ["<|user|>", "<think>", "</think>"])
def test_control_text_in_a_problem_is_named(token):
    made = prompts(think=THINK)
    for ask in (made.render, made.messages, made.opened, made.before_response):
        with pytest.raises(RowError, match=re.escape(token)):
            ask(f"What does {token} mean?")


def test_white_space_tokens_of_a_tokeniser_are_no_control_text():
    assert prompts(control=("\n\n", " ", "")).render("a\n\nb c") == "<|user|>a\n\nb c<|assistant|>"


@pytest.mark.parametrize(
    ("end", "opened"),
    [
        ("<|assistant|>", ""),
        ("<|assistant|><think>", "<think>"),
        ("<|assistant|><think>\n", "<think>\n"),
        ("<|assistant|><think>\n\n</think>\n\n", ""),  # thinking switched off: closed again
    ],
)
def test_what_a_template_opened(end, opened):
    made = prompts(end, think=THINK)
    assert made.opened("q") == opened
    assert made.render("q") == "<|user|>q" + end
    assert made.before_response("q") == made.render("q").removesuffix(opened)
    assert made.respond("q", "x</think>y") == opened + "x</think>y"
    assert made.before_response("q") + made.respond("q", "x") == made.render("q") + "x"
    assert prompts(end).opened("q") == ""  # no tags are known


def test_a_tag_is_opened_at_the_end_alone():
    assert prompts("<|assistant|>", prompt="Write <think> first. {problem}", think=THINK).opened("q") == ""


@pytest.mark.parametrize(
    ("end", "written", "response"),
    [
        ("<a><think>\n", "why\n</think>\n\n42", "why\n\n\n42"),
        ("<a>", "<think>\nwhy</think>\n\n42", "why\n\n42"),
        ("<a>", "\n<think>why</think>42", "why42"),
        ("<a>", "42", "42"),
        ("<a>", "<think>\n\n</think>\n\n42", "42"),
        ("<a><think>\n", "why", "why"),
        ("<a><think>\n", "", ""),
        ("<a>", "say <think> and </think> and </think>", "say <think> and  and </think>"),
    ],
)
def test_unwrapped_reasoning(end, written, response):
    assert prompts(end, think=THINK, reasoning="unwrap").respond("q", written) == response


def test_unwrapping_needs_tags():
    with pytest.raises(UserErrors, match="add `think"):
        prompts(reasoning="unwrap")


@given(st.text("<think>/\n ab"), st.sampled_from(["<a>", "<a><think>\n"]))
def test_kept_reasoning_only_grows(written, end):
    made = prompts(end, think=THINK)
    assert all(made.respond("q", written).startswith(made.respond("q", written[:n])) for n in range(len(written)))


def test_a_problem_is_rendered_once_while_it_is_recent():
    rendered = []

    def render(messages):
        rendered.append(messages[0]["content"])
        return messages[0]["content"]

    made = ModelPrompts(PromptFormat(), render, ())
    for _ in range(3):
        assert (made.render("a"), made.before_response("a")) == ("a", "a")
    assert rendered == ["a"]
    for i in range(RECENT):
        made.render(str(i))
    made.render("a")
    assert rendered.count("a") == 2
