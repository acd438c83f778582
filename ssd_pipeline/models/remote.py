"""A sampler over endpoints, whatever they speak: what goes into one request, and what becomes of its answer.

The branches of a prefix are one request where the server gives branch i the seed + i, else one request each; what is
more than a server takes at once is asked in pieces. Where a server only keeps what it has read to the end, the first
branch of a long text that is new to it goes ahead of the others, which then find it read. Text is what is continued,
exactly as it came; the token ids, where a server tells them, are held against it (joins.py). This file does not know a
server's format (a `Wire` does), templates, trajectories, or what is done with a branch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from ssd_pipeline.errors import RowError
from ssd_pipeline.models.failures import Failure, Reaction, shown
from ssd_pipeline.models.joins import Joins
from ssd_pipeline.models.pieces import Piece, consecutive, whole_branch
from ssd_pipeline.models.retry import Endpoint, Endpoints, Pace, Tell, all_of
from ssd_pipeline.stage import Branch, Keep, Model, Sample, Served

HALF = re.compile("[\ud800-\udfff]")
MOST_ID = 1 << 31
CHARS = 3  # of a token, at the fewest on average: what a text may cost before anybody has counted


class Wire(Protocol):
    """One server format. What it learns of a server when it identifies it holds for the whole model.

    `most_branches`, `most_tokens`: that one request may ask for; `context`: the tokens that a whole text may have, if
    the server says so; `warms`: a text is kept only when a request for it has ended.
    """

    speaks: str
    warms: bool
    most_branches: int
    most_tokens: int | None
    context: int | None

    async def identify(self, endpoint: Endpoint) -> Served:
        """What an endpoint says it serves. Raises Failure if that is not the model."""
        ...

    async def pieces(
        self, endpoint: Endpoint, text: str, tokens: int, seeds: Sequence[int], ask: Sample
    ) -> list[Piece]:
        """Continue `text`, once per seed (they follow each other), by at most `tokens`. Raises Failure."""
        ...


class RemoteSampler:
    """`Sampler` over the endpoints of a model. `tokenizer`: the model's own; `bos`: what it puts before every text, as
    the server does, or ''."""

    def __init__(
        self,
        model: Model,
        wire: Wire,
        tokenizer: Any,
        *,
        bos: str = "",
        pace: Pace | None = None,
        tell: Tell = lambda text: None,
    ) -> None:
        self._name, self._wire, self._bos, self._joins = model.name, wire, bos, Joins(tokenizer)
        self._endpoints = Endpoints(model, wire.speaks, wire.identify, pace, tell)

    async def sample(self, ask: Sample, keep: Keep = lambda seed, branch: None) -> list[Branch]:
        """One branch per seed. Raises RowError, EndpointError."""
        await self._endpoints.served()  # only then it is known what one request may ask for
        groups = consecutive(ask.seeds, self._wire.most_branches)
        long = len(ask.prompt + ask.prefix) > CHARS * ask.chunk.max_tokens
        ahead: list[list[Branch]] = []
        if self._wire.warms and long and not self._endpoints.settled(ask.prompt):
            ahead = [await self._group(ask, groups.pop(0), keep)]
        rest = await all_of([self._group(ask, group, keep) for group in groups])
        return [branch for group in ahead + rest for branch in group]

    def requests(self, seeds: Sequence[int]) -> int:
        """See stage.Sampler."""
        return len(consecutive(seeds, self._wire.most_branches))

    async def served(self) -> Served:
        """What is served, and how many replies there were and changed their tokens."""
        served = await self._endpoints.served()
        return replace(served, joins=self._joins.count, changed_joins=self._joins.changed)

    async def close(self) -> None:
        await self._endpoints.close()

    async def _group(self, ask: Sample, seeds: tuple[int, ...], keep: Keep) -> list[Branch]:
        """The branches of one request. A server that gives one instead of all has answered the first seed."""
        most = self._wire.most_tokens or ask.chunk.max_tokens
        firsts = await self._ask(ask, "", min(most, ask.chunk.max_tokens), seeds)

        async def more(text: str, tokens: int, seed: int) -> Piece | None:
            full = text and self._room(self._start(ask) + text, tokens) < 1
            return None if full else (await self._ask(ask, text, tokens, (seed,)))[0]

        async def one(seed: int, first: Piece | None) -> Branch:
            branch = await whole_branch(ask.chunk, seed, more, first=first, most=most)
            keep(seed, branch)
            return branch

        pieces = [*firsts, *[None] * (len(seeds) - len(firsts))]
        return await all_of([one(seed, piece) for seed, piece in zip(seeds, pieces, strict=True)])

    async def _ask(self, ask: Sample, text: str, tokens: int, seeds: Sequence[int]) -> list[Piece]:
        start = self._start(ask) + text
        tokens = self._room(start, tokens)
        if tokens < 1:
            raise RowError(f"model {self._name}: a text of {len(start)} characters fills its server's context")

        async def call(endpoint: Endpoint) -> list[Piece]:
            pieces = await self._wire.pieces(endpoint, start, tokens, seeds, ask)
            if len(pieces) not in (1, len(seeds)):
                raise Failure(Reaction.again, f"{len(pieces)} branches came, {len(seeds)} were asked for")
            if not all(map(_sound, pieces)):
                raise Failure(Reaction.again, "its text is no Unicode, or its token ids are none")
            pieces = [self._held(start, piece) if piece.ids else piece for piece in pieces]
            if not self._joins.believable():
                foreign = f"the token ids of {self._joins.foreign} of {self._joins.count} replies are not their text"
                raise Failure(Reaction.stop, f"{foreign} in the recipe's tokeniser: it serves another model")
            return pieces

        read = len(start) // CHARS
        most = read + tokens * len(seeds)
        return await self._endpoints.ask(ask.prompt, call, most, lambda pieces: read + sum(p.bought for p in pieces))

    def _held(self, before: str, piece: Piece) -> Piece:
        """A piece held against its token ids: those of a character that is cut are bought and not of the text."""
        whole = self._joins.whole(piece.ids) if piece.finish == "length" else len(piece.ids)
        self._joins.add(before, piece.text, piece.ids[:whole])
        return replace(piece, tokens=whole, ids=piece.ids[:whole])

    def _start(self, ask: Sample) -> str:
        return (ask.prompt + ask.prefix).removeprefix(self._bos)

    def _room(self, text: str, wanted: int) -> int:
        """How many of the tokens that are wanted behind a text the server's context leaves."""
        context = self._wire.context
        if context is None or len(text.encode()) + wanted < context:  # a token has a byte at least
            return wanted
        return min(wanted, context - self._joins.tokens(text) - bool(self._bos))


def _sound(piece: Piece) -> bool:
    """Can this be stored and tokenised? JSON also spells half characters, and numbers of any length."""
    return HALF.search(piece.text) is None and all(0 <= i < MOST_ID for i in piece.ids)


def smaller(known: int | None, said: Any) -> int | None:
    """The smaller of two contexts, in tokens: a text may go to any of several endpoints. What is no number is none."""
    return min(known or said, said) if type(said) is int and said > 0 else known


def check_served(model: Model, served: str, revision: Any) -> Served:
    """Whether an endpoint's model is the recipe's. Raises Failure for another name or another commit.

    What cannot be compared (a local path, a name of the user's own, no commit) is unverifiable.
    """
    expected, name = model.runtime.served_name or model.repo, shown(served, 100)
    if expected is not None and served != expected:
        told = f"it serves {name!r}, not {expected!r}"
        raise Failure(Reaction.stop, f"{told}; if that is the same model, set runtime.models.{model.name}.served_name")
    if not isinstance(revision, str | None):
        raise Failure(Reaction.stop, f"it names its commit {shown(repr(revision), 50)}", status=200)
    if model.repo is None or not revision:
        return Served(name, shown(revision, 100) if revision else None, "unverifiable")
    if revision != model.revision:
        raise Failure(Reaction.stop, f"it serves commit {shown(revision, 100)}, not {model.revision}")
    return Served(name, revision, "verified")


def counted(count: Any, most: int) -> int:
    """A number of tokens that makes sense. Raises Failure."""
    if type(count) is not int or not 1 <= count <= most:
        raise Failure(Reaction.again, f"it counts {shown(repr(count), 50)} tokens, asked for {most}")
    return count


def unknown_end(reason: object) -> Failure:
    """A text that ended for a reason that is none of those that are known is no text that ended."""
    return Failure(Reaction.again, f"it ended a text for an unknown reason: {shown(repr(reason), 50)}")
