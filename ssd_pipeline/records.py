"""The words rows are made of, and how a row type becomes an arrow schema.

A stage says what it adds to a row with a frozen dataclass; columns, tables and their types are read off it, so that
no schema is written twice. Every column is nullable: a row that failed has nulls, never made-up values. Columns
marked `measured` (scores, times) differ between machines and stay out of the digest that is shown; a field marked
with a `table` is kept beside the rows as a table of its own. This file knows no stage and no disk.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, Any]


class Fate(StrEnum):
    """What became of a row; every row has exactly one."""

    accepted = "accepted"  # the text ended by itself
    given_up = "given_up"  # the acceptance rule ended it
    too_long = "too_long"  # max_tokens was reached first
    error = "error"  # it could not be done; the column `error` says why


class Verdict(StrEnum):
    """What the checker says of a row's answer."""

    correct = "correct"
    incorrect = "incorrect"
    no_answer = "no_answer"  # the text states none
    error = "error"  # the checker could not tell; never counted as incorrect


@dataclasses.dataclass(frozen=True)
class Spend:
    """Tokens that a row used, as if bought. bought = kept + pruned (teacher's tokens); scored: student's tokens."""

    bought: int = 0
    kept: int = 0
    pruned: int = 0
    scored: int = 0

    def __add__(self, other: Spend) -> Spend:
        return Spend(
            self.bought + other.bought, self.kept + other.kept, self.pruned + other.pruned, self.scored + other.scored
        )


@dataclasses.dataclass(frozen=True)
class Paid:
    """What a run itself bought: tokens sampled, scored, and sent as prompts (counted only where they have a price), and
    the cost of it all; None where no model has a price."""

    bought: int = 0
    scored: int = 0
    prompt: int = 0
    cost: float | None = None

    def __add__(self, other: Paid) -> Paid:
        known = [cost for cost in (self.cost, other.cost) if cost is not None]
        return Paid(
            self.bought + other.bought,
            self.scored + other.scored,
            self.prompt + other.prompt,
            sum(known) if known else None,
        )


def column(*, measured: bool = False, table: str | None = None) -> Any:
    """A dataclass field with marks. `measured`: outside the shown digest. `table`: a list kept as its own table."""
    return dataclasses.field(metadata={"measured": measured, "table": table})


@dataclasses.dataclass(frozen=True)
class Column:
    """One declared column: its name, python type and marks."""

    name: str
    type: Any
    measured: bool
    table: str | None


def columns(row_type: type) -> tuple[Column, ...]:
    """The columns that a row dataclass declares, in order, side tables included."""
    hints = typing.get_type_hints(row_type)
    return tuple(
        Column(f.name, hints[f.name], f.metadata.get("measured", False), f.metadata.get("table"))
        for f in dataclasses.fields(row_type)
    )


def arrow_type(hint: Any) -> pa.DataType:
    """The arrow type of an annotation: str, int, float, bool, StrEnum, X | None, list[X] or tuple[X, ...], dataclass.

    Raises TypeError for anything else.
    """
    import pyarrow as pa

    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (a for a in args if a is not type(None))
        return arrow_type(inner)
    if origin in (list, tuple):
        return pa.list_(arrow_type(args[0]))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return pa.struct([pa.field(c.name, arrow_type(c.type)) for c in columns(hint)])
    if isinstance(hint, type) and issubclass(hint, str):
        return pa.string()
    plain = {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    if hint not in plain:
        raise TypeError(f"no arrow type for {hint!r}")
    return plain[hint]


def arrow_schema(row_type: type) -> pa.Schema:
    """The arrow schema of a row dataclass, side tables left out."""
    import pyarrow as pa

    return pa.schema([pa.field(c.name, arrow_type(c.type)) for c in columns(row_type) if c.table is None])


def table_types(row_type: type) -> dict[str, type]:
    """The side tables that a row dataclass declares: table name -> dataclass of its rows."""
    return {c.table: typing.get_args(c.type)[0] for c in columns(row_type) if c.table is not None}


def plain(value: Any) -> Any:
    """A dataclass tree as dicts, lists and scalars, ready for JSON and arrow. Non-finite floats become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return value
