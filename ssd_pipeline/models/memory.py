"""Keys and values of a text that was read before, to be gone on with where another text begins with the same tokens.

What stands in a memory is never changed by what is written behind it, so that a text that differs late costs only what
differs. This file does not know models, or who decides what is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

ROOM = 256  # places: keys and values grow by so many at a time
States = tuple[torch.Tensor, torch.Tensor]  # keys and values [heads, places, size]


class Memory:
    """Keys and values of the tokens `ids` of one text, in every layer, with room behind them.

    `tails`: what was read after `ids`, at most one of which will be gone on with: tokens, and States per layer.
    """

    def __init__(self, like: Sequence[States]) -> None:
        self.ids: list[int] = []
        self.tails: list[tuple[list[int], list[States]]] = []
        self._layers = [(k[:, :0], v[:, :0]) for k, v in like]

    @property
    def bytes(self) -> int:
        layers = [self._layers, *(states for _, states in self.tails)]
        return sum(one.nbytes for states in layers for layer in states for one in layer)

    def first(self, layer: int, places: int) -> States:
        """A view of the first places of a layer."""
        k, v = self._layers[layer]
        return k[:, :places], v[:, :places]

    def write(self, layer: int, place: int, states: States) -> None:
        """Put states behind the first `place` places, whatever stood there; what is kept before them stays."""
        end = place + states[0].shape[1]
        if end > self._layers[layer][0].shape[1]:
            size = -(-end // ROOM) * ROOM
            k, v = (one.new_empty(one.shape[0], size, one.shape[2]) for one in self._layers[layer])
            for room, old in zip((k, v), self.first(layer, place), strict=True):
                room[:, :place] = old
            self._layers[layer] = (k, v)
        for room, new in zip(self._layers[layer], states, strict=True):
            room[:, place:end] = new

    def forget(self, places: int) -> None:
        """Keep the first tokens alone, and no tails."""
        self.ids, self.tails = self.ids[:places], []

    def known(self, ids: list[int]) -> int:
        """How many first tokens of a text were read, the tails included."""
        same = common(self.ids, ids)
        tails = self.tails if same == len(self.ids) else []
        return same + max((common(tail, ids[same:]) for tail, _ in tails), default=0)

    def go_on(self, ids: list[int]) -> None:
        """Become the memory of as much of the text `ids` as was read, the best of the tails included."""
        same = common(self.ids, ids)
        tails = self.tails if same == len(self.ids) else []
        self.forget(same)
        if tails:
            tail, states = max(tails, key=lambda tail: common(tail[0], ids[same:]))
            self.append(tail[: common(tail, ids[same:])], states)

    def append(self, ids: list[int], states: Sequence[States]) -> None:
        """Go on with these tokens; of their states the first are taken."""
        for layer, (k, v) in enumerate(states):
            self.write(layer, len(self.ids), (k[:, : len(ids)], v[:, : len(ids)]))
        self.ids = [*self.ids, *ids]

    def copy(self, places: int) -> Memory:
        """A memory of its own of the first tokens."""
        other = Memory(self._layers)
        other.append(self.ids[:places], [self.first(layer, places) for layer in range(len(self._layers))])
        return other


def common(one: list[int], other: list[int]) -> int:
    """How many first tokens are the same."""
    length = min(len(one), len(other))
    return length if one[:length] == other[:length] else next(i for i in range(length) if one[i] != other[i])
