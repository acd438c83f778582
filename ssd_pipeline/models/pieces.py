"""One branch out of several replies of a server, when one reply is not enough.

A server ends at the first stop, even before `min_tokens`, and some take no more than so many tokens at once. The branch
then goes on from the text it has; the caller sees one branch. Each piece has a seed of its own, derived from the
branch's. This file does not know any server's format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ssd_pipeline.errors import RowError
from ssd_pipeline.stage import Branch, Chunk, Finish

SEEDS = 2**31


@dataclass(frozen=True)
class Piece:
    """One reply. `tokens`: of the text, end token left out. `bought`: with those held back from a cut character.
    `ids`: the tokens of the text, where the server tells them."""

    text: str
    tokens: int
    bought: int
    finish: Finish
    ids: tuple[int, ...] = ()


def piece_seed(seed: int, number: int) -> int:
    """The seed of a branch's piece, counted from 0: the first is the branch's own."""
    if number == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} piece {number}".encode()).digest()[:8], "big") % SEEDS


def consecutive(seeds: Sequence[int], most: int) -> list[tuple[int, ...]]:
    """The seeds in groups of at most `most` that follow each other, as a server counts them up from the first."""
    groups: list[list[int]] = []
    for seed in seeds:
        if groups and seed == groups[-1][-1] + 1 and len(groups[-1]) < most:
            groups[-1].append(seed)
        else:
            groups.append([seed])
    return [tuple(group) for group in groups]


async def whole_branch(
    chunk: Chunk,
    seed: int,
    more: Callable[[str, int, int], Awaitable[Piece | None]],
    *,
    first: Piece | None = None,
    most: int | None = None,
) -> Branch:
    """Ask `more(text so far, tokens, seed)` until the chunk has ended, or it has none, since the context is full.

    `first`: the first piece, if it is there already; `most`: tokens that the server gives at once. Raises RowError.
    """
    text, tokens, bought, number = "", 0, 0, 0
    while True:
        wanted = min(chunk.max_tokens - bought, most or chunk.max_tokens)
        piece = first or await more(text, wanted, piece_seed(seed, number))
        if piece is None:
            return Branch(text, tokens, "length")
        first = None
        number += 1
        text, tokens, bought = text + piece.text, tokens + piece.tokens, bought + piece.bought
        if piece.finish == "eos" or (piece.finish == "stop" and bought >= chunk.min_tokens):
            return Branch(text, tokens, piece.finish)
        if bought >= chunk.max_tokens:
            if tokens == 0:
                raise RowError(f"max_tokens {chunk.max_tokens} is too few for one character")
            return Branch(text, tokens, "length")
