"""score_trajectories: a student's perplexity of finished solutions, and of each chunk of them.

The student reads each solution once, as one text; chunks are cut afterwards, and their tokens are the STUDENT's here
(the teacher's tokens of a finished text are not known any more). Its `chunk_perplexities` tell an acceptance rule
what is usual. This file does not know who wrote the solutions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field

from ssd_pipeline.criteria import perplexity_of
from ssd_pipeline.errors import ModelError, RowError
from ssd_pipeline.records import Row, Spend, column
from ssd_pipeline.spans import chunk_lengths, first_beyond
from ssd_pipeline.stage import Chunk, JudgeName, Params, RowContext, RowStage, Score, Summary


class ScoreParams(Params):
    """Who scores, and whether chunk by chunk too."""

    student: JudgeName = Field(description="who scores")
    chunk: Chunk | None = Field(None, description="also score chunks; its tokens are the student's")
    min_scored_tokens: int = Field(
        16, ge=0, le=4096, description="a shorter chunk is scored with the tokens before it, as branches are"
    )


@dataclass(frozen=True)
class Scores:
    """`scored_tokens`: the student's tokens of the solution, the end token not among them."""

    scored_tokens: int | None
    error: str | None
    spend: Spend | None
    perplexity: float | None = column(measured=True)
    chunk_perplexities: list[float | None] | None = column(measured=True)


async def score(row: Row, params: ScoreParams, ctx: RowContext) -> Scores:
    """Score one solution. Raises RowError for a row with an error or without a solution."""
    if row.get("error") is not None:
        raise RowError(row["error"])
    if not row["solution"]:
        raise RowError("there is no solution to score")
    before = (await ctx.prompts(params.student)).before_response(row["problem"])
    scorer = await ctx.scorer(params.student)
    (scored,) = await scorer.score(Score(before, "", (row["solution"],)))
    spend = Spend(scored=len(scored.logprobs))
    ctx.spent(spend)
    chunks = None
    if params.chunk is not None:
        text = before + row["solution"]
        spans = await asyncio.to_thread(scorer.offsets, text)
        spans = spans[first_beyond(spans, len(before)) :]
        if len(spans) != len(scored.logprobs):
            raise ModelError(f"{params.student}: {len(scored.logprobs)} log-probabilities for {len(spans)} tokens")
        chunks, start = [], 0
        for length in chunk_lengths(text, spans, params.chunk):
            end = start + length
            chunks.append(perplexity_of(scored.logprobs[max(0, min(start, end - params.min_scored_tokens)) : end]))
            start = end
    return Scores(len(scored.logprobs), None, spend, perplexity_of(scored.logprobs), chunks)


def failed(reason: str) -> Scores:
    """The columns of a row that could not be scored."""
    return Scores(None, reason, None, None, None)


def summarize(params: ScoreParams, rows: Iterator[Row]) -> Summary:
    """How many rows were scored, their mean perplexity and mean number of the student's tokens."""
    count = tokens = 0
    perplexity = 0.0
    for row in rows:
        if row["perplexity"] is not None:
            count += 1
            tokens += row["scored_tokens"]
            perplexity += row["perplexity"]
    return {
        "scored": count,
        "mean_perplexity": perplexity / count if count else None,
        "mean_tokens": tokens / count if count else None,
    }


STAGE = RowStage(
    "score_trajectories",
    version=2,
    params=ScoreParams,
    reads=lambda params: ("problem", "solution"),
    adds=Scores,
    run=score,
    failed=failed,
    summarize=summarize,
)
