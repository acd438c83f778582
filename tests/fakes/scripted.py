"""Teachers, students and a row context that follow a script, and fail on any request that is not in it."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from ssd_pipeline.options import Setup
from ssd_pipeline.prompts import ModelPrompts
from ssd_pipeline.records import Spend
from ssd_pipeline.search import Done, search
from ssd_pipeline.spans import first_beyond
from ssd_pipeline.stage import Branch, Count, PromptFormat, Sample, Score, Scored, Served


class Unexpected(Exception):
    """A request that no script foresees. No SsdError, so that no code under test may survive it."""


@dataclass
class ScriptedTeacher:
    """A `Sampler`: prefix -> its branches, in the order of the seeds. Every prefix is asked for once."""

    prompt: str
    script: dict[str, list[Branch]]
    asked: list[Sample] = field(default_factory=list)

    def answer(self, ask: Sample) -> list[Branch]:
        if ask.prompt != self.prompt or ask.prefix not in self.script:
            raise Unexpected(f"the teacher is asked to continue {ask.prompt + ask.prefix!r}")
        if any(ask.prefix == earlier.prefix for earlier in self.asked):
            raise Unexpected(f"the teacher is asked twice to continue {ask.prefix!r}")
        branches = self.script[ask.prefix]
        if len(branches) != len(ask.seeds) or any(b.tokens > ask.chunk.max_tokens for b in branches):
            raise Unexpected(f"{len(ask.seeds)} branches of {ask.chunk.max_tokens} tokens, the script has {branches}")
        self.asked.append(ask)
        return branches

    async def sample(self, ask: Sample, keep: Any = None) -> list[Branch]:
        return self.answer(ask)

    async def served(self) -> Served:
        return Served("scripted", None, "unverifiable")

    async def close(self) -> None:
        pass


@dataclass
class ScriptedStudent:
    """A `Scorer`: (prefix, branch) -> what it says. Every text is scored once. `spans`: text -> its tokens."""

    prompt: str
    script: dict[tuple[str, str], Scored]
    spans: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    asked: list[Score] = field(default_factory=list)

    def answer(self, ask: Score) -> list[Scored]:
        done = {(earlier.prefix, branch) for earlier in self.asked for branch in earlier.branches}
        wanted = [(ask.prefix, branch) for branch in ask.branches]
        if ask.prompt != self.prompt or any(key in done or key not in self.script for key in wanted):
            raise Unexpected(f"the student is asked to score {ask}")
        self.asked.append(ask)
        return [self.script[key] for key in wanted]

    async def score(self, ask: Score) -> list[Scored]:
        return self.answer(ask)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        if text not in self.spans:
            raise Unexpected(f"the student is asked for the tokens of {text!r}")
        return self.spans[text]

    async def close(self) -> None:
        pass


MERGES = (("c", "d"), ("b", "cd"), ("a", "b"), ("ab", "ab"))


@dataclass
class MergingStudent:
    """A student with a real byte-pair tokeniser of four merges: "abc" is ab|c, but "abcd" is a|bcd.

    A token's log-probability is a hash of the token and the text before it, so every score has one right value.
    """

    prompt: str

    def tokens(self, text: str) -> list[str]:
        tokens = list(text)
        for left, right in MERGES:
            merged: list[str] = []
            for token in tokens:
                if merged and (merged[-1], token) == (left, right):
                    merged[-1] += token
                else:
                    merged.append(token)
            tokens = merged
        return tokens

    def offsets(self, text: str) -> list[tuple[int, int]]:
        spans, end = [], 0
        for token in self.tokens(text):
            spans.append((end, end + len(token)))
            end += len(token)
        return spans

    def logprobs(self, text: str, beyond: int, until: int | None = None) -> tuple[float, ...]:
        """Of the tokens of `text` that end after `beyond` characters, and not after `until`."""
        found = []
        for start, end in self.offsets(text):
            if beyond < end <= (len(text) if until is None else until):
                digest = hashlib.sha256(repr((text[:start], text[start:end])).encode()).digest()
                found.append(-int.from_bytes(digest[:4]) / 2**30)
        return tuple(found)

    def answer(self, ask: Score) -> list[Scored]:
        if ask.prompt != self.prompt or "" in ask.branches or len(set(ask.branches)) != len(ask.branches):
            raise Unexpected(f"the student is asked to score {ask}")
        return [self._scored(ask.prompt + ask.prefix, branch) for branch in ask.branches]

    def _scored(self, prefix: str, branch: str) -> Scored:
        alone, whole = self.offsets(prefix), self.offsets(prefix + branch)
        common = next((i for i, (a, b) in enumerate(zip(alone, whole, strict=False)) if a != b), len(alone))
        rest = alone[common:]
        replaced = ()
        if rest:
            start = max(rest[0][0], len(self.prompt))
            replaced = self.logprobs(prefix + branch, start, until=len(prefix))
        return Scored(self.logprobs(prefix + branch, len(prefix)), len(rest), replaced)


def run(setup: Setup, teacher: Any, student: Any = None) -> Done:
    """Answer a search until it is done."""
    asks = search(setup)
    ask = next(asks)
    while not isinstance(ask, Done):
        if isinstance(ask, Count):
            spans = student.offsets(ask.text)
            ask = asks.send(len(spans) - first_beyond(spans, ask.beyond))
            continue
        source = teacher if isinstance(ask, Sample) else student
        if source is None:
            raise Unexpected(f"nobody is there to answer {ask}")
        ask = asks.send(source.answer(ask))
    return ask


@dataclass
class FakeContext:
    """A `RowContext` of named scripted models; prompts come from a format and a template of two signs."""

    samplers: dict[str, Any] = field(default_factory=dict)
    scorers: dict[str, Any] = field(default_factory=dict)
    formats: dict[str, PromptFormat] = field(default_factory=dict)
    templates: dict[str, str] = field(default_factory=dict)
    seed: int = 17
    take: int = 0
    ordinal: int = 0
    prepared: Any = None
    spend: Spend = field(default_factory=Spend)

    async def sampler(self, model: str) -> Any:
        return self.samplers[model]

    async def scorer(self, model: str) -> Any:
        return self.scorers[model]

    async def prompts(self, model: str) -> ModelPrompts:
        """Renders as `<name>[system][user]` followed by the model's template text."""
        end = self.templates.get(model, ">")

        def render(messages: list[dict[str, str]]) -> str:
            return model + "".join(f"[{m['content']}]" for m in messages) + end

        return ModelPrompts(self.formats[model], render, ("<|end|>",))

    def room(self, model: str | None, tokens: int) -> nullcontext[None]:
        return nullcontext()

    async def isolated(self, function: str, *args: Any, timeout_s: float) -> Any:
        raise Unexpected(f"nothing here needs {function}")

    def spent(self, spend: Spend) -> None:
        self.spend += spend
