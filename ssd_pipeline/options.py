"""What one decision is taken among: branches that a teacher writes after a text, with all that a student says of them.

The generators here ask and are answered (see search.py, which takes the decisions): they yield `Sample`, answered by
the branches in the order of the seeds, `Score`, answered by one `Scored` per branch, and `Count`, answered by a number.
Which passes of the student are asked for follows from what the criterion needs; a text is asked for once.

Seeds are hashed from the place of a decision alone (the recipe's seed and take, the statement, the text so far), so
that runs with another student, criterion, acceptance, beam or number of branches share the branches that they have
in common. This file does not know which branch is chosen, nor when a trajectory ends.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from statistics import fmean
from typing import Any

from ssd_pipeline.acceptance import Rule
from ssd_pipeline.criteria import CRITERIA, Candidate, Criterion, Select, Told, loops, perplexity_of
from ssd_pipeline.records import Fate
from ssd_pipeline.spans import common_prefix
from ssd_pipeline.stage import Branch, Chunk, Count, Sample, Sampling, Score, Scored

Ask = Sample | Score | Count


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
    `judge`: the text before a whole response in the student's format; None without a student. `answer`: the reference,
    where the criterion needs it.
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
    beam_width: int = 1
    answer: str | None = None

    @property
    def criterion(self) -> Criterion:
        return CRITERIA[self.select.criterion]


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
class Path:
    """One text of the beam. `ends`: where each accepted chunk ends in `response`; `told`: of all of its tokens;
    `local`: of each chunk, see Candidate. `refused`: decisions in a row. `order`: of its last one, see Criterion."""

    raw: str = ""
    response: str = ""
    ends: list[int] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    local: list[float] = field(default_factory=list)
    chunks: list[Accepted] = field(default_factory=list)  # their texts are cut out of the response at the end
    perplexities: list[float | None] = field(default_factory=list)
    margins: list[float | None] = field(default_factory=list)
    refused: int = 0
    kept: int = 0
    fate: Fate | None = None
    order: float = math.inf


@dataclass
class Account:
    """What all paths of a trajectory share: tokens `bought` and `scored`, and the log-probabilities of the answer after
    the prompt alone."""

    bought: int = 0
    scored: int = 0
    question: Sequence[float] = ()


@dataclass(frozen=True)
class Option:
    """One branch after one path, with what the student says. `response`: the whole response if it is accepted; its
    first `shared` characters are those of all responses after this path and of the path's. `told`: of all its tokens.
    `order`: of its `value`, see Criterion."""

    index: int
    path: Path
    branch: Branch
    seed: int
    response: str
    shared: int
    told: list[Told]
    local: list[float]
    looping: bool
    perplexity: float | None
    value: float | None
    order: float

    @property
    def makes(self) -> tuple[str, str]:
        """Options of equal text and finish are one, also in a beam, where they may continue different paths."""
        return self.path.raw + self.branch.text, self.branch.finish

    @property
    def eligible(self) -> bool:
        """A finished branch needs a response to finish; one that goes on must have written something, and no loop."""
        return not self.looping and bool(self.response if self.branch.finish == "eos" else self.branch.text)


def within(setup: Setup, path: Path) -> Chunk:
    """The chunk, cut to the tokens that are left."""
    chunk, left = setup.chunk, setup.max_tokens - path.kept
    if left >= chunk.max_tokens:
        return chunk
    return Chunk(min_tokens=min(chunk.min_tokens, left), max_tokens=left, stop=chunk.stop)


def options_after(setup: Setup, account: Account, path: Path, first: int) -> Generator[Ask, Any, list[Option]]:
    """Continue a path and score what each branch adds to its response. `first`: the index of the first of them.

    Removing think tags can take back characters that were part of the response so far (half a tag); then everything
    is scored after the part that all responses share.
    """
    seeds = setup.draws.seeds(path.raw, setup.branches)
    branches: list[Branch] = yield Sample(setup.prompt, path.raw, within(setup, path), setup.sampling, seeds)
    account.bought += sum(branch.tokens for branch in branches)
    responses = [setup.respond(path.raw + branch.text) for branch in branches]
    shared = min(common_prefix(path.response, response) for response in responses)
    prefix, told = path.response[:shared], path.told
    texts = tuple(dict.fromkeys(response[shared:] for response in responses))
    if shared < len(path.response):
        told = joined([], (yield from _scores(setup, account, "", (prefix,))).get(prefix))
    scores = yield from _scores(setup, account, prefix, texts)
    local = yield from _local(setup, account, path, prefix, scores)
    answers = yield from answers_after(setup, account, prefix, texts)
    options = []
    for i, (seed, branch, response) in enumerate(zip(seeds, branches, responses, strict=True)):
        text = response[shared:]
        scored = scores.get(text)
        whole = joined(told, scored)
        own = len(scored.logprobs) if scored else 0
        chunk = whole[-max(own, setup.select.min_scored_tokens) :]  # all of it, if it has none of its own and 0 will do
        steps = [*path.local, *local.get(text, ())]
        wide = setup.select.scope == "trajectory"
        candidate = Candidate(
            branch=first + i,
            tokens=branch.tokens,
            draw=setup.draws.uniform(path.raw, i),
            span=whole if wide else chunk,
            local=steps if wide else steps[-1:],
            answer=answers.get(text, ()),
            question=account.question,
        )
        value = setup.criterion.value(candidate, setup.select)
        options.append(
            Option(
                index=first + i,
                path=path,
                branch=branch,
                seed=seed,
                response=response,
                shared=shared,
                told=whole,
                local=steps,
                looping=loops(prefix, text, setup.select.loop_words),
                perplexity=perplexity_of([one.logprob for one in chunk]),
                value=value,
                order=setup.criterion.order(value),
            )
        )
    return options


def joined(before: list[Told], scored: Scored | None) -> list[Told]:
    """The tokens before, as far as they are still there, those that replace them, and the branch's."""
    if scored is None:
        return before
    kept = before[: max(0, len(before) - scored.retracted)]
    place = kept[-1].place + 1 if kept else 0
    replaced = zip_longest(scored.replaced, scored.replaced_ranks, fillvalue=0)
    own = zip_longest(scored.logprobs, scored.ranks, fillvalue=0)
    kept += [Told(logprob, int(rank), place + i) for i, (logprob, rank) in enumerate(replaced)]
    return kept + [Told(logprob, int(rank), i) for i, (logprob, rank) in enumerate(own)]


def _scores(
    setup: Setup, account: Account, prefix: str, texts: Sequence[str]
) -> Generator[Ask, Any, dict[str, Scored]]:
    """What the student says of each text after a prefix of the response; of nothing, or without a student, nothing."""
    wanted = tuple(text for text in texts if text)
    if setup.judge is None or not wanted:
        return {}
    replies: list[Scored] = yield Score(setup.judge, prefix, wanted, ranks=setup.criterion.needs == "ranks")
    account.scored += sum(len(scored.logprobs) for scored in replies)
    return dict(zip(wanted, replies, strict=True))


def _local(
    setup: Setup, account: Account, path: Path, prefix: str, scores: Mapping[str, Scored]
) -> Generator[Ask, Any, dict[str, list[float]]]:
    """For each text its mean log-probability after the last chunks of the prefix alone, where the criterion needs that.
    As long as these chunks are the whole prefix, `scores` say it already."""
    if setup.criterion.needs != "local":
        return {}
    seen = setup.select.local_chunks
    start = path.ends[-1 - seen] if len(path.ends) > seen else 0
    near = (yield from _scores(setup, account, prefix[start:], tuple(scores))) if start else scores
    return {text: [fmean(scored.logprobs)] for text, scored in near.items() if scored.logprobs}


def answers_after(
    setup: Setup, account: Account, prefix: str, texts: Sequence[str]
) -> Generator[Ask, Any, dict[str, Sequence[float]]]:
    """The log-probabilities of the answer's tokens after each text and the cue, where the criterion needs them."""
    if setup.criterion.needs != "answer" or setup.judge is None or not setup.answer:
        return {}
    whole = {text: text + setup.select.cue + setup.answer for text in texts}
    scores = yield from _scores(setup, account, prefix, tuple(whole.values()))
    found: dict[str, Sequence[float]] = {}
    for text, ended in whole.items():
        so_far = setup.judge + prefix + ended
        tokens: int = yield Count(so_far, len(so_far) - len(setup.answer))
        told = scores[ended].logprobs
        found[text] = told[len(told) - tokens :]
    return found
