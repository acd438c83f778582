"""A sampler in this process: many requests with their branches in one batch of a local model.

The prefix of a request is read once and its cache repeated for the branches; rows that have ended leave the batch.
Every branch draws from its own stream, a hash of its seed and the token's place, so that the same request gives the
same text whatever it is batched with (up to the rounding of the model itself). A draw is the inverse of the
cumulative distribution: probabilities in float32, summed in the order of the vocabulary, or of their size where
`top_k` or `top_p` cut. This file does not know problems, chunks of a trajectory, or who judges the branches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ssd_pipeline.errors import RowError
from ssd_pipeline.models.decoding import PARTIAL, Decoder
from ssd_pipeline.models.gather import Gather
from ssd_pipeline.models.growing_cache import growing_cache
from ssd_pipeline.models.joins import Joins
from ssd_pipeline.models.loading import context_length, end_ids, load_causal_lm, load_tokenizer, pick_device
from ssd_pipeline.stage import Branch, Finish, Keep, Model, Sample, Sampling, Served

Give = Callable[[int, "list[Branch] | RowError"], None]
DROP = 8  # ended rows leave the batch when they are one in eight of it: leaving copies the whole cache


@dataclass
class _Row:
    """One branch that is being written."""

    seed: int
    ids: list[int] = field(default_factory=list)
    finish: Finish | None = None


@dataclass
class _Asked:
    """One request: `ids` of prompt + prefix, `room` for new tokens, and a row for each seed."""

    index: int
    ask: Sample
    ids: list[int]
    room: int
    rows: list[_Row]

    @property
    def cost(self) -> int:
        return len(self.ids) + self.room


class TransformersSampler:
    """`Sampler` over a model that transformers can load. Raises ModelError."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._tokenizer = load_tokenizer(model)
        self._device = pick_device(model.runtime.device)
        self._lm = load_causal_lm(model, self._device)
        self._context = context_length(self._lm)
        self._ends = end_ids(self._lm, self._tokenizer)
        self._decoder = Decoder(self._tokenizer)
        self._joins = Joins(self._tokenizer)
        self._gather: Gather[Sample, list[Branch]] = Gather(model.name, self._run)

    async def sample(self, ask: Sample, keep: Keep = lambda seed, branch: None) -> list[Branch]:
        """One branch per seed. Raises RowError for text that fills the model's context."""
        return await self._gather.ask(ask)

    def requests(self, seeds: Sequence[int]) -> int:
        """See stage.Sampler."""
        return 1

    async def served(self) -> Served:
        """The model in this process is the recipe's; a folder has a name but no commit."""
        joins = (self._joins.count, self._joins.changed)
        if self._model.path is not None:
            return Served(self._model.path.name, None, "unverifiable", *joins)
        return Served(str(self._model.repo), self._model.revision, "verified", *joins)

    async def close(self) -> None:
        await self._gather.close()

    # ------------------------------------------------------------------------------- in the thread of `Gather`

    def _run(self, asks: Sequence[Sample], give: Give) -> None:
        together: dict[Sampling, list[_Asked]] = {}
        for index, ask in enumerate(asks):
            ids = self._tokenizer(ask.prompt + ask.prefix, add_special_tokens=False)["input_ids"]
            room = min(ask.chunk.max_tokens, self._context - len(ids))
            if room < 1 or not ids:
                what = f"fills its context of {self._context}" if ids else "is nothing to go on from"
                give(index, RowError(f"model {self._model.name}: a text of {len(ids)} tokens {what}"))
                continue
            rows = [_Row(seed) for seed in ask.seeds]
            together.setdefault(ask.sampling, []).append(_Asked(index, ask, ids, room, rows))
        for sampling, asked in together.items():
            for group in _within(asked, self._model.runtime.batch_tokens):
                self._write(group, sampling, give)

    def _write(self, group: list[_Asked], sampling: Sampling, give: Give) -> None:
        """Write all branches of a group and give each request its own as soon as they have all ended."""
        rows = [(asked, row) for asked in group for row in asked.rows]
        logits, cache, mask, places = self._read_prefixes(group)
        for written in range(max(asked.room for asked in group)):
            tokens = draw(logits, sampling, [row.seed for _, row in rows], written).tolist()
            for (asked, row), token in zip(rows, tokens, strict=True):
                if row.finish is None:
                    self._append(asked, row, token, give)
            alive = [i for i, (_, row) in enumerate(rows) if row.finish is None]
            if not alive:
                return
            if (len(rows) - len(alive)) * DROP >= len(rows):
                keep = torch.tensor(alive, device=self._device)
                cache.batch_select_indices(keep)
                mask, places = mask[keep], places[keep]
                rows, tokens = [rows[i] for i in alive], [tokens[i] for i in alive]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            places = (places + 1).clamp(max=self._context - 1)  # ended rows that are still here go on
            fed = torch.tensor(tokens, device=self._device)[:, None]
            logits = self._lm(fed, attention_mask=mask, position_ids=places, cache=cache, use_cache=True).logits[:, -1]

    def _read_prefixes(self, group: list[_Asked]) -> tuple[torch.Tensor, Any, torch.Tensor, torch.Tensor]:
        """Logits [rows, vocabulary], cache, mask [rows, longest] and last position [rows, 1], after the prefixes."""
        longest = max(len(asked.ids) for asked in group)
        ids = torch.tensor([[0] * (longest - len(a.ids)) + a.ids for a in group], device=self._device)
        lengths = torch.tensor([[len(a.ids)] for a in group], device=self._device)
        at = torch.arange(longest, device=self._device)[None, :] - (longest - lengths)
        mask = (at >= 0).long()
        cache = growing_cache(self._lm.config)
        logits = self._lm(
            ids, attention_mask=mask, position_ids=at.clamp(min=0), cache=cache, use_cache=True, logits_to_keep=1
        ).logits[:, -1]
        each = torch.tensor([i for i, asked in enumerate(group) for _ in asked.rows], device=self._device)
        cache.batch_select_indices(each)
        return logits[each], cache, mask[each], lengths[each] - 1

    def _append(self, asked: _Asked, row: _Row, token: int, give: Give) -> None:
        chunk = asked.ask.chunk
        if token in self._ends:
            row.finish = "eos"
        else:
            row.ids.append(token)
            if len(row.ids) >= chunk.min_tokens and self._decoder.completes(row.ids, chunk.stop):
                row.finish = "stop"
            elif len(row.ids) >= asked.room:
                row.finish = "length"
        if row.finish is not None and all(other.finish is not None for other in asked.rows):
            give(asked.index, self._branches(asked))

    def _branches(self, asked: _Asked) -> list[Branch] | RowError:
        branches = []
        for row in asked.rows:
            text, tokens = self._decoder.whole(row.ids)
            if row.finish == "length" and tokens == 0:
                return RowError(f"max_tokens {asked.room} is too few for one character of {self._model.name}")
            kept = (text, tokens) if row.finish == "length" else (text.rstrip(PARTIAL), len(row.ids))
            self._joins.add(asked.ask.prompt + asked.ask.prefix, kept[0], row.ids[: kept[1]])
            branches.append(Branch(*kept, row.finish or "length"))
        return branches


def _within(asked: list[_Asked], budget: int) -> Iterator[list[_Asked]]:
    """Groups of like length; rows x longest stays within the budget, or it is one request."""
    group: list[_Asked] = []
    for one in sorted(asked, key=lambda one: one.cost):
        if group and one.cost * (sum(len(a.rows) for a in group) + len(one.rows)) > budget:
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def draw(logits: torch.Tensor, sampling: Sampling, seeds: Sequence[int], place: int) -> torch.Tensor:
    """One token per row [rows] from logits [rows, vocabulary]; `place` counts the tokens of the branch from 0."""
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    chances = (logits.float() / sampling.temperature).softmax(dim=-1)
    order = None
    if sampling.top_k or sampling.top_p < 1:
        chances, order = chances.sort(dim=-1, descending=True, stable=True)
        if sampling.top_k:
            chances[:, sampling.top_k :] = 0
            chances = chances / chances.sum(dim=-1, keepdim=True)
        chances = chances.masked_fill(chances.cumsum(dim=-1) - chances >= sampling.top_p, 0)
    below = chances.cumsum(dim=-1)
    at = torch.from_numpy(uniform(seeds, place)).to(below)[:, None] * below[:, -1:]
    ranks = (below < at).sum(dim=-1, keepdim=True).clamp(max=below.shape[-1] - 1)
    return (ranks if order is None else order.gather(-1, ranks))[:, 0]


def uniform(seeds: Sequence[int], place: int) -> np.ndarray:
    """A number in (0, 1) for each seed, float64: SplitMix64 (Steele, Lea, Flood 2014) started at a mix of the seed."""
    gamma = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        start = _mix(np.array([seed & 0xFFFFFFFFFFFFFFFF for seed in seeds], dtype=np.uint64) + gamma)
        bits = _mix(start + np.uint64(place + 1) * gamma) >> np.uint64(11)
    return (bits.astype(np.float64) + 0.5) * 2.0**-53


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
