"""A sampler and a scorer that ask a model only what it has never been asked, and count what that cost.

Each teacher branch and each scored branch is a question of its own: eight branches after four buy four, another
student or criterion buys none, and a trajectory that was killed goes on from its last decision. What a model computes
(its weights) and the exact text are in the key; how it was reached (API, URL, batch) is not, so that a reply is the
same reply whichever way it came. Nothing that failed is ever recorded. This file does not know rows or stages.
"""

from __future__ import annotations

import base64
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ssd_pipeline.errors import RowError
from ssd_pipeline.records import Paid
from ssd_pipeline.stage import Branch, Keep, Price, Sample, Sampler, Score, Scored, Scorer, Served
from ssd_pipeline.store.replies import Replies, reply_key

SIBLINGS = 64  # branches that could have differed from an earlier one, before their share means something
ALL_ALIKE = 0.95


@dataclass
class Alike:
    """How often branches of different seeds were the same: nearly always, where a server ignores seeds."""

    tell: Callable[[str], None]
    siblings: int = 0
    same: int = 0
    told: bool = False

    def add(self, branches: Sequence[Branch]) -> None:
        """Count the branches of one prefix. Tells once, with the share."""
        self.siblings += len(branches) - 1
        self.same += len(branches) - len({branch.text for branch in branches})
        if not self.told and self.siblings >= SIBLINGS and self.same >= ALL_ALIKE * self.siblings:
            share = f"{100 * self.same / self.siblings:.0f}% of {self.siblings} branches repeat another one"
            self.tell(f"{share} of the same prefix: the endpoint seems to ignore `seed`, so that branches buy nothing")
            self.told = True


@dataclass(frozen=True)
class RecordedSampler:
    """`weights`: the identity of what the model computes. `paid` is told the tokens that were really sampled, `tell`
    that a server ignores seeds.

    `price` is that of the model's tokens, if it has one; `meter` counts the tokens of a question's text. Not counted: a
    text sent again, for a piece of a chunk or as a retry, and what a service's cache makes cheaper.
    """

    sampler: Sampler
    replies: Replies
    weights: Mapping[str, Any]
    paid: Callable[[Paid], None]
    price: Price | None = None
    meter: Callable[[Sample], int] | None = None
    tell: Callable[[str], None] = lambda text: None
    _alike: Alike = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_alike", Alike(self.tell))

    async def sample(self, ask: Sample, keep: Keep = lambda seed, branch: None) -> list[Branch]:
        known: dict[int, Branch] = {}
        for seed in ask.seeds:
            value = self.replies.get(self._key(ask, seed))
            if value is not None:
                known[seed] = Branch(*value)
        missing = replace(ask, seeds=tuple(seed for seed in ask.seeds if seed not in known))
        unpaid = [self._sent(missing)] if missing.seeds else []  # of the question, paid with its first branch

        def bought(seed: int, branch: Branch) -> None:
            if seed in known:
                return
            if ask.prompt and branch.text.startswith(ask.prompt):
                raise RowError("the endpoint gave the prompt back with its text: it does not serve raw completions")
            known[seed] = branch
            self.replies.put(self._key(ask, seed), [branch.text, branch.tokens, branch.finish])
            self._pay(branch.tokens, unpaid.pop() if unpaid else 0)

        if missing.seeds:
            branches = await self.sampler.sample(missing, bought)
            for seed, branch in zip(missing.seeds, branches, strict=True):
                bought(seed, branch)
            if ask.sampling.temperature:
                self._alike.add(branches)
        return [known[seed] for seed in ask.seeds]

    def _sent(self, ask: Sample) -> int:
        return self.meter(ask) * self.sampler.requests(ask.seeds) if self.meter else 0

    def _pay(self, sampled: int, prompt: int) -> None:
        cost = self.price.of(sampled, prompt) if self.price else None
        self.paid(Paid(bought=sampled, prompt=prompt, cost=cost))

    def _key(self, ask: Sample, seed: int) -> str:
        return reply_key(
            {
                "teacher": self.weights,
                "text": ask.prompt + ask.prefix,
                "chunk": ask.chunk.model_dump(mode="json"),
                "sampling": ask.sampling.model_dump(mode="json"),
                "seed": seed if ask.sampling.temperature else None,  # greedy text has no seed
            }
        )

    async def served(self) -> Served:
        return await self.sampler.served()

    async def close(self) -> None:
        await self.sampler.close()


@dataclass(frozen=True)
class RecordedScorer:
    """`weights`: the identity of what the student computes. `paid` is told the tokens that were really scored."""

    scorer: Scorer
    replies: Replies
    weights: Mapping[str, Any]
    paid: Callable[[Paid], None]

    async def score(self, ask: Score) -> list[Scored]:
        keys = [self._key(ask, text) for text in ask.branches]
        known = [self.replies.get(key) for key in keys]
        missing = [i for i, value in enumerate(known) if value is None]
        if missing:
            scored = await self.scorer.score(replace(ask, branches=tuple(ask.branches[i] for i in missing)))
            for i, one in zip(missing, scored, strict=True):
                ranks = [one.ranks, one.replaced_ranks] if ask.ranks else []
                known[i] = [_pack(one.logprobs), one.retracted, _pack(one.replaced), *ranks]
                self.replies.put(keys[i], known[i])
            self.paid(Paid(scored=sum(len(one.logprobs) for one in scored)))
        # Also what was just computed is read back from its packed form: a rerun must see the very same numbers.
        return [Scored(_unpack(v[0]), v[1], _unpack(v[2]), *map(tuple, v[3:])) for v in known if v is not None]

    def _key(self, ask: Score, text: str) -> str:
        what = {"student": self.weights, "prompt": ask.prompt, "prefix": ask.prefix, "branch": text}
        return reply_key({**what, "ranks": True} if ask.ranks else what)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        return self.scorer.offsets(text)

    def at_once(self, tokens: int) -> int:
        return self.scorer.at_once(tokens)

    async def close(self) -> None:
        await self.scorer.close()


def _pack(numbers: tuple[float, ...]) -> str:
    return base64.b64encode(array("f", numbers).tobytes()).decode()


def _unpack(text: str) -> tuple[float, ...]:
    numbers = array("f")
    numbers.frombytes(base64.b64decode(text))
    return tuple(numbers)
