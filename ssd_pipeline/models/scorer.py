"""Log-probabilities of given text under a local model, equal to a full re-encode of that text.

Text is scored, not tokens: branches come from another tokeniser, and joining them to the prefix may join or split
tokens at the boundary. So prompt + prefix + branch is encoded as one text, and the branch has every token whose text
ends inside it; one that straddles the boundary is the branch's. Tokenising happens in the threads of those who ask, so
that the device need not wait for it; several GPUs have a copy of the model and a queue each, and a prompt always goes
to the same one, where its text is remembered. This file does not know who wrote the text, nor perplexity.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ssd_pipeline.errors import ModelError, RowError, boundary
from ssd_pipeline.models.encoding import Encoded, Encoder
from ssd_pipeline.models.loading import context_length, load_causal_lm, load_tokenizer, pick_devices
from ssd_pipeline.models.memory import common
from ssd_pipeline.models.scoring_queue import Request, ScoringQueue, Tokens
from ssd_pipeline.stage import Model, Score, Scored

WAITING = 32  # requests per device that are tokenised and not answered: more would only take memory


@dataclass(frozen=True)
class _Row:
    """One branch: `ids` of the whole text, of which those from `start` are the branch's. Scored are all from `first`:
    where the branch made the tokeniser cut the prefix anew, its new tokens too."""

    ids: list[int]
    first: int
    start: int
    retracted: int


class TransformersScorer:
    """`Scorer` over a model that transformers can load; `devices`: those of the recipe if left out.

    Raises ModelError.
    """

    def __init__(self, model: Model, devices: Sequence[torch.device] | None = None) -> None:
        self._name = model.name
        self._encoder = Encoder(load_tokenizer(model).backend_tokenizer)
        runtime = model.runtime
        self._queues: list[ScoringQueue] = []
        for device in devices or pick_devices(runtime.device):
            lm = load_causal_lm(model, device)
            self._context = context_length(lm)
            with boundary(ModelError, f"model {model.name} cannot score"):
                self._queues.append(ScoringQueue(model.name, lm, runtime.cache_gb, runtime.batch_tokens))
        self._places = asyncio.Semaphore(WAITING * len(self._queues))

    async def score(self, ask: Score) -> list[Scored]:
        """One result per branch. Raises RowError for a text beyond the model's context, or without a beginning."""
        async with self._places:
            rows = await asyncio.to_thread(self._rows, ask)
            texts = tuple(Tokens(row.ids, row.first) for row in rows if row.first < len(row.ids))
            queue = self._queues[zlib.crc32(ask.prompt.encode()) % len(self._queues)]
            found = iter(await queue.ask(Request(ask.prompt, texts, ask.ranks)) if texts else ())
        return [_scored(row, *(next(found) if row.first < len(row.ids) else ([], []))) for row in rows]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Character span (start, end) of each token of `text`; see stage.Scorer."""
        return self._encoder.offsets(text)

    def at_once(self, tokens: int) -> int:
        """How many texts of so many tokens are remembered at once; see stage.Scorer."""
        return max(1, sum(queue.at_once(tokens) for queue in self._queues))

    async def close(self) -> None:
        for queue in self._queues:
            await queue.close()

    def _rows(self, ask: Score) -> list[_Row]:
        before = ask.prompt + ask.prefix
        prefix_ids, encoded = self._encoder.encode(before, ask.branches)
        return [
            self._row(len(ask.prompt), len(before), prefix_ids, one, len(before + text))
            for one, text in zip(encoded, ask.branches, strict=True)
        ]

    def _row(self, prompt: int, before: int, prefix_ids: list[int], encoded: Encoded, length: int) -> _Row:
        ids = encoded.ids
        start = _ending_after(encoded, before, length, len(ids))
        same = common(prefix_ids, ids)
        first = min(start, max(same, _ending_after(encoded, prompt, length, len(ids))))
        if len(ids) > self._context:
            limit = f"beyond its context of {self._context}"
            raise RowError(f"model {self._name}: a text of {len(ids)} tokens is {limit}")
        if first == 0:
            raise RowError(f"model {self._name}: nothing stands before the first token, so it has no probability")
        return _Row(ids, first, start, len(prefix_ids) - same)


def _ending_after(encoded: Encoded, place: int, length: int, tokens: int) -> int:
    """The first of so many tokens whose text ends after a place in the text, which has `length` characters."""
    found = (encoded.token_at(at) for at in range(place, length))
    return next((token for token in found if token is not None), tokens)


def _scored(row: _Row, logprobs: list[float], ranks: list[int]) -> Scored:
    new = row.start - row.first
    own, replaced = tuple(logprobs[new:]), tuple(logprobs[:new])
    return Scored(own, row.retracted, replaced, tuple(ranks[new:]), tuple(ranks[:new]))
