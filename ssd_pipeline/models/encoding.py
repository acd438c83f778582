"""Texts that begin alike into tokens, cut as the tokeniser cuts each whole text, in the time that one of them takes.

K branches after a prefix of a thousand tokens are five times a thousand tokens for a tokeniser that reads them one by
one, and at that a GPU waits for it. Most tokenisers decide each word by itself, and where a word begins by a few
characters: of a text whose beginning is known only the end need be read again, from a word that nothing behind it can
change. That is true of the patterns below, which nearly all byte-level models use; every other tokeniser reads
every text whole. This file does not know models or scores.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


def _pattern(letters: str, marks: str, numbers: str) -> str:
    return (
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?{letters}+|{numbers}"
        rf"| ?[^\s\p{{L}}{marks}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


# Each alternative looks no further than the run of one kind of character that it stands in and one beyond; white space
# is the only run that can be cut somewhere else when it goes on.
LOCAL = {
    _pattern(r"\p{L}", "", r"\p{N}"),  # Qwen 2 to 3
    _pattern(r"\p{L}", "", r"\p{N}{1,3}"),  # Llama 3
    _pattern(r"[\p{L}\p{M}]", r"\p{M}", r"\p{N}"),  # Qwen 3.5
}
MARGIN = 16  # characters, more than an alternative looks ahead beyond white space


@dataclass(frozen=True)
class Encoded:
    """The tokens of one text: the first `kept` of `before`, then all of `end`, which is the text from `start` on."""

    before: Any
    kept: int
    end: Any
    start: int

    @property
    def ids(self) -> list[int]:
        return [*self.before.ids[: self.kept], *self.end.ids]

    def token_at(self, character: int) -> int | None:
        """The token that has this character of the text, if any."""
        if character < self.start:
            found: int | None = self.before.char_to_token(character)
            return found
        token = self.end.char_to_token(character - self.start)
        return None if token is None else self.kept + token


class Encoder:
    """Of a tokeniser's `backend_tokenizer`, which it makes add and cut nothing."""

    def __init__(self, core: Any) -> None:
        core.post_processor = None  # with no special tokens to add, all it would do is to cut white space off offsets
        core.no_truncation()
        core.no_padding()
        self._core = core
        said = json.loads(core.to_str())
        self._margin = MARGIN + max((len(token["content"]) for token in said["added_tokens"]), default=0)
        self._local = _local(said)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Character span (start, end) of each token."""
        offsets: list[tuple[int, int]] = self._core.encode(text, add_special_tokens=False).offsets
        return offsets

    def encode(self, before: str, branches: Sequence[str]) -> tuple[list[int], list[Encoded]]:
        """The tokens of `before`, and those of `before` with each of the branches behind it."""
        first = self._core.encode(before, add_special_tokens=False)
        kept = self._safe(before, first) if self._local else 0
        start = first.offsets[kept][0] if kept else 0
        ends = self._core.encode_batch([before[start:] + text for text in branches], add_special_tokens=False)
        return first.ids, [Encoded(first, kept, end, start) for end in ends]

    def _safe(self, text: str, encoded: Any) -> int:
        """The last token at which a word begins whatever comes after the text; 0 where there is none.

        Behind it stand a character that ends white space, and more of them than any pattern or added token is long. It
        begins with an ASCII character, as these are never put together with the one before (NFC).
        """
        words, offsets = encoded.word_ids, encoded.offsets
        last = len(text[: len(text) - self._margin].rstrip()) if len(text) > self._margin else 0
        for token in range(len(words) - 1, 0, -1):
            start = offsets[token][0]
            if start < last and words[token] != words[token - 1] and text[start].isascii():
                return token
        return 0


def _local(said: dict[str, Any]) -> bool:
    """Whether this tokeniser (its JSON) cuts words locally, and tokens in each word by itself."""
    steps = said["pre_tokenizer"] or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    return (
        said["model"]["type"] == "BPE"
        and not said["model"]["dropout"]
        and (said["normalizer"] or {}).get("type", "NFC") == "NFC"
        and not any(one["lstrip"] or one["rstrip"] or one["single_word"] for one in said["added_tokens"])
        and _local_steps(steps)
    )


def _local_steps(steps: Sequence[dict[str, Any]]) -> bool:
    """One pattern, of words, and bytes last: what cuts bytes cuts inside characters, and a second pattern inside words
    begins some that are none when they are read alone. Cutting digits off before that is local too."""
    *before, last = steps
    splits = [step for step in before if step.get("type") != "Digits"]
    if last.get("type") != "ByteLevel" or last["add_prefix_space"] or len(splits) != (not last["use_regex"]):
        return False
    return all(
        step.get("type") == "Split"
        and step["pattern"].get("Regex") in LOCAL
        and step["behavior"] == "Isolated"
        and not step["invert"]
        for step in splits
    )
