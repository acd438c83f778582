"""load_problems: problems with reference answers, from the Hub, a local file or a generator.

Every row that was found is kept, also one that cannot be used: it has an `error` with its row number. Rows are named by
content, never by place, so that growing, filtering or shuffling the source computes only what is new. Memory is
bounded: rows stream, and a shuffled order is made in several passes over the source. Splits are made by a hash of the
normalised statement, so that two parts can never share a problem. This file does not know how files are fetched or
read, nor what makes a row good.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ssd_pipeline.errors import RunError, boundary
from ssd_pipeline.problems import Found, Problem, part, statement_key
from ssd_pipeline.problems import row as problem_row
from ssd_pipeline.records import Row, arrow_schema
from ssd_pipeline.stage import DatasetRepo, LocalPath, Params, StageContext, Summary, WholeStage
from ssd_pipeline.store import hub, sources, splits

SLICE_ROWS = 50_000  # rows held at once while a shuffled order is made

# ---------------------------------------------------------------------------------------------- parameters


class Columns(Params):
    """Which columns of the source hold what."""

    problem: str = Field("problem", description="the statement")
    answer: str | None = Field("answer", description="the reference: an answer, `#### 72` or a \\boxed{} solution")


class Holdout(Params):
    """A part of the problems, by a hash of the statement: parts that do not overlap share no problem."""

    part: int | str = Field(description="a part, counted from 1, or a range of them: 2-10")
    of: int = Field(ge=2, le=10_000, description="how many parts there are")

    def bounds(self) -> tuple[int, int] | None:
        """First and last part, or None when `part` is neither a number nor a range."""
        found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", str(self.part))
        return (int(found[1]), int(found[2] or found[1])) if found else None

    def takes(self, statement: str) -> bool:
        """Is a statement in this part?"""
        bounds = self.bounds()
        return bounds is None or bounds[0] <= part(statement, self.of) <= bounds[1]

    def mistakes(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        bounds = self.bounds()
        if bounds is None or not 1 <= bounds[0] <= bounds[1] <= self.of:
            yield ("part",), f"{self.part!r} is not a part, or a range of parts, of 1 to {self.of}"


class ReasoningGym(Params):
    """A task of the reasoning_gym generator."""

    name: str = Field(description="the task")
    seed: int = Field(0, ge=0)
    size: int = Field(ge=1, le=10_000_000, description="how many problems are generated")
    config: dict[str, Any] = Field(default_factory=dict, description="the task's own settings")


class LoadProblems(Params):
    """Exactly one of `dataset`, `file` and `reasoning_gym`."""

    dataset: DatasetRepo | None = Field(None, description="a data set on the Hub: owner/name")
    revision: str = Field("main", description="its branch, tag or commit")
    config: str | None = Field(None, description="its config; null is its default")
    split: str = Field("train", description="its split")
    file: LocalPath | None = Field(None, description=".jsonl, .json, .csv, .tsv (also .gz) or .parquet")
    reasoning_gym: ReasoningGym | None = None
    columns: Columns = Columns()
    shuffle: Annotated[int, Field(ge=0)] | Literal["seed"] | None = Field(
        None, description="a random order: its seed, or `seed` for the recipe's; null keeps the order"
    )
    holdout: Holdout | None = None
    dedupe: bool = Field(False, description="keep only the first of problems with the same statement")
    limit: int | None = Field(None, ge=1, description="at most this many rows, after all else")

    def mistakes(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        given = [name for name in ("dataset", "file", "reasoning_gym") if getattr(self, name) is not None]
        if len(given) != 1:
            what = " and ".join(given) or "none of them"
            yield tuple(given[1:2]), f"exactly one of dataset, file and reasoning_gym is wanted; there is {what}"
        for name in ("revision", "config", "split"):
            if name in self.model_fields_set and self.dataset is None:
                yield (name,), "goes with `dataset` only"
        if "columns" in self.model_fields_set and self.reasoning_gym is not None:
            yield ("columns",), "reasoning_gym has no columns to choose"


# ------------------------------------------------------------------------------------------------- sources


@dataclass(frozen=True)
class Source:
    """A source that can be read any number of times, in the same order."""

    name: str
    read: Callable[[], Iterator[Found]]


def _source(params: LoadProblems, ctx: StageContext) -> Source:
    if params.reasoning_gym is not None:
        return _generated(params.reasoning_gym)
    name, paths = located(params, ctx)
    return _in_files(name, paths, params.columns)


def located(params: Any, ctx: StageContext) -> tuple[str, list[Path]]:
    """The name of a source and its files here, for parameters with `columns` and `file`, or `dataset`, `config` and
    `split`. Raises RunError when a column is not there, HubError."""
    if params.file is not None:
        name, paths = Path(params.file).name, [Path(params.file)]
    else:
        name = str(params.dataset)
        commit = ctx.revision(name)
        names = splits.split_files(name, commit, params.config, params.split)
        folder = hub.snapshot(name, "dataset", commit, hub.exactly(names))
        paths = [folder / path for path in names]
    for path in paths:
        for problem in _missing(path, params.columns):
            raise RunError(f"{name}: {problem[1]}")
    return name, paths


def _in_files(name: str, paths: list[Path], columns: Columns) -> Source:
    wanted = [c for c in (columns.problem, columns.answer) if c is not None]

    def read() -> Iterator[Found]:
        for path in paths:
            for record in sources.records(path, wanted):
                values = record.values
                answer = values.get(columns.answer) if columns.answer is not None else None
                place = f"row {record.number}" + (f" of {path.name}" if len(paths) > 1 else "")
                yield Found(values.get(columns.problem), answer, place, record.error)

    return Source(name, read)


def _missing(path: Path, columns: Params) -> Iterator[tuple[tuple[str | int, ...], str]]:
    there = sources.columns(path)
    for key, column in columns:
        if there and column is not None and column not in there:
            advice = "; without references: answer: null" if key == "answer" else ""
            yield ("columns", key), f"{path.name} has no column {column}; it has: {', '.join(there)}{advice}"


def _generated(params: ReasoningGym) -> Source:
    try:
        import reasoning_gym
    except ImportError as cause:
        raise RunError("reasoning_gym is not installed: pip install 'ssd-pipeline[reasoning-gym]'") from cause
    with boundary(RunError, f"reasoning_gym task {params.name}"):
        made = reasoning_gym.create_dataset(params.name, seed=params.seed, size=params.size, **params.config)

    def read() -> Iterator[Found]:
        for number in range(params.size):
            with boundary(RunError, f"reasoning_gym task {params.name}, problem {number + 1}"):
                one = made[number]
            yield Found(one["question"], one["answer"], f"problem {number + 1}")

    return Source(f"reasoning_gym/{params.name}", read)


# ---------------------------------------------------------------------------------------------------- rows


def _rows(params: LoadProblems, source: Source, counts: Counter[str]) -> Iterator[Row]:
    """The rows of one pass in the order of the source: the holdout part, duplicates dropped if asked for."""
    seen: Counter[bytes] = Counter()
    statements: set[bytes] = set()
    for found in source.read():
        counts["found"] += 1
        row = problem_row(found, source.name, seen)
        statement = row["problem"] or ""
        if params.holdout and not params.holdout.takes(statement):
            continue
        if row["error"] is None:
            key = statement_key(statement)
            counts["duplicates"] += key in statements
            if params.dedupe and key in statements:
                continue
            statements.add(key)
        yield row


def _shuffled(read: Callable[[], Iterator[Row]], seed: int, limit: int | None) -> Iterator[Row]:
    """The rows in the order of a seeded hash, at most `limit`: one pass to find the order, one per SLICE_ROWS rows."""

    def place(row: Row) -> bytes:
        return hashlib.sha256(f"{seed}\0{row['uuid']}".encode()).digest()[:16]

    places = sorted(map(place, read()))[:limit]
    for start in range(0, len(places), SLICE_ROWS):
        here = places[start : start + SLICE_ROWS]
        yield from sorted((row for row in read() if here[0] <= place(row) <= here[-1]), key=place)


def run(params: LoadProblems, ctx: StageContext) -> Summary:
    """Write the rows. Raises RunError when there are none, or none that can be used; HubError."""
    source = _source(params, ctx)
    counts: Counter[str] = Counter()
    rows: Iterator[Row]
    if params.shuffle is None:
        rows = itertools.islice(_rows(params, source, counts), params.limit)
    else:
        passes = itertools.chain([counts], (Counter() for _ in itertools.count()))  # the first pass counts
        seed = ctx.seed if params.shuffle == "seed" else params.shuffle
        rows = _shuffled(lambda: _rows(params, source, next(passes)), seed, params.limit)
    bad: list[str] = []
    written = ctx.write_rows(arrow_schema(Problem), _watched(rows, bad, params, ctx))
    if not written:
        why = f"none of {counts['found']} rows is in that part" if counts["found"] else "0 rows"
        raise RunError(f"{source.name}: {why}")
    if len(bad) == written:
        raise RunError(f"{source.name}: none of {written} rows can be used; first: {'; '.join(bad[:3])}")
    return _summary(params, counts, written, len(bad))


def _watched(rows: Iterator[Row], bad: list[str], params: LoadProblems, ctx: StageContext) -> Iterator[Row]:
    for number, row in enumerate(rows, 1):
        if row["error"]:
            bad.append(row["error"])
        if number % 1000 == 0:
            ctx.progress(number, params.limit)
        yield row


def _summary(params: LoadProblems, counts: Mapping[str, int], written: int, bad: int) -> Summary:
    notes = []
    if params.limit is not None and written < params.limit:
        notes.append(f"limit is {params.limit}, there are only {written} rows")
    duplicates = counts["duplicates"]
    if duplicates:
        fate = "dropped" if params.dedupe else "kept (dedupe: true drops them)"
        notes.append(f"{duplicates} rows repeat a statement: {fate}")
    if bad:
        notes.append(f"{bad} rows cannot be used: see their column `error`")
    return {"rows": written, "bad": bad, "duplicates": duplicates, "notes": notes}


def check(params: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Mistakes that a look at a local file shows, before anything is spent: (path of the key, message)."""
    if params.file is not None:
        try:
            yield from _missing(Path(params.file), params.columns)
        except RunError as cause:
            yield ("file",), str(cause)


STAGE = WholeStage(
    kind="load_problems",
    version=1,
    params=LoadProblems,
    run=run,
    gives="rows",
    adds=Problem,
    inputs=(0, 0),
    random=lambda params: params.shuffle == "seed",
    loads=True,
    check=check,
)
