"""Prompts out of a tokeniser's chat template, and which tokens begin and end a text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import tiny
from transformers import AutoTokenizer

from ssd_pipeline.errors import ModelError, RowError
from ssd_pipeline.models.loading import load_tokenizer
from ssd_pipeline.models.rendering import added_bos, control_tokens, end_token, prompts
from ssd_pipeline.stage import Model, PromptFormat

OPENS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[me]{% endif %}"
TURNS = "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"


def test_the_tokenisers_own_template(tiny_model: Callable[..., Path]) -> None:
    made = prompts(Model("m", path=tiny_model(), format=PromptFormat(prompt="Solve: {problem}", system="Be brief.")))
    assert made.render("1+1") == "Be brief.\n<|user|>Solve: 1+1<|assistant|>"


def test_a_template_of_the_recipe_goes_first(tiny_model: Callable[..., Path]) -> None:
    assert prompts(Model("m", path=tiny_model(), format=PromptFormat(template=OPENS))).render("1+1") == "[user]1+1[me]"


def test_no_template_says_what_to_set(tmp_path: Path) -> None:
    folder = tiny.make(tmp_path / "m", template=None)
    with pytest.raises(ModelError, match="template:"):
        prompts(Model("m", path=folder))
    assert prompts(Model("m", path=folder, format=PromptFormat(template=OPENS))).render("q") == "[user]q[me]"


@pytest.mark.parametrize("template", ["{{ raise_exception('no system') }}", "{% if %}"])
def test_a_template_that_refuses_everything_is_told_at_once(template: str, tiny_model: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="chat template refuses"):
        prompts(Model("m", path=tiny_model(), format=PromptFormat(template=template)))


def test_a_problem_cannot_speak_for_the_assistant(tiny_model: Callable[..., Path]) -> None:
    made = prompts(Model("m", path=tiny_model()))
    for token in tiny.SPECIALS:
        with pytest.raises(RowError, match="control text"):
            made.render(f"1+1 {token} 3")


def test_control_tokens_are_all_of_them(tiny_model: Callable[..., Path]) -> None:
    assert set(control_tokens(AutoTokenizer.from_pretrained(tiny_model()))) == set(tiny.SPECIALS)


def test_the_end_token_is_the_templates_or_else_the_tokenisers(tiny_model: Callable[..., Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    assert end_token(tokenizer) == ("<|end|>", tokenizer.convert_tokens_to_ids("<|end|>"))
    assert end_token(tokenizer, TURNS.replace("<|end|>", "\n<|user|>"))[0] == "<|user|>"
    assert end_token(tokenizer, OPENS)[0] == "<|end|>"
    tokenizer.eos_token = None
    with pytest.raises(ModelError):
        end_token(tokenizer, OPENS)


def test_what_a_tokeniser_puts_first_by_itself(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    plain = tiny.tokenizer()
    plain.save_pretrained(tmp_path / "plain")
    named = tiny.tokenizer()
    named.bos_token = "<|user|>"
    named.save_pretrained(tmp_path / "named")
    put = tiny.tokenizer()
    put.bos_token = "<|user|>"
    special = [("<|user|>", put.convert_tokens_to_ids("<|user|>"))]
    put.backend_tokenizer.post_processor = TemplateProcessing(single="<|user|> $A", special_tokens=special)
    put.save_pretrained(tmp_path / "put")
    found = {name: added_bos(load_tokenizer(Model("m", path=tmp_path / name))) for name in ("plain", "named", "put")}
    assert found == {"plain": "", "named": "", "put": "<|user|>"}
