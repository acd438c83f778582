"""Log-probabilities of given text under a local model, equal to a full re-encode of that text.

Text is scored, not tokens: branches come from another tokeniser, and joining them to the prefix may join or split
tokens at the boundary. So prompt + prefix + branch is encoded as one text, and the branch has every token whose text
ends inside it; one that straddles the boundary is the branch's. The tokens that all branches of a request share are
read once and kept for the next decision (prefix_cache.py); the branches are rows of one batch after them, with a mask
and explicit positions, since that is right on every attention and every model. Logits reach float32 in slices: of
150,000 words they would not fit otherwise. This file does not know who wrote the text, nor perplexity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ssd_pipeline.errors import RowError
from ssd_pipeline.models.gather import Gather
from ssd_pipeline.models.growing_cache import growing_cache
from ssd_pipeline.models.loading import context_length, load_causal_lm, load_tokenizer, pick_device
from ssd_pipeline.models.prefix_cache import Kept, PrefixCache, common, stack, unstack
from ssd_pipeline.stage import Model, Score, Scored

Give = Callable[[int, "list[Scored] | RowError"], None]
LOGITS = 1 << 28  # of one forward pass: 512 MB in bfloat16
SLICE = 1 << 24  # logits in float32 at once: 64 MB


@dataclass(frozen=True)
class _Row:
    """One branch: `ids` of the whole text, of which those from `start` are the branch's. Scored are all from `first`:
    where the branch made the tokeniser cut the prefix anew, its new tokens too."""

    ids: list[int]
    first: int
    start: int
    retracted: int


@dataclass(frozen=True)
class _Request:
    """One request: its branches as `rows`, and the tokens that they all begin with and none scores first."""

    index: int
    prompt: str
    rows: list[_Row]
    shared: list[int]

    @property
    def longest(self) -> int:
        return max(len(row.ids) for row in self.rows)

    @property
    def tail(self) -> int:
        return self.longest - len(self.shared)


class TransformersScorer:
    """`Scorer` over a model that transformers can load. Raises ModelError."""

    def __init__(self, model: Model) -> None:
        self._name = model.name
        self._budget = model.runtime.batch_tokens
        self._tokenizer = load_tokenizer(model)
        # With no special tokens to add, all it would do is to cut white space off the offsets.
        self._tokenizer.backend_tokenizer.post_processor = None
        self._device = pick_device(model.runtime.device)
        self._lm = load_causal_lm(model, self._device)
        self._context = context_length(self._lm)
        self._prefixes = PrefixCache(model.runtime.cache_gb * 1e9)
        self._gather: Gather[Score, list[Scored]] = Gather(model.name, self._run)

    async def score(self, ask: Score) -> list[Scored]:
        """One result per branch. Raises RowError for a text beyond the model's context, or without a beginning."""
        return await self._gather.ask(ask)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Character span (start, end) of each token of `text`; see stage.Scorer."""
        return [(int(start), int(end)) for start, end in self._encode(text)[1]]

    async def close(self) -> None:
        await self._gather.close()

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return encoded["input_ids"], encoded["offset_mapping"]

    # ------------------------------------------------------------------------------- in the thread of `Gather`

    def _run(self, asks: Sequence[Score], give: Give) -> None:
        requests: list[_Request] = []
        for index, ask in enumerate(asks):
            try:
                requests.append(self._request(index, ask))
            except RowError as refused:
                give(index, refused)
        for group in self._within([r for r in requests if r.rows]):
            ranks = any(asks[request.index].ranks for request in group)
            found = iter(self._measured(group, self._read(group), ranks=ranks))
            for request in group:
                give(request.index, [_scored(row, next(found), asks[request.index].ranks) for row in request.rows])
        for request in requests:
            if not request.rows:
                give(request.index, [])

    def _request(self, index: int, ask: Score) -> _Request:
        before = ask.prompt + ask.prefix
        prefix_ids = self._encode(before)[0]
        rows = []
        for text in ask.branches:
            ids, spans = self._encode(before + text)
            start = _ending_after(spans, len(before))
            same = common(prefix_ids, ids)
            first = min(start, max(same, _ending_after(spans, len(ask.prompt))))
            if len(ids) > self._context:
                limit = f"beyond its context of {self._context}"
                raise RowError(f"model {self._name}: a text of {len(ids)} tokens is {limit}")
            if first == 0:
                raise RowError(f"model {self._name}: nothing stands before the first token, so it has no probability")
            rows.append(_Row(ids, first, start, len(prefix_ids) - same))
        shared = min((min(row.first - 1, common(row.ids, rows[0].ids)) for row in rows), default=0)
        return _Request(index, ask.prompt, rows, rows[0].ids[:shared] if rows else [])

    def _within(self, requests: list[_Request]) -> Iterator[list[_Request]]:
        """Groups of like length whose tokens and logits stay within bounds, or one request."""
        group: list[_Request] = []
        count = tail = 0
        for request in sorted(requests, key=lambda request: request.longest):
            tail, count = max(tail, request.tail), count + len(request.rows)
            if group and (count * request.longest > self._budget or count * tail * self._vocabulary > LOGITS):
                yield group
                group, tail, count = [], request.tail, len(request.rows)
            group.append(request)
        if group:
            yield group

    @property
    def _vocabulary(self) -> int:
        return int(self._lm.config.get_text_config().vocab_size)

    def _read(self, group: list[_Request]) -> list[Kept]:
        """The shared tokens of each request, read as far as they were not read before, and kept."""
        known = [self._prefixes.longest(request.prompt, request.shared) for request in group]
        new = [request.shared[len(kept) :] for request, kept in zip(group, known, strict=True)]
        if not any(new):
            return known
        cache, places, _ = self._forward(known, new, keep=1)
        read = []
        for row, (request, kept) in enumerate(zip(group, known, strict=True)):
            read.append(unstack(cache, row, places - len(kept), request.shared))
            self._prefixes.keep(request.prompt, read[-1])
        return read

    def _forward(self, known: list[Kept], new: list[list[int]], keep: int) -> tuple[Any, int, Any]:
        """One pass over new tokens after known ones: the cache, its places before, and the last `keep` logits.

        Each row is padding, its known tokens, its new tokens, padding; so its real places follow each other.
        """
        cache = growing_cache(self._lm.config)
        places, width = stack(known, cache), max(map(len, new))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in new], device=self._device)
        lengths = torch.tensor([len(row) for row in known], device=self._device)[:, None]
        ends = places + torch.tensor([len(row) for row in new], device=self._device)[:, None]
        at = torch.arange(places + width, device=self._device)[None, :]
        positions = (lengths + torch.arange(width, device=self._device)).clamp(max=self._context - 1)
        output = self._lm(
            ids,
            attention_mask=((at >= places - lengths) & (at < ends)).long(),
            position_ids=positions,
            cache=cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        return cache, places, output.logits

    def _measured(self, group: list[_Request], read: list[Kept], *, ranks: bool) -> list[list[tuple[float, int]]]:
        """For each row of each request, the log-probabilities of its scored tokens, with their ranks if wanted."""
        rows = [(row, kept) for request, kept in zip(group, read, strict=True) for row in request.rows]
        tails = [row.ids[len(kept) :] for row, kept in rows]
        counts = [len(row.ids) - row.first for row, _ in rows]
        if not any(counts):
            return [[] for _ in rows]
        logits = self._forward([kept for _, kept in rows], tails, keep=max(map(len, tails)))[2]
        # A token is predicted by the place before it.
        which = [at for at, count in enumerate(counts) for _ in range(count)]
        place = [i - 1 - len(kept) for row, kept in rows for i in range(row.first, len(row.ids))]
        wanted = [token for row, _ in rows for token in row.ids[row.first :]]
        where = (torch.tensor(x, device=self._device) for x in (which, place, wanted))
        found = _log_softmax_at(logits, *where, ranks=ranks)
        return [[next(found) for _ in range(count)] for count in counts]


def _ending_after(spans: list[tuple[int, int]], place: int) -> int:
    """The index of the first token whose text ends after a place in the text."""
    return next((i for i, (_, end) in enumerate(spans) if end > place), len(spans))


def _scored(row: _Row, found: list[tuple[float, int]], ranks: bool) -> Scored:
    new = row.start - row.first
    logprobs, order = tuple(p for p, _ in found), tuple(rank for _, rank in found)
    scored = Scored(logprobs[new:], row.retracted, logprobs[:new])
    return replace(scored, ranks=order[new:], replaced_ranks=order[:new]) if ranks else scored


def _log_softmax_at(logits: Any, which: Any, place: Any, wanted: Any, *, ranks: bool) -> Iterator[tuple[float, int]]:
    """log softmax(logits[which, place])[wanted] in float32 and its rank (0 if not wanted), a slice at a time."""
    size = max(1, SLICE // logits.shape[-1])
    for w, p, t in zip(which.split(size), place.split(size), wanted.split(size), strict=True):
        numbers = logits[w, p].float()
        own = numbers.gather(-1, t[:, None])
        rank = 1 + (numbers > own).sum(dim=-1) if ranks else torch.zeros_like(t)
        yield from zip((own[:, 0] - numbers.logsumexp(dim=-1)).tolist(), rank.tolist(), strict=True)
