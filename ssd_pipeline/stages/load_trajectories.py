"""load_trajectories: problems with solutions that somebody has published, one row for each solution.

So a published data set can be scored by a student, selected from, verified and trained on without any teacher. All
solutions of a problem carry its uuid. A solution that was cut off is `too_long`, for its text must not be taught to
end there. Rows that cannot be used are kept with the reason. This file does not know where a file comes from.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from ssd_pipeline.errors import RunError
from ssd_pipeline.problems import Found, text_of
from ssd_pipeline.problems import row as problem_row
from ssd_pipeline.records import Fate, Row, arrow_schema
from ssd_pipeline.stage import DatasetRepo, LocalPath, Params, StageContext, Summary, WholeStage
from ssd_pipeline.stages.load_problems import Holdout, check, located
from ssd_pipeline.store import sources


class SolutionColumns(Params):
    """Which columns of the source hold what."""

    problem: str = Field("problem", description="the statement")
    answer: str | None = Field("answer", description="the reference answer")
    solution: str = Field("solution", description="a text, or a list of texts: each becomes a row")
    complete: str | None = Field(
        None, description="whether each text ended by itself: a truth value, or a list of them"
    )


class LoadTrajectories(Params):
    """Exactly one of `dataset` and `file`."""

    dataset: DatasetRepo | None = Field(None, description="a data set on the Hub: owner/name")
    revision: str = Field("main", description="its branch, tag or commit")
    config: str | None = Field(None, description="its config; null is its default")
    split: str = Field("train", description="its split")
    file: LocalPath | None = Field(None, description=".jsonl, .json, .csv, .tsv (also .gz) or .parquet")
    columns: SolutionColumns = SolutionColumns()
    holdout: Holdout | None = None
    limit: int | None = Field(None, ge=1, description="at most this many problems, with all their solutions")

    def mistakes(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        if (self.dataset is None) == (self.file is None):
            yield ("file",) if self.file else (), "exactly one of dataset and file is wanted"
        for name in ("revision", "config", "split"):
            if name in self.model_fields_set and self.dataset is None:
                yield (name,), "goes with `dataset` only"


@dataclass(frozen=True)
class Solved:
    """One solution of a problem. `candidate`: its place among those of its problem, from 0."""

    uuid: str
    problem: str | None
    answer: str | None
    source: str
    error: str | None
    solution: str | None
    candidate: int
    fate: Fate


def run(params: LoadTrajectories, ctx: StageContext) -> Summary:
    """Write the rows. Raises RunError when there are none, or none that can be used; HubError."""
    name, paths = located(params, ctx)
    columns, seen = params.columns, Counter[bytes]()
    wanted = [str(column) for _, column in columns if column is not None]

    def problems() -> Iterator[list[Row]]:
        for path in paths:
            for record in sources.records(path, wanted):
                answer = record.values.get(columns.answer) if columns.answer else None
                place = f"row {record.number}" + (f" of {path.name}" if len(paths) > 1 else "")
                row = problem_row(Found(record.values.get(columns.problem), answer, place, record.error), name, seen)
                if params.holdout and not params.holdout.takes(row["problem"] or ""):
                    continue
                complete = record.values.get(columns.complete) if columns.complete else True
                yield list(_solutions(row, record.values.get(columns.solution), complete, place))

    fates: Counter[str] = Counter()

    def rows() -> Iterator[Row]:
        for group in itertools.islice(problems(), params.limit):
            for row in group:
                fates[row["fate"]] += 1
                if fates.total() % 1000 == 0:
                    ctx.progress(fates.total(), None)
                yield row

    written = ctx.write_rows(arrow_schema(Solved), rows())
    if not fates[Fate.accepted]:
        raise RunError(f"{name}: none of {written} solutions can be used" if written else f"{name}: 0 rows")
    return {"rows": written, "fates": dict(sorted(fates.items()))}


def _solutions(row: Row, given: Any, complete: Any, place: str) -> Iterator[Row]:
    """A row for each solution of a problem; one with an error where there is none."""
    texts = given if isinstance(given, (list, tuple)) and given else [given]
    ended = complete if isinstance(complete, (list, tuple)) else [complete] * len(texts)
    for number, text in enumerate(texts):
        solution, problem = text_of(text, f"solution {number + 1}")
        if not problem and not (solution and solution.strip()):
            problem = f"solution {number + 1} is missing"
        error = row["error"] or (f"{place}: {problem}" if problem else None)
        done = number < len(ended) and ended[number] is True
        fate = Fate.error if error else Fate.accepted if done else Fate.too_long
        yield {**row, "error": error, "solution": None if error else solution, "candidate": number, "fate": fate}


STAGE = WholeStage(
    kind="load_trajectories",
    version=1,
    params=LoadTrajectories,
    run=run,
    gives="rows",
    adds=Solved,
    inputs=(0, 0),
    loads=True,
    check=check,
)
