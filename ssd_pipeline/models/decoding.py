"""New tokens -> the text that they add, and whether they complete a stop.

A token is not a text of its own: the first one may lose its space, several may make up one character. So new tokens are
decoded together, after a plain letter that keeps their first space. That is too dear for every token, and needed only
where a stop may end: at tokens that contain the last character of one. This file does not know models or sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PARTIAL = "\ufffd"  # what an incomplete character decodes to
LONGEST_PARTIAL = 3  # tokens: a character of UTF-8 has four bytes at most


class Decoder:
    """What a tokeniser's tokens add to a text. Special tokens add nothing."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._anchor: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
        self._before = len(self._decode(self._anchor))
        self._may_end: dict[tuple[int, tuple[str, ...]], bool] = {}

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def text(self, ids: Sequence[int]) -> str:
        """The text that tokens add after some other text; an incomplete character is U+FFFD."""
        return self._decode([*self._anchor, *ids])[self._before :]

    def completes(self, ids: Sequence[int], stops: tuple[str, ...]) -> bool:
        """Whether the last of these tokens completes one of the stops."""
        if not stops or not self._may_complete(ids[-1], stops):
            return False
        now, before = self.text(ids), len(self.text(ids[:-1]).rstrip(PARTIAL))
        return any(now.find(stop, max(0, before - len(stop) + 1)) >= 0 for stop in stops)

    def _may_complete(self, token: int, stops: tuple[str, ...]) -> bool:
        known = self._may_end.get((token, stops))
        if known is None:
            text = self.text([token])
            known = PARTIAL in text or any(stop[-1] in text for stop in stops)
            self._may_end[token, stops] = known
        return known

    def whole(self, ids: Sequence[int]) -> tuple[str, int]:
        """The text of these tokens up to their last complete character, and how many tokens that takes.

        Bytes that no further token could complete are the model's own mistake, and stay as U+FFFD.
        """
        text = self.text(ids)
        if text.endswith(PARTIAL):
            for held in range(1, min(LONGEST_PARTIAL, len(ids)) + 1):
                shorter = self.text(ids[:-held])
                if not shorter.endswith(PARTIAL):
                    return shorter, len(ids) - held
        return text, len(ids)
