"""find_overlaps: which problems occur, in whole or in part, among those of another stage?

A model that was trained on its test problems is not measured by them. Two statements overlap where `words` words follow
one another in both, whatever their case, punctuation and white space; a shorter statement overlaps where the other is
the same. Put between `load_problems` and `evaluate`, and `where: {contaminated: [false]}` leaves the clean ones. Words
that competitions repeat in every statement overlap too: look at the share before you drop a row. This file does not
know what is trained on.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field

from ssd_pipeline.records import Row
from ssd_pipeline.stage import Params, RowContext, RowStage, StageContext, StageRef, Summary

_WORD = re.compile(r"\w+")


class OverlapParams(Params):
    """Where to look, and what counts."""

    against: StageRef = Field(
        description="a stage with the column problem, such as what is trained on",
        json_schema_extra={"column": "problem"},
    )
    words: int = Field(13, ge=2, le=100, description="so many words in a row, found in both, are an overlap")


@dataclass(frozen=True)
class Overlap:
    """`overlap`: the share of the statement's runs of words that occur in the other stage; null without a statement."""

    overlap: float | None
    contaminated: bool | None


def runs(statement: str, words: int) -> set[bytes]:
    """Every run of `words` words of a statement, each as 8 bytes; the whole statement where it is shorter."""
    said = _WORD.findall(unicodedata.normalize("NFKC", statement).casefold())
    last = max(len(said) - words, 0)
    return {hashlib.blake2b(" ".join(said[i : i + words]).encode(), digest_size=8).digest() for i in range(last + 1)}


def known(params: OverlapParams, ctx: StageContext) -> frozenset[bytes]:
    """The runs of all statements of the other stage: about 60 bytes of memory each."""
    statements = (row["problem"] for row in ctx.stage(params.against).rows(["problem"]))
    return frozenset(run for statement in statements if statement for run in runs(statement, params.words))


async def find(row: Row, params: OverlapParams, ctx: RowContext) -> Overlap:
    """What of one statement is known."""
    if not row["problem"]:
        return Overlap(None, None)
    mine = runs(row["problem"], params.words)
    found = len(mine & ctx.prepared)
    return Overlap(found / len(mine), found > 0)


def summarize(params: OverlapParams, rows: Iterator[Row]) -> Summary:
    """How many statements overlap at all, and how many in half of their runs or more."""
    shares = [row["overlap"] for row in rows if row["overlap"] is not None]
    some, half = sum(s > 0 for s in shares), sum(s >= 0.5 for s in shares)
    note = f"{some} of {len(shares)} statements overlap, {half} by half or more"
    return {"contaminated": some, "by_half": half, "checked": len(shares), "notes": [note]}


STAGE = RowStage(
    "find_overlaps",
    version=1,
    params=OverlapParams,
    reads=lambda params: ("problem",),
    adds=Overlap,
    run=find,
    failed=lambda reason: Overlap(None, None),
    prepare=known,
    summarize=summarize,
)
