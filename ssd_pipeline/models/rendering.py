"""The tokeniser's part in asking a model: its chat template, its control tokens, what it adds by itself.

Only the tokeniser is loaded, never weights. The template is rendered to text once and the text is what everybody
exchanges; it is tokenised with `add_special_tokens=False`, since a template writes its own beginning-of-text token
where the model wants one. This file does not know prompts, think tags or responses; see prompts.py.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ssd_pipeline.errors import ModelError, RowError
from ssd_pipeline.models.loading import load_tokenizer
from ssd_pipeline.prompts import ModelPrompts
from ssd_pipeline.stage import Model


def prompts(model: Model) -> ModelPrompts:
    """How `model` is asked. Raises ModelError if it has no chat template and the recipe gives none."""
    tokenizer = load_tokenizer(model)
    template = model.format.template or tokenizer.chat_template
    if template is None:
        raise ModelError(
            f"model {model.name}: its tokeniser has no chat template; give the model a `template:` in the recipe"
        )

    def apply_template(messages: list[dict[str, str]]) -> str:
        return _rendered(tokenizer, model.format.template, messages, add_generation_prompt=True)

    made = ModelPrompts(model.format, apply_template, control_tokens(tokenizer))
    try:
        made.render("a question")  # a template that refuses every problem is the recipe's mistake, not the rows'
    except RowError as refused:
        raise ModelError(f"model {model.name}: {refused}") from refused
    return made


def _rendered(tokenizer: Any, template: str | None, messages: list[dict[str, str]], **wish: bool) -> str:
    from jinja2 import TemplateError

    given = {} if template is None else {"chat_template": template}
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **given, **wish))
    except TemplateError as refused:  # templates raise on roles they do not know, such as system
        raise RowError(f"the chat template refuses these messages: {refused}") from refused


def control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """The texts that the tokeniser reads as control tokens, wherever they stand."""
    added = tokenizer.added_tokens_decoder.values()
    return tuple(sorted({token.content for token in added if token.special} | set(tokenizer.all_special_tokens)))


def end_token(tokenizer: Any, template: str | None = None) -> tuple[str, int]:
    """Text and id of the token that ends an assistant's turn.

    The first control token that the template writes after the content, else the tokeniser's end-of-text token. Raises
    ModelError if there is neither.
    """
    mark = "an answer"
    turns = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": mark}]
    if template or tokenizer.chat_template:
        after = _rendered(tokenizer, template, turns, add_generation_prompt=False).rpartition(mark)[2]
        special = {tokenizer.convert_tokens_to_ids(text) for text in control_tokens(tokenizer)}
        for token in tokenizer(after, add_special_tokens=False)["input_ids"]:
            if token in special:
                return str(tokenizer.convert_ids_to_tokens(token)), int(token)
    if tokenizer.eos_token_id is None:
        raise ModelError("neither the chat template nor the tokeniser says which token ends a turn")
    return str(tokenizer.eos_token), int(tokenizer.eos_token_id)


def ends(tokenizer: Any, template: str | None = None) -> list[int]:
    """The ids of the tokens that end a text or a turn; empty where nothing says so."""
    known = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    with suppress(ModelError, RowError):
        known.append(end_token(tokenizer, template)[1])
    return list(dict.fromkeys(known))


def added_bos(tokenizer: Any) -> str:
    """The text of the token that a tokeniser puts before every text by itself, or ''.

    A server does so too: where the template has written the token already, it must be taken off what is sent.
    """
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    begins = tokenizer.bos_token_id is not None and full[:1] == [tokenizer.bos_token_id] and full != bare
    return str(tokenizer.bos_token) if begins else ""


def token_counter(model: Model) -> Callable[[str], int]:
    """How many tokens of this model a text has, as it stands. Raises ModelError."""
    tokenizer = load_tokenizer(model)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])
