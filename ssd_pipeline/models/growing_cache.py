"""A KV cache that grows in place.

The cache of transformers is concatenated anew with every token, so that a batch of short rows copies its whole past
to add one column: 98 instead of 51 microseconds a row and token with 768 rows of a tiny model on one core. Here a
layer keeps room for what is to come. All layers keep every position; a sliding window is left to the model's mask.
This file does not know tokens or batches.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from ssd_pipeline.errors import ModelError

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
ROOM = 64  # positions allocated ahead


class _RoomyLayer(DynamicLayer):
    """`keys` and `values` [rows, heads, positions, size] are views on buffers with room behind them."""

    keys: Any
    values: Any
    _rooms: tuple[Any, ...] = ()

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple[Any, Any]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old = self.get_seq_length()
        new = old + key_states.shape[-2]
        if not self._rooms or self._rooms[0].shape[-2] < new:
            size = new + ROOM if old else new  # a first forward is often the only one
            self._rooms = tuple(s.new_empty(*s.shape[:2], size, s.shape[-1]) for s in (key_states, value_states))
            for room, states in zip(self._rooms, (self.keys, self.values) if old else (), strict=False):
                room[..., :old, :] = states
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[..., old:new, :] = states
        self.keys, self.values = (room[..., :new, :] for room in self._rooms)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self._rooms = ()


def growing_cache(config: Any) -> Cache:
    """An empty cache for a model with this config. Raises ModelError for layers that are not attention."""
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ()) - ATTENTION
    if kinds:
        raise ModelError(f"its layers are of kind {', '.join(sorted(kinds))}; serve it with vLLM (api: completions)")
    return Cache(layer_class_to_replicate=_RoomyLayer)
