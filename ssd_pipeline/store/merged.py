"""Writes finished rows: the input's columns with the added ones, side tables beside them, and the row keys.

A side table's rows carry the number of the row they belong to, and its uuid where rows have one. The keys stand beside
the rows, 16 bytes each, in row order: how a later, larger input finds the rows that it shares. This file does not know
where rows come from.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from ssd_pipeline.records import Row, arrow_schema, columns, table_types
from ssd_pipeline.store import artifact, durable


class RowWriter:
    """Writes merged rows and the side tables that a stage declares; a side table's rows carry their row's number."""

    def __init__(self, data: Path, schema: Any, adds: type, measured: frozenset[str]) -> None:
        import pyarrow as pa

        self._schema = schema
        self._rows = artifact.Table(data, "rows", schema, measured)
        self._sides = {}
        self._fields = {c.name: c.table for c in columns(adds) if c.table}
        self._owner = [pa.field("row", pa.int64()), *(f for f in schema if f.name == "uuid")]
        for table, row_type in table_types(adds).items():
            side = pa.schema([*self._owner, *arrow_schema(row_type)])
            hidden = frozenset(c.name for c in columns(row_type) if c.measured)
            self._sides[table] = artifact.Table(data, table, side, hidden)

    def append(self, row: Row, added: Row) -> None:
        number = self._rows.rows
        merged = {**row, **{k: v for k, v in added.items() if k not in self._fields}}
        self._rows.append({name: merged.get(name) for name in self._schema.names})
        owner = {"row": number, "uuid": row.get("uuid")}
        for name, table in self._fields.items():
            for side_row in added[name] or ():
                self._sides[str(table)].append({f.name: owner[f.name] for f in self._owner} | side_row)

    def close(self) -> dict[str, Any]:
        return {"rows": self._rows.close(), **{name: table.close() for name, table in self._sides.items()}}


def write_keys(data: Path, keys: list[str]) -> None:
    """The row keys beside the rows, 16 bytes each, in row order: how a later, larger input finds them."""
    durable.write_file(data / "keys.bin", b"".join(bytes.fromhex(key) for key in keys))


def read_keys(directory: Path) -> list[str]:
    """The row keys of an artifact, in row order."""
    keys = (directory / "data" / "keys.bin").read_bytes()
    return [keys[i : i + 16].hex() for i in range(0, len(keys), 16)]


def finished_before(directory: Path, adds: type) -> Iterator[tuple[str, Row]]:
    """(row key, added columns with their side tables) of every row of an artifact, in order."""
    keys = read_keys(directory)
    names = [c.name for c in columns(adds) if c.table is None]
    sides = {c.name: _by_row(directory, c.table) for c in columns(adds) if c.table}
    waiting = {name: next(side, None) for name, side in sides.items()}
    for number, row in enumerate(artifact.read_rows(directory, columns=names)):
        added = dict(row)
        for name, side in sides.items():
            group = waiting[name]
            mine = group is not None and group[0] == number
            added[name] = group[1] if group and mine else []
            if mine:
                waiting[name] = next(side, None)
        yield keys[number], added


def _by_row(directory: Path, table: str) -> Iterator[tuple[int, list[Row]]]:
    for number, rows in groupby(artifact.read_rows(directory, table), key=lambda row: row["row"]):
        yield number, [{k: v for k, v in row.items() if k not in ("row", "uuid")} for row in rows]
