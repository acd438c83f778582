"""Whether tokens survive being text: chunks are joined as text, and the server encodes the joined text anew.

A reply's tokens change when the encoding of the text so far and the reply is not the tokens so far with those of the
reply behind them: two tokens become one at the join, or the model wrote a text in another way than its tokeniser would.
That is harmless and rare; it is counted so that a run can say how rare. Token ids that do not even spell the reply's
text come from another tokeniser than the recipe's. This file does not know servers or chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PARTIAL = "\ufffd"  # what an incomplete character is shown as
TAIL = 64  # characters of the text so far that are encoded again: no token reaches so far back
LAST = 8  # tokens that tell how a text ends: a character has four bytes at most
ENOUGH = 64  # replies before a share of them means something


class Joins:
    """Counts replies (`count`), those whose tokens change (`changed`), those whose ids spell another text."""

    def __init__(self, tokenizer: Any) -> None:
        self._encoder = tokenizer.backend_tokenizer
        self.count = self.changed = self.foreign = 0

    def add(self, before: str, text: str, ids: Sequence[int]) -> None:
        """Count one reply `text` of the tokens `ids` (end token left out) to the text `before`."""
        tail = before[-TAIL:]
        known = self._encode(tail)
        whole = [*known, *ids]
        self.count += 1
        self.changed += self._encode(tail + text) != whole
        self.foreign += not self._decode(whole).removeprefix(self._decode(known)).startswith(text)

    def believable(self) -> bool:
        """Not so when the ids of most of many replies spell other texts."""
        return self.count < ENOUGH or self.foreign * 2 <= self.count

    def whole(self, ids: Sequence[int]) -> int:
        """How many of these tokens spell whole characters: without those of a character that a cut left incomplete."""
        count = len(ids)
        while count and self._decode(ids[max(0, count - LAST) : count]).endswith(PARTIAL):
            count -= 1
        return count

    def tokens(self, text: str) -> int:
        """How many tokens a whole text has, without what a server adds."""
        return len(self._encode(text))

    def _encode(self, text: str) -> list[int]:
        return list(self._encoder.encode(text, add_special_tokens=False).ids)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._encoder.decode(list(ids), skip_special_tokens=True))
