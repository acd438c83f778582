"""Keys and values of prefixes that were read before, so that a growing trajectory is read once.

One entry a prompt, the latest; an entry is used as far as its tokens are those of the text at hand, so a stale one
costs time and never a wrong number. The least recently used go when memory is full. Batches are stacked with padding on
the left and nothing between the real positions: a sliding window counts places, not tokens.
This file does not know scores, branches or models.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Kept:
    """What a model keeps of `ids`: for each layer, keys and values [heads, len(ids), size]."""

    ids: list[int]
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def bytes(self) -> int:
        return sum(states.nbytes for layer in self.layers for states in layer)

    def first(self, count: int) -> Kept:
        """The same for the first tokens alone; shares memory."""
        if count == len(self):
            return self
        return Kept(self.ids[:count], tuple((k[:, :count], v[:, :count]) for k, v in self.layers) if count else ())


class PrefixCache:
    """At most `most_bytes` of entries."""

    def __init__(self, most_bytes: float) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._entries: OrderedDict[str, Kept] = OrderedDict()

    def longest(self, prompt: str, ids: list[int]) -> Kept:
        """What is kept of the beginning of these tokens; empty if nothing is."""
        kept = self._entries.get(prompt)
        if kept is None:
            return Kept([])
        self._entries.move_to_end(prompt)
        return kept.first(common(kept.ids, ids))

    def keep(self, prompt: str, kept: Kept) -> None:
        """Put the entry of a prompt in the place of the one before."""
        self._drop(prompt)
        self._entries[prompt] = kept
        self._bytes += kept.bytes
        while self._bytes > self._most_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, prompt: str) -> None:
        old = self._entries.pop(prompt, None)
        self._bytes -= old.bytes if old else 0


def stack(rows: Sequence[Kept], cache: Any) -> int:
    """Fill an empty cache with the rows, each ending at the right; the number of places, 0 for nothing kept."""
    places = max(len(row) for row in rows)
    if places == 0:
        return 0
    sample = next(row for row in rows if len(row)).layers
    for layer, like in enumerate(sample):
        states = [s.new_zeros(len(rows), s.shape[0], places, s.shape[2]) for s in like]
        for at, row in enumerate(rows):
            for whole, own in zip(states, row.layers[layer] if len(row) else (), strict=False):
                whole[at, :, places - len(row) :] = own
        cache.update(*states, layer)
    return places


def unstack(cache: Any, row: int, begin: int, ids: list[int]) -> Kept:
    """One row's `len(ids)` places from `begin`, copied out of a cache."""
    end = begin + len(ids)
    return Kept(
        ids, tuple((x.keys[row, :, begin:end].clone(), x.values[row, :, begin:end].clone()) for x in cache.layers)
    )


def common(one: list[int], other: list[int]) -> int:
    """How many first tokens are the same."""
    length = min(len(one), len(other))
    return length if one[:length] == other[:length] else next(i for i in range(length) if one[i] != other[i])
