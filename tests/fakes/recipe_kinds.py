"""Small made-up stage kinds: the whole language of recipes without any stage that really runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from ssd_pipeline.records import Fate, Verdict, column
from ssd_pipeline.stage import (
    Chunk,
    DatasetRepo,
    EffectStage,
    InputName,
    JudgeName,
    LocalPath,
    ModelName,
    Params,
    RowStage,
    Sampling,
    Stage,
    StageRef,
    TrainedName,
    WholeStage,
)


class Load(Params):
    """Where problems come from."""

    dataset: DatasetRepo | None = None
    revision: str | None = None
    file: LocalPath | None = None
    limit: int | None = Field(None, ge=1)
    part: int | str = 1
    columns: dict[str, str] = Field(default_factory=dict)


class Accept(Params):
    quantile: float = Field(gt=0, lt=1)
    of: StageRef | tuple[float, ...]


class Grow(Params):
    """Who is sampled and who judges."""

    teacher: ModelName
    student: JudgeName | None = None
    branches: int = Field(4, ge=1, le=1024)
    chunk: Chunk = Chunk()
    sampling: Sampling = Sampling()
    accept: Accept | None = None
    criterion: Literal["perplexity", "random"] = "perplexity"

    def mistakes(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if self.branches > 1 and self.criterion == "perplexity" and self.student is None:
            yield ("student",), "perplexity needs a student"


class Check(Params):
    timeout_s: float = Field(5, gt=0)


class Train(Params):
    model: TrainedName
    learning_rate: float = Field(1e-4, gt=0)


class Compare(Params):
    baseline: InputName


class Push(Params):
    repo: DatasetRepo
    private: bool = True


@dataclass(frozen=True)
class Problem:
    uuid: str
    problem: str | None
    answer: str | None


@dataclass(frozen=True)
class Grown:
    solution: str | None
    fate: Fate
    branches: list[Problem] = column(table="branches")


@dataclass(frozen=True)
class Checked:
    verdict: Verdict | None


async def never(row: Any, params: Any, ctx: Any) -> Any:
    raise NotImplementedError


def never_whole(params: Any, ctx: Any) -> Any:
    raise NotImplementedError


def unlucky(params: Load) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What a kind finds out by itself, as from a file."""
    if params.limit == 13:
        yield ("limit",), "is unlucky"


KINDS: dict[str, Stage] = {
    "load": WholeStage("load", 1, Load, never_whole, "rows", adds=Problem, inputs=(0, 0), loads=True, check=unlucky),
    "grow": RowStage("grow", 1, Grow, lambda p: ("problem",), Grown, never, lambda reason: None, random=True),
    "check": RowStage(
        "check",
        1,
        Check,
        lambda p: ("answer", "solution", "hint"),
        Checked,
        never,
        lambda reason: None,
        optional=lambda p: ("hint",),
    ),
    "train": WholeStage("train", 1, Train, never_whole, "adapter", reads=lambda p: ("problem", "solution")),
    "compare": WholeStage("compare", 1, Compare, never_whole, "rows", inputs=(2, 3), gathers=True),
    "push": EffectStage("push", 1, Push, never_whole, lambda params, digests: False, inputs=(1, 1)),
}
