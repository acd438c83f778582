"""Where text and tokens meet.

Texts are exchanged between models, never token ids, so the same characters can be cut into tokens differently by
every tokeniser, and differently again once more text follows. Everything here works on character offsets that a
tokeniser gave for one text. This file does not know tokenisers, models or prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ssd_pipeline.stage import Chunk

Span = tuple[int, int]  # characters [start, end) of one token


def common_prefix(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many leading elements (characters, token ids) two sequences of one type share."""
    shortest = min(len(a), len(b))
    if a[:shortest] == b[:shortest]:
        return shortest
    return next(i for i in range(shortest) if a[i] != b[i])


def first_beyond(offsets: Sequence[Span], length: int) -> int:
    """Index of the first token that ends beyond the first `length` characters; len(offsets) when none does.

    A token that straddles the boundary counts as beyond it. Several tokens of one character have the same span, so
    the END decides.
    """
    return next((i for i, (_, end) in enumerate(offsets) if end > length), len(offsets))


def chunk_lengths(text: str, offsets: Sequence[Span], chunk: Chunk) -> list[int]:
    """Cut a finished text into chunks; the number of tokens of each (all positive, their sum is len(offsets)).

    `offsets` are the spans of consecutive tokens in `text`; the first may begin before the part that is meant. A chunk
    ends with the first token, from its `min_tokens`-th on, in which a stop ends, or at `max_tokens`, or with the text.
    A character of several tokens is never torn: its chunk is longer by those few.
    """
    lengths = []
    start = 0
    while start < len(offsets):
        end = min(start + chunk.max_tokens, len(offsets))
        for i in range(start + chunk.min_tokens, end):
            if _stops(text, offsets[start], offsets[i - 1], chunk.stop):
                end = i
                break
        while end < len(offsets) and offsets[end][0] < offsets[end - 1][1]:
            end += 1
        lengths.append(end - start)
        start = end
    return lengths


def _stops(text: str, first: Span, last: Span, stops: Sequence[str]) -> bool:
    """Does a stop lie in the text from the token `first` on and end inside the token `last`?"""
    return any(text.find(stop, max(first[0], last[0] - len(stop) + 1), last[1]) >= 0 for stop in stops)
