"""sample_branches: the teacher writes a solution in chunks; of the branches of each the best one is accepted.

Gen-SSD (arXiv 2604.02819), and with other numbers its controls: `branches: 1` and one chunk is standard distillation,
N branches and one chunk is best-of-N afterwards, another criterion is another judge. All decisions are taken in
search.py; this file answers its questions, and does not know how.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from ssd_pipeline.acceptance import Accept, Rule, rule
from ssd_pipeline.answers import reference_answer
from ssd_pipeline.criteria import CRITERIA, Select
from ssd_pipeline.errors import RowError, RunError, boundary
from ssd_pipeline.options import Accepted, Ask, Draws, Setup
from ssd_pipeline.records import Fate, Row, Spend, column
from ssd_pipeline.search import Done, search
from ssd_pipeline.spans import first_beyond
from ssd_pipeline.stage import (
    Chunk,
    Count,
    JudgeName,
    ModelName,
    Params,
    RowContext,
    RowStage,
    Sample,
    Sampler,
    Sampling,
    Scorer,
    StageContext,
    Summary,
)


class SampleParams(Params):
    """Every default is ours, none is the paper's."""

    teacher: ModelName = Field(description="who is sampled")
    student: JudgeName | None = Field(None, description="who scores; not needed when nothing must be scored")
    branches: int = Field(4, ge=1, le=1024, description="continuations of each prefix, of which one is accepted")
    beam_width: int = Field(1, ge=1, le=64, description="texts that are grown side by side; Gen-SSD has 1")
    chunk: Chunk = Field(Chunk(), description="the text between two decisions")
    max_tokens: int = Field(4096, ge=1, le=1_000_000, description="a longer solution is too_long; teacher's tokens")
    sampling: Sampling = Sampling()
    select: Select = Select()
    accept: Accept | None = Field(None, description="when to give a problem up; never, if left out")

    def mistakes(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if self.beam_width > self.branches:
            yield ("beam_width",), f"{self.beam_width} is above branches ({self.branches}): the first text has no more"
        if self.student is not None:
            return
        if self.branches > 1 and CRITERIA[self.select.criterion].needs:
            free = ", ".join(name for name, criterion in CRITERIA.items() if not criterion.needs)
            yield ("select", "criterion"), f"{self.select.criterion} needs a student; without one: {free}"
        if self.accept is not None:
            yield ("accept",), "the rule looks at a student's perplexity, and there is no student"


@dataclass(frozen=True)
class Message:
    """One chat message."""

    role: str
    content: str


@dataclass(frozen=True)
class Branches:
    """One row per branch of each decision; the columns are those of search.Candidacy."""

    chunk: int
    branch: int
    after: int | None
    seed: int
    text: str
    tokens: int
    finish: str
    chosen: bool
    same_as: int | None
    looping: bool
    perplexity: float | None = column(measured=True)
    value: float | None = column(measured=True)


@dataclass(frozen=True)
class Trajectory:
    """What a problem became. `solution`: the one response text; `tokens`: the teacher's, of the solution; `looping`:
    the share of its branches that said again what was written. The lists have one entry per accepted chunk;
    perplexities are the student's, null without one."""

    solution: str | None
    messages: list[Message] | None
    fate: Fate
    error: str | None
    tokens: int | None
    chunks: list[Accepted] | None
    spend: Spend | None
    looping: float | None
    chunk_perplexities: list[float | None] | None = column(measured=True)
    perplexity: float | None = column(measured=True)
    margins: list[float | None] | None = column(measured=True)
    branches: list[Branches] = column(table="branches")


async def grow(row: Row, params: SampleParams, ctx: RowContext) -> Trajectory:
    """One trajectory. Raises RowError for a row that came with an error, and what the models raise."""
    if row.get("error") is not None:
        raise RowError(row["error"])
    problem: str = row["problem"]
    answer = reference_answer(row["answer"] or "") if _wants_answer(params) else None
    if answer == "":
        raise RowError(f"{params.select.criterion} needs a reference answer, and this problem has none")
    teacher = await ctx.prompts(params.teacher)
    setup = Setup(
        prompt=teacher.render(problem),
        respond=lambda text: teacher.respond(problem, text),
        judge=(await ctx.prompts(params.student)).before_response(problem) if params.student else None,
        draws=Draws(seed=ctx.seed, statement=problem, ordinal=ctx.ordinal, take=ctx.take),
        branches=params.branches,
        chunk=params.chunk,
        max_tokens=params.max_tokens,
        sampling=params.sampling,
        select=params.select,
        rule=ctx.prepared,
        beam_width=params.beam_width,
        answer=answer,
    )
    scorer = await ctx.scorer(params.student) if params.student else None
    async with ctx.room(params.student, _usual_tokens(params)):
        done = await _drive(search(setup), await ctx.sampler(params.teacher), scorer, ctx)
    said = [Message(m["role"], m["content"]) for m in teacher.messages(problem)]
    return Trajectory(
        solution=done.text,
        messages=[*said, Message("assistant", done.text)],
        fate=done.fate,
        error=None,
        tokens=done.spend.kept,
        chunks=done.chunks,
        spend=done.spend,
        looping=sum(one.looping for one in done.branches) / len(done.branches),
        chunk_perplexities=done.chunk_perplexities if params.student else None,
        perplexity=done.perplexity,
        margins=done.margins,
        branches=[Branches(**vars(candidacy)) for candidacy in done.branches],
    )


def _usual_tokens(params: SampleParams) -> int:
    """What a scorer remembers of a trajectory: half of the longest one, since it grows, and the branches of a chunk; as
    often as the beam is wide."""
    one = params.max_tokens // 2 + params.branches * min(params.chunk.max_tokens, params.max_tokens)
    return one * params.beam_width


async def _drive(
    asks: Generator[Ask | Done, Any, None], sampler: Sampler, scorer: Scorer | None, ctx: RowContext
) -> Done:
    """Answer the search until it is done. No decision is taken here."""
    ask = next(asks)
    while not isinstance(ask, Done):
        if isinstance(ask, Sample):
            branches = await sampler.sample(ask)
            ctx.spent(Spend(bought=sum(branch.tokens for branch in branches)))
            ask = asks.send(branches)
        elif scorer is None:
            raise ValueError("the search asks a student, and there is none")
        elif isinstance(ask, Count):
            spans = await asyncio.to_thread(scorer.offsets, ask.text)  # of a long text: others need not wait for it
            ask = asks.send(len(spans) - first_beyond(spans, ask.beyond))
        else:
            scored = await scorer.score(ask)
            ctx.spent(Spend(scored=sum(len(one.logprobs) for one in scored)))
            ask = asks.send(scored)
    ctx.spent(Spend(kept=ask.spend.kept, pruned=ask.spend.pruned))
    return ask


def _wants_answer(params: SampleParams) -> bool:
    return CRITERIA[params.select.criterion].needs == "answer"


def failed(reason: str) -> Trajectory:
    """The columns of a row that could not be done."""
    return Trajectory(None, None, Fate.error, reason, None, None, None, None, None, None, None, branches=[])


def prepare(params: SampleParams, ctx: StageContext) -> Rule | None:
    """Fix the acceptance rule's limit before anything is sampled. Raises RunError when there is nothing to go by."""
    accept = params.accept
    if accept is None or accept.of is None:
        return None if accept is None else rule(accept, ())
    with boundary(RunError, f"accept.of: the chunk perplexities of {accept.of.stage}"):
        return rule(accept, ctx.stage(accept.of).rows(["chunk_perplexities"]))


def summarize(params: SampleParams, rows: Iterator[Row]) -> Summary:
    """Rows by fate; means over accepted rows; of the accepted decisions, the share in which branches were equal and the
    share that a finished branch won; and the mean share of a row's branches that loop."""
    fates: Counter[str] = Counter()
    tokens = chunks = decisions = repeated = ended = scored = sampled = 0
    perplexity = looping = 0.0
    for row in rows:
        fates[row["fate"]] += 1
        decisions += len(row["chunks"] or ())
        repeated += sum(chunk["candidates"] < params.branches for chunk in row["chunks"] or ())
        ended += sum(chunk["finish"] == "eos" for chunk in row["chunks"] or ())
        if row["looping"] is not None:
            sampled += 1
            looping += row["looping"]
        if row["fate"] == Fate.accepted:
            tokens += row["tokens"]
            chunks += len(row["chunks"])
            if row["perplexity"] is not None:
                scored += 1
                perplexity += row["perplexity"]
    accepted = fates[Fate.accepted]
    return {
        "fates": dict(sorted(fates.items())),
        "mean_tokens": tokens / accepted if accepted else None,
        "mean_chunks": chunks / accepted if accepted else None,
        "mean_perplexity": perplexity / scored if scored else None,
        "repeated_decisions": repeated / decisions if decisions else None,
        "finished_decisions": ended / decisions if decisions else None,
        "looping_branches": looping / sampled if sampled else None,
    }


STAGE = RowStage(
    "sample_branches",
    version=2,
    params=SampleParams,
    reads=lambda params: ("problem", "answer") if _wants_answer(params) else ("problem",),
    adds=Trajectory,
    run=grow,
    failed=failed,
    random=True,
    seeded_by=("problem",),
    prepare=prepare,
    summarize=summarize,
    most_tokens=lambda params: params.beam_width * params.branches * params.max_tokens,
)
