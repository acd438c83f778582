"""How one model is asked, and what counts as its response.

The chat template is rendered once, here, and the text is sent as it is: a wrong character shifts every log-probability
without an error. Some templates open the think tag themselves, so that the model writes only its end; the tag is then
put back, because the ONE response text is scored, verified, trained on and published. When that text is scored or
trained on, it stands after the prompt without what the template opened: a response that does not think is not made
to. This file does not know tokenisers: `apply_template` turns messages into text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from ssd_pipeline.errors import RowError, user_error
from ssd_pipeline.stage import PromptFormat

RECENT = 256  # rendered prompts kept: a problem asks for its own again with every chunk


class ModelPrompts:
    """`Prompts` of one model.

    `apply_template`: messages -> the text after which the model writes. `control_tokens`: texts that the tokeniser
    turns into control tokens; a problem must not contain one, nor a think tag. Raises UserErrors when reasoning is to
    be unwrapped and no think tags are known.
    """

    def __init__(
        self,
        form: PromptFormat,
        apply_template: Callable[[list[dict[str, str]]], str],
        control_tokens: Sequence[str] = (),
    ) -> None:
        if form.reasoning == "unwrap" and form.think is None:
            raise user_error("`reasoning: unwrap` needs the tags: add `think: [<open>, <close>]`", key="reasoning")
        self._form = form
        self._forbidden = tuple(t for t in (*control_tokens, *(form.think or ())) if t.strip())
        self._apply = apply_template
        self._rendered = lru_cache(maxsize=RECENT)(self._render)

    def messages(self, problem: str) -> list[dict[str, str]]:
        """The chat messages before the response. Raises RowError for a problem with control text, naming it."""
        for token in self._forbidden:
            if token in problem:
                raise RowError(f"the problem contains {token!r}, which this model reads as control text")
        system = [] if self._form.system is None else [{"role": "system", "content": self._form.system}]
        return [*system, {"role": "user", "content": self._form.prompt.replace("{problem}", problem)}]

    def _render(self, problem: str) -> str:
        rendered = self._apply(self.messages(problem))
        if problem.strip() not in rendered:
            raise RowError("the chat template leaves the problem out, or changes it")
        return rendered

    def render(self, problem: str) -> str:
        """The exact text after which this model writes."""
        return self._rendered(problem)

    def opened(self, problem: str) -> str:
        """The think tag that the template opened at the end of `render`, with the white space after it, or ''."""
        if self._form.think is None:
            return ""
        rendered = self.render(problem)
        before = rendered.rstrip()
        tag = self._form.think[0]
        return rendered[len(before) - len(tag) :] if before.endswith(tag) else ""

    def respond(self, problem: str, text: str) -> str:
        """The response text of what was sampled: opened tag put back, then reasoning kept or unwrapped."""
        return self._unwrap(self.opened(problem) + text)

    def before_response(self, problem: str) -> str:
        """The exact text before a whole response when it is scored or trained on: `render` without `opened`."""
        return self.render(problem).removesuffix(self.opened(problem))

    def _unwrap(self, text: str) -> str:
        """Without the tags and the white space that begins the text; everything else stays as it was written."""
        if self._form.reasoning == "keep" or self._form.think is None:
            return text
        start, end = self._form.think
        return text.lstrip().removeprefix(start).replace(end, "", 1).lstrip()
