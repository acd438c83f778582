"""The queue of one device: requests of many trajectories become forward passes of a bounded number of tokens.

One thread owns the model. It takes what waits, lends each request the memory of its text, and fills every pass with
whatever is next: first the tokens that all branches of a request share, which may be cut anywhere, then all branches
at once. Branches too long for one pass are read one after the other, so that memory stays bounded for any text. When
the device is out of memory, passes and caches are halved and the same tokens are read again. This file does not know
text, tokenisers or what scores are for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ssd_pipeline.errors import RowError
from ssd_pipeline.models.gather import Gather
from ssd_pipeline.models.memory import ROOM, Memory, common
from ssd_pipeline.models.packed import PackedModel, Part
from ssd_pipeline.models.prefix_cache import PrefixCache

TOGETHER = 4  # tokens: so few that all branches share are read with each of them, as reading them alone costs more
LEAST = 64  # tokens of a pass: a device that has no memory for so few has none
WINDOW = {"cpu": 1024}  # where more tokens at once are no faster, fewer need less memory
Measured = list[tuple[list[float], list[int]]]  # log-probabilities and ranks


@dataclass(frozen=True)
class Tokens:
    """One text to read: `ids`, of which those from `first` on (at least 1) are scored."""

    ids: list[int]
    first: int


@dataclass(frozen=True)
class Request:
    """Texts that begin alike, and whether their ranks are wanted; `prompt` tells what may be remembered of them."""

    prompt: str
    texts: tuple[Tokens, ...]
    ranks: bool


class ScoringQueue:
    """Answers requests with log-probabilities and ranks, one entry per text."""

    def __init__(self, name: str, lm: Any, cache_gb: float, batch_tokens: int) -> None:
        self._model = PackedModel(lm)
        self._window = min(batch_tokens, WINDOW.get(lm.device.type, 8192))
        self._cache = PrefixCache(cache_gb * 1e9, self._model.memory)
        self._gather: Gather[Request, Measured] = Gather(name, self._run)

    async def ask(self, request: Request) -> Measured:
        """The answer to one request."""
        return await self._gather.ask(request)

    def at_once(self, tokens: int) -> int:
        """How many texts of so many tokens are remembered at once."""
        return int(self._cache.most_bytes // (self._model.token_bytes * (tokens + ROOM)))

    async def close(self) -> None:
        """See Gather; the memories go."""
        await self._gather.close()
        self._cache.drop()

    # ------------------------------------------------------------------------------- in the thread of `Gather`

    def _run(self, requests: Sequence[Request], give: Callable[[int, Measured | RowError], None]) -> None:
        waiting = deque(enumerate(requests))
        reading: list[_Reading] = []
        try:
            while waiting or reading:
                while waiting and sum(one.left for one in reading) < self._window:
                    begun = self._begin(*waiting[0])
                    if begun is None:
                        break
                    waiting.popleft()
                    reading.append(begun)
                if not self._pass(reading):
                    waiting.extendleft((one.index, one.request) for one in reversed(reading))
                    reading = []
                for one in [one for one in reading if not one.left]:
                    reading.remove(one)
                    self._cache.take_back(one.memory)
                    give(one.index, [(logprobs, ranks if one.request.ranks else []) for logprobs, ranks in one.found])
        except BaseException:
            self._cache.drop()
            raise

    def _begin(self, index: int, request: Request) -> _Reading | None:
        """The request with a memory of its text; None while those that are being read leave no room for it."""
        shared = beginning(request.texts)
        tails = sum(len(text.ids) - 1 - len(shared) + TOGETHER for text in request.texts)
        groups = [request.texts] if tails <= self._window else [(text,) for text in request.texts]
        longest = len(shared) + tails if len(groups) == 1 else max(len(text.ids) for text in request.texts)
        memory = self._cache.lend(request.prompt, shared, (longest + ROOM) * self._model.token_bytes)
        return None if memory is None else _Reading(index, request, memory, deque(groups))

    def _pass(self, reading: list[_Reading]) -> bool:
        """One forward pass over what is next in these requests; False when the device had no memory for it."""
        parts: list[tuple[_Reading, Part]] = []
        free = self._window
        for one in reading:
            for part in one.next(free):
                parts.append((one, part))
                free -= len(part)
        try:
            ranks = any(one.request.ranks for one, _ in parts)
            measured = self._model.measure([part for _, part in parts], ranks=ranks)
        except torch.OutOfMemoryError:
            if self._window <= LEAST:
                raise
            measured = []
        if not measured:  # not above: while the error lives, so do the tensors of its pass
            self._window //= 2
            self._cache.halve()
        for (one, part), found in zip(parts, measured, strict=bool(measured)):
            one.read(part, found)
        return bool(measured)


def beginning(texts: Sequence[Tokens]) -> list[int]:
    """The tokens that all texts begin with; after each of them another one follows."""
    first = texts[0].ids
    return first[: min(min(len(text.ids) - 1, common(text.ids, first)) for text in texts)]


class _Reading:
    """A request while it is read: what all texts of a group share goes into the memory, the rest follows as tails."""

    def __init__(self, index: int, request: Request, memory: Memory, groups: deque[tuple[Tokens, ...]]) -> None:
        self.index, self.request, self.memory = index, request, memory
        self.found: Measured = []
        self._groups = groups
        self._enter()

    def _enter(self) -> None:
        """Begin with the first group. The token before the first scored one is read again: it predicts that one."""
        texts = self._groups[0]
        shared = beginning(texts)
        known = min(common(self.memory.ids, shared), *(text.first - 1 for text in texts))
        self._shared = shared if len(texts) == 1 or len(shared) - known > TOGETHER else shared[:known]
        self._tails = [text.ids[len(self._shared) : -1] for text in texts]
        self.memory.forget(known)
        self.found += [([], []) for _ in texts]

    @property
    def left(self) -> int:
        """Tokens of this group that are still to be read; 0 when there is no group left."""
        return len(self._shared) - len(self.memory.ids) + sum(map(len, self._tails)) if self._groups else 0

    def next(self, free: int) -> Iterator[Part]:
        """What to read next, in at most so many tokens."""
        begin, all_shared = len(self.memory.ids), len(self._shared)
        end = min(all_shared, begin + free)
        if end > begin:
            wanted = [(max(text.first, begin + 1), text.ids) for text in self._groups[0]]
            spans = [(first - 1 - begin, ids[first : end + 1]) for first, ids in wanted]
            yield Part(self.memory, begin, [self._shared[begin:end]], True, spans)
        tails = sum(map(len, self._tails))
        if end == all_shared and 0 < tails <= free - (end - begin):
            spans, start = [], 0
            for text, tail in zip(self._groups[0], self._tails, strict=True):
                first = max(text.first, all_shared + 1)
                spans.append((start + first - 1 - all_shared, text.ids[first:]))
                start += len(tail)
            yield Part(self.memory, all_shared, self._tails, False, spans)

    def read(self, part: Part, found: Measured) -> None:
        """Keep what was found of one part, and what the memory has learnt."""
        for (logprobs, ranks), (more, more_ranks) in zip(self.found[-len(self._tails) :], found, strict=True):
            logprobs += more
            ranks += more_ranks
        if part.into:
            self.memory.ids = [*self.memory.ids, *part.runs[0]]
        else:
            self.memory.tails = part.as_tails()
            self._tails = [[] for _ in self._tails]
        if not self.left:
            self._groups.popleft()
            if self._groups:
                self._enter()
