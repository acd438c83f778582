"""What verify_answers and evaluate run in: real workers, real prompts, and a model that says what a table says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ssd_pipeline.isolated import Workers
from ssd_pipeline.prompts import ModelPrompts
from ssd_pipeline.records import Spend
from ssd_pipeline.stage import Branch, Finish, PromptFormat, Sample, Served


@dataclass
class SayingSampler:
    """A `Sampler`. `says`: prompt -> (greedy text, sampled texts in the order of the seeds). One token per word."""

    says: dict[str, tuple[str, list[str]]]
    finish: Finish = "eos"
    asked: list[Sample] = field(default_factory=list)

    async def sample(self, ask: Sample, keep: Any = None) -> list[Branch]:
        if ask.prompt not in self.says or ask.prefix:
            raise AssertionError(f"not expected: {ask}")
        self.asked.append(ask)
        greedy, sampled = self.says[ask.prompt]
        texts = [greedy] if ask.sampling.temperature == 0 else sampled
        if len(texts) != len(ask.seeds):
            raise AssertionError(f"{len(ask.seeds)} seeds for {len(texts)} texts")
        return [Branch(text, len(text.split()), self.finish) for text in texts]

    async def served(self) -> Served:
        return Served("saying", None, "unverifiable")

    async def close(self) -> None:
        pass


@dataclass
class RowContext:
    """The context of one row; `calls` lists what was asked of the workers."""

    workers: Workers | None = None
    says: SayingSampler | None = None
    seed: int = 17
    take: int = 0
    ordinal: int = 0
    prepared: Any = None
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    spend: Spend = field(default_factory=Spend)

    async def sampler(self, model: str) -> Any:
        if self.says is None or model != "learned":
            raise AssertionError(f"not expected: {model}")
        return self.says

    async def scorer(self, model: str) -> Any:
        raise AssertionError(f"not expected: {model}")

    async def prompts(self, model: str) -> Any:
        return ModelPrompts(PromptFormat(), lambda messages: f"<{messages[-1]['content']}>")

    async def isolated(self, function: str, *args: Any, timeout_s: float) -> Any:
        if self.workers is None:
            raise AssertionError(f"not expected: {function} {args}")
        self.calls.append((function, *args))
        return await self.workers.call(function, *args, timeout_s=timeout_s)

    def spent(self, spend: Spend) -> None:
        self.spend += spend
