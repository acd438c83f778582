"""Small stage kinds for tests of the engine: numbers are loaded, doubled (counted), summed, and told to the outside.

`Counts` remembers every execution by its row, so that reruns can be proved rather than believed.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa

from ssd_pipeline.errors import RowError
from ssd_pipeline.records import Fate, Spend, arrow_schema, column
from ssd_pipeline.stage import EffectStage, Params, RowStage, StageRef, WholeStage


@dataclass(frozen=True)
class Numbers:
    problem: str
    number: int
    error: str | None


@dataclass(frozen=True)
class Bit:
    place: int
    value: int


@dataclass(frozen=True)
class Doubled:
    doubled: int | None
    fate: Fate
    spend: Spend
    error: str | None
    took: float | None = column(measured=True)
    bits: list[Bit] = column(table="bits")


class LoadParams(Params):
    limit: int = 10
    start: int = 0
    repeat: int = 1


class DoubleParams(Params):
    factor: int = 2
    bad: tuple[int, ...] = ()
    curable: tuple[int, ...] = ()
    of: StageRef | None = None


class Kinds:
    """A fresh set of kinds with its own counts."""

    def __init__(self) -> None:
        self.doubled: Counter[int] = Counter()
        self.loaded = self.summed = self.told = 0
        self.outside: list[list[str]] = []
        self.broken: set[int] = set()  # numbers that fail in a curable way for now

    def all(self) -> dict:
        kinds = (
            WholeStage("load_numbers", 1, LoadParams, self.load, "rows", Numbers, inputs=(0, 0), loads=True),
            RowStage(
                "double",
                1,
                DoubleParams,
                reads=lambda p: ("number",),
                adds=Doubled,
                run=self.double,
                failed=lambda reason: Doubled(None, Fate.error, Spend(), reason, None, []),
                random=True,
                seeded_by=("problem",),
                summarize=lambda params, rows: {"sum": sum(r["doubled"] or 0 for r in rows)},
                most_tokens=lambda params: 10,
            ),
            WholeStage(
                "sum_numbers", 1, Params, self.sum, "rows", Total, reads=lambda p: ("doubled",), inputs=(1, None)
            ),
            EffectStage("tell", 1, Params, self.tell, lambda params, digests: list(digests) in self.outside),
        )
        return {k.kind: k for k in kinds}

    def load(self, params, ctx):
        self.loaded += 1
        numbers = [n for n in range(params.start, params.start + params.limit) for _ in range(params.repeat)]
        ctx.write_rows(arrow_schema(Numbers), ({"problem": f"n {n}", "number": n, "error": None} for n in numbers))
        return {"says": f"{len(numbers)} numbers"}

    async def double(self, row, params, ctx):
        number = row["number"]
        self.doubled[number] += 1
        await asyncio.sleep((number * 7 % 5) / 2000)
        if number in params.bad:
            raise RowError(f"{number} cannot be doubled")
        if number in params.curable or number in self.broken:
            raise RowError("not now", curable=True)
        bits = [Bit(i, int(b)) for i, b in enumerate(f"{number:b}")]
        return Doubled(number * params.factor, Fate.accepted, Spend(4, 1, 3, 2), None, 0.1, bits)

    def sum(self, params, ctx):
        self.summed += 1
        total = sum(r["doubled"] or 0 for i in ctx.inputs for r in i.rows(["doubled"]))
        ctx.write_rows(pa.schema([("total", pa.int64())]), [{"total": total}])
        return {"total": total}

    def tell(self, params, ctx):
        self.told += 1
        self.outside.append([i.digest for i in ctx.inputs])
        return {"says": "told"}


@dataclass(frozen=True)
class Total:
    total: int


RECIPE = """\
name: numbers
stages:
  numbers: {uses: load_numbers, limit: 10}
  twice: {uses: double, input: numbers}
  total: {uses: sum_numbers, input: twice}
  told: {uses: tell, input: twice}
"""


@dataclass(frozen=True)
class Copied:
    solution: str | None


async def copy_problem(row, params, ctx):
    return Copied(row["problem"])


COPY_PROBLEM = RowStage(
    "copy_problem",
    1,
    Params,
    reads=lambda params: ("problem",),
    adds=Copied,
    run=copy_problem,
    failed=lambda reason: Copied(None),
)
