"""The heart: a teacher writes in chunks, a student judges the candidates of each, the best one joins the text.

`search` is a generator that asks and is answered: it yields `Sample` (answered by the branches, in the order of the
seeds) and `Score` (answered by one `Scored` per branch), and last `Done`. It takes every decision and does nothing
else, so that it can be tested with plain lists. Two texts grow side by side: what the teacher wrote (it is asked to
continue exactly that) and the response (think tags put back or removed), which is scored, published and trained on.
This file does not know models, endpoints, asyncio, files or rows.

Seeds are hashed from the place of a decision alone (the recipe's seed and take, the statement, the text so far), so
that runs with another student, criterion, acceptance or number of branches share the branches that they have in
common.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Any

from ssd_pipeline.acceptance import Rule
from ssd_pipeline.criteria import CRITERIA, Candidate, Select, perplexity_of
from ssd_pipeline.errors import RowError
from ssd_pipeline.records import Fate, Spend
from ssd_pipeline.spans import common_prefix
from ssd_pipeline.stage import Branch, Chunk, Sample, Sampling, Score, Scored


@dataclass(frozen=True)
class Draws:
    """Where the randomness of a problem comes from. `ordinal`: its place among equal statements."""

    seed: int
    statement: str
    ordinal: int = 0
    take: int = 0

    def seeds(self, prefix: str, branches: int) -> tuple[int, ...]:
        """One seed per branch after `prefix`, 31 bits each; more branches only add to them."""
        base = int.from_bytes(self._digest("branches", prefix)[:4]) >> 1
        return tuple((base + i) % 2**31 for i in range(branches))

    def uniform(self, prefix: str, branch: int) -> float:
        """A number in [0, 1) for one branch after `prefix`, independent of the seeds."""
        return (int.from_bytes(self._digest("random", prefix, branch)[:8]) >> 11) / 2**53

    def _digest(self, label: str, *place: Any) -> bytes:
        what = {"for": label, "seed": self.seed, "statement": self.statement, "ordinal": self.ordinal, "place": place}
        if self.take:
            what["take"] = self.take
        return hashlib.sha256(json.dumps(what, sort_keys=True, separators=(",", ":")).encode()).digest()


@dataclass(frozen=True)
class Setup:
    """What one trajectory is searched with.

    `prompt`: the rendered text after which the teacher writes. `respond`: the teacher's raw text -> the response text.
    `judge`: the text before a whole response in the student's format; None without a student.
    """

    prompt: str
    respond: Callable[[str], str]
    judge: str | None
    draws: Draws
    branches: int
    chunk: Chunk
    max_tokens: int
    sampling: Sampling
    select: Select
    rule: Rule | None = None


@dataclass(frozen=True)
class Accepted:
    """One accepted chunk. `text`: its part of the response. `tokens`: the teacher's. `branch`: the index chosen.
    `candidates`: how many different branches there were."""

    text: str
    tokens: int
    finish: str
    branch: int
    candidates: int


@dataclass(frozen=True)
class Candidacy:
    """One branch of one decision, accepted (`chosen`) or pruned. `text`: as the teacher wrote it.

    `same_as`: the first branch of the decision with the same text and finish, if an earlier one. `perplexity`: the
    student's, of this chunk. `value`: the criterion's; None when it was no candidate.
    """

    chunk: int
    branch: int
    seed: int
    text: str
    tokens: int
    finish: str
    chosen: bool
    same_as: int | None
    perplexity: float | None
    value: float | None


@dataclass(frozen=True)
class Done:
    """A finished trajectory. `perplexity`: of the whole response text, by the student's full encoding of it.

    The three lists have one entry per accepted chunk: `chunks`, `chunk_perplexities` (what was judged; None without a
    student or a token) and `margins` (criterion value of the second best different branch minus the best's; None
    when there was no second).
    """

    text: str
    fate: Fate
    perplexity: float | None
    chunks: list[Accepted]
    chunk_perplexities: list[float | None]
    margins: list[float | None]
    branches: list[Candidacy]
    spend: Spend


@dataclass
class _Path:
    """The trajectory while it grows. `ends`: where each accepted chunk ends in `response`; `logprobs`: of all of
    its tokens."""

    raw: str = ""
    response: str = ""
    ends: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    chunks: list[Accepted] = field(default_factory=list)  # their texts are cut out of the response at the end
    perplexities: list[float | None] = field(default_factory=list)
    margins: list[float | None] = field(default_factory=list)
    branches: list[Candidacy] = field(default_factory=list)
    refused: int = 0  # decisions in a row
    bought: int = 0
    kept: int = 0
    scored: int = 0


@dataclass(frozen=True)
class _Option:
    """One branch with what the student says. `response`: the whole response if it is accepted; its first `shared`
    characters are those of all responses of the decision and of the one so far. `logprobs`: of all its tokens.
    `origin`: the first branch with this text and finish, usually itself."""

    index: int
    origin: int
    branch: Branch
    seed: int
    response: str
    shared: int
    logprobs: list[float]
    chunk: float | None
    trajectory: float | None
    draw: float

    @property
    def eligible(self) -> bool:
        """A finished branch needs a response to finish; one that goes on must have written something."""
        return bool(self.response if self.branch.finish == "eos" else self.branch.text)


@dataclass(frozen=True)
class _Choice:
    """The best option of a decision, every option's value, how far the second best is, how many are different."""

    best: _Option
    values: dict[int, float]
    margin: float | None
    different: int


def search(setup: Setup) -> Generator[Sample | Score | Done, Any, None]:
    """Write one trajectory.

    It ends accepted when the chosen branch is the text's end, too_long at `max_tokens`, given_up when the rule's
    patience is at its end: then the best branch of that decision is not appended, and all of them are pruned. A
    finished branch without text (or any branch that adds none to the response) is judged by the response before it;
    one that finishes an empty response cannot be chosen.

    Raises RowError when no branch can be chosen, ValueError for a setup that needs a student and has none.
    """
    if setup.judge is None and (setup.rule or (setup.branches > 1 and CRITERIA[setup.select.criterion].scores)):
        raise ValueError("this criterion or acceptance rule needs a student")
    path = _Path()
    fate: Fate | None = None
    while fate is None:
        place, chosen = len(path.chunks), None
        chunk = _within(setup.chunk, setup.max_tokens - path.kept)
        seeds = setup.draws.seeds(path.raw, setup.branches)
        branches: list[Branch] = yield Sample(setup.prompt, path.raw, chunk, setup.sampling, seeds)
        path.bought += sum(branch.tokens for branch in branches)
        options = yield from _judged(setup, path, seeds, branches)
        choice = _choose(setup, options)
        if choice is None:
            fate = _unwritten(path, cut=chunk != setup.chunk)
        elif _refused(setup, path, choice.best):
            fate = Fate.given_up
        else:
            chosen = choice.best.index
            fate = _append(setup, path, choice)
        path.branches += [_candidacy(place, option, choice, chosen) for option in options]
    yield _done(path, fate)


def _within(chunk: Chunk, left: int) -> Chunk:
    """The chunk, cut to the tokens that are left."""
    if left >= chunk.max_tokens:
        return chunk
    return Chunk(min_tokens=min(chunk.min_tokens, left), max_tokens=left, stop=chunk.stop)


def _judged(
    setup: Setup, path: _Path, seeds: tuple[int, ...], branches: list[Branch]
) -> Generator[Sample | Score | Done, list[Scored], list[_Option]]:
    """Score what each branch adds to the response, each different text once.

    Removing think tags can take back characters that were part of the response so far (half a tag); then everything
    is scored after the part that all responses share.
    """
    responses = [setup.respond(path.raw + branch.text) for branch in branches]
    shared = min(common_prefix(path.response, response) for response in responses)
    before = path.logprobs
    scores: dict[str, Scored] = {}
    if setup.judge is not None:
        if shared < len(path.response):
            again = (yield Score(setup.judge, "", (path.response[:shared],))) if shared else [Scored(())]
            before = list(again[0].logprobs)
            path.scored += len(before)
        texts = tuple(dict.fromkeys(response[shared:] for response in responses if len(response) > shared))
        replies = (yield Score(setup.judge, path.response[:shared], texts)) if texts else []
        scores = dict(zip(texts, replies, strict=True))
        path.scored += sum(len(scored.logprobs) for scored in replies)
    origins: dict[tuple[str, str], int] = {}
    options = []
    for i, (seed, branch, response) in enumerate(zip(seeds, branches, responses, strict=True)):
        origin = origins.setdefault((branch.text, branch.finish), i)
        scored = scores.get(response[shared:], Scored(()))
        whole = [*before[: max(0, len(before) - scored.retracted)], *scored.replaced, *scored.logprobs]
        trajectory = perplexity_of(whole)
        chunk = perplexity_of(scored.logprobs) if scored.logprobs else trajectory
        draw = setup.draws.uniform(path.raw, i)
        options.append(_Option(i, origin, branch, seed, response, shared, whole, chunk, trajectory, draw))
    return options


def _choose(setup: Setup, options: list[_Option]) -> _Choice | None:
    """The option of the lowest value, the first of equals; None when none is eligible."""
    value = CRITERIA[setup.select.criterion].value
    values = {
        o.index: value(Candidate(o.index, o.branch.tokens, o.chunk, o.trajectory, o.draw), setup.select)
        for o in options
        if o.eligible
    }
    if not values:
        return None
    ranked = sorted(values, key=lambda i: (values[i], i))
    best = options[ranked[0]]
    second = next((values[i] for i in ranked if options[i].origin != best.origin), None)
    margin = None if second is None or math.isinf(second) else second - values[best.index]
    return _Choice(best, values, margin, len({option.origin for option in options}))


def _unwritten(path: _Path, *, cut: bool) -> Fate:
    """No branch can be chosen: fair only when what max_tokens leaves is less than a character."""
    if cut and path.raw:
        return Fate.too_long
    raise RowError("no branch of the teacher wrote anything")


def _refused(setup: Setup, path: _Path, best: _Option) -> bool:
    """Does the rule end the trajectory here? It tolerates fewer unacceptable decisions in a row than its patience."""
    if setup.rule is None or setup.rule.acceptable(best.chunk, path.perplexities):
        path.refused = 0
        return False
    path.refused += 1
    return path.refused >= setup.rule.accept.patience


def _append(setup: Setup, path: _Path, choice: _Choice) -> Fate | None:
    """Accept the best option; the fate, if that ends the trajectory."""
    best, branch = choice.best, choice.best.branch
    path.raw += branch.text
    path.response = best.response
    path.ends = [min(end, best.shared) for end in path.ends] + [len(best.response)]
    path.logprobs = best.logprobs
    path.kept += branch.tokens
    path.chunks.append(Accepted("", branch.tokens, branch.finish, best.index, choice.different))
    path.perplexities.append(best.chunk)
    path.margins.append(choice.margin)
    if branch.finish == "eos":
        return Fate.accepted
    return Fate.too_long if path.kept >= setup.max_tokens else None


def _candidacy(place: int, option: _Option, choice: _Choice | None, chosen: int | None) -> Candidacy:
    return Candidacy(
        chunk=place,
        branch=option.index,
        seed=option.seed,
        text=option.branch.text,
        tokens=option.branch.tokens,
        finish=option.branch.finish,
        chosen=option.index == chosen,
        same_as=None if option.origin == option.index else option.origin,
        perplexity=option.chunk,
        value=choice.values.get(option.index) if choice else None,
    )


def _done(path: _Path, fate: Fate) -> Done:
    spans = zip([0, *path.ends], path.ends, path.chunks, strict=False)
    return Done(
        text=path.response,
        fate=fate,
        perplexity=perplexity_of(path.logprobs),
        chunks=[replace(chunk, text=path.response[start:end]) for start, end, chunk in spans],
        chunk_perplexities=path.perplexities,
        margins=path.margins,
        branches=path.branches,
        spend=Spend(path.bought, path.kept, path.bought - path.kept, path.scored),
    )
