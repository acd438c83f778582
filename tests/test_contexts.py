"""What rows share: how many of them may keep a text in a scorer's memory at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from ssd_pipeline import models
from ssd_pipeline.contexts import Pool, RowWork
from ssd_pipeline.records import Spend
from ssd_pipeline.stage import Model, ModelRuntime


@dataclass
class Small:
    """A scorer with room for two texts of 1,000 tokens; the inputs of a pool that has it as its model `student`."""

    asked: list[int] = field(default_factory=list)

    def at_once(self, tokens: int) -> int:
        self.asked.append(tokens)
        return 2

    def model(self, name: str) -> Model:
        assert name == "student"
        return Model(name, runtime=ModelRuntime(cache_gb=0.5))

    def weights(self, name: str) -> dict[str, str]:
        return {"repo": name}


def test_rows_wait_for_room_in_the_scorers_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, told, inside, most = Small(), [], set(), []
    monkeypatch.setattr(models, "open_scorer", lambda model: scorer)

    async def row(number: int, work: RowWork, model: str | None) -> None:
        async with work.room(model, 1000):
            inside.add(number)
            most.append(len(inside))
            await asyncio.sleep(0.001)
            inside.remove(number)

    async def main(model: str | None) -> int:
        most.clear()
        pool = Pool(scorer, None, None, lambda spend: None, told.append)
        works = [RowWork(pool, 17, 0, 0, None, lambda spend: Spend()) for _ in range(5)]
        await asyncio.gather(*(row(number, work, model) for number, work in enumerate(works)))
        return max(most)

    assert asyncio.run(main("student")) == 2
    assert told == [
        "cache_gb (0.5) of model student holds 2 texts of about 1000 tokens, so that 2 rows are worked on at once"
    ]
    assert set(scorer.asked) == {1000}
    assert asyncio.run(main(None)) == 5
    assert len(told) == 1
