"""The memories of texts that were read before, so that a growing trajectory is read once.

A text is gone on with where its tokens begin as those of the text at hand, so a stale memory costs time and never a
wrong number; one that was dropped is read again from its text. The least recently used go when the bytes are spent.
A text that leaves another one early (another beam, another row of the same prompt) gets a copy of what they share.
This file does not know scores, branches or models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ssd_pipeline.models.memory import Memory, common

RETRACTED = 16  # tokens: a text that differs so little goes on in place, its tokeniser has cut its end anew


@dataclass
class PrefixCache:
    """At most `most_bytes` of memories, or one. Those that are lent are no one else's, and stay."""

    most_bytes: float
    empty: Callable[[], Memory]
    _kept: list[tuple[str, Memory]] = field(default_factory=list)  # the latest used is the last
    _lent: list[tuple[str, Memory, float]] = field(default_factory=list)

    @property
    def bytes(self) -> float:
        """Of all memories; a lent one counts as what it may become."""
        return sum(memory.bytes for _, memory in self._kept) + sum(most for _, _, most in self._lent)

    def lend(self, prompt: str, ids: list[int], most: float) -> Memory | None:
        """A memory of as much of these tokens as is known; None when what is lent leaves no room for `most` bytes."""
        if self._lent and sum(other for _, _, other in self._lent) + most > self.most_bytes:
            return None
        memory = self._best(prompt, ids)
        self._lent.append((prompt, memory, most))
        while self._kept and self.bytes > self.most_bytes:
            del self._kept[0]
        return memory

    def _best(self, prompt: str, ids: list[int]) -> Memory:
        kept = [memory for of, memory in self._kept if of == prompt]
        known = [*kept, *(memory for of, memory, _ in self._lent if of == prompt)]
        best = max(known, key=lambda memory: memory.known(ids), default=None)
        if best is None or not (same := common(best.ids, ids)):
            return self.empty()
        if best not in kept or len(best.ids) - same > RETRACTED:
            return best.copy(same)
        self._kept = [entry for entry in self._kept if entry[1] is not best]
        best.go_on(ids)
        return best

    def take_back(self, memory: Memory) -> None:
        """The end of a loan; the memory is the latest used."""
        (prompt,) = (of for of, lent, _ in self._lent if lent is memory)
        self._lent = [entry for entry in self._lent if entry[1] is not memory]
        self._kept.append((prompt, memory))

    def halve(self) -> None:
        """Half the bytes from now on, and a fresh start: the device has less memory than was thought."""
        self.most_bytes /= 2
        self.drop()

    def drop(self) -> None:
        """Forget everything, and what is lent too."""
        self._kept, self._lent = [], []
