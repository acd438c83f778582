"""Files that people bring: parquet, JSON lines, JSON and CSV, read record by record.

Foreign data is not trusted: a record that cannot be read is given as an error with its row number and reading goes on,
a line is never longer in memory than LINE_BYTES, and bytes that are not UTF-8 arrive as lone surrogates, which the
caller refuses row by row. Only a file that cannot be read on (a broken footer, an endless quoted field) ends it. Rows
count from 1 within their file, empty lines left out. This file does not know what the columns mean.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ssd_pipeline.errors import RunError, boundary

FORMATS = (".parquet", ".jsonl", ".json", ".csv", ".tsv")  # each but parquet also with .gz
LINE_BYTES = 8 << 20  # a longer line (or CSV field) is an error
JSON_BYTES = 256 << 20  # a JSON array is read as a whole, so it is bounded; JSON lines are not
BATCH_ROWS = 256
PEEK_ROWS = 100  # JSON objects may leave keys out: the columns are the keys of this many


@dataclass(frozen=True)
class Record:
    """One row of a file: its values by column, or the reason why it cannot be read."""

    number: int
    values: Mapping[str, Any]
    error: str | None = None


def columns(path: Path) -> list[str]:
    """The names of the columns of a file. Raises RunError when it cannot be read or is of an unknown format."""
    with boundary(RunError, path.name):
        if _format(path) == ".parquet":
            import pyarrow.parquet as pq

            return list(pq.read_schema(path).names)
        if _format(path) in (".csv", ".tsv"):
            with _open(path) as file:
                return list(_csv_reader(path, file).fieldnames or ())
        peeked = itertools.islice(records(path, ()), PEEK_ROWS)
        return list(dict.fromkeys(name for record in peeked for name in record.values))


def records(path: Path, wanted: Sequence[str]) -> Iterator[Record]:
    """Every row in order. `wanted`: the columns of interest; parquet reads no others. Raises RunError."""
    readers = {".parquet": _parquet, ".csv": _csv, ".tsv": _csv, ".jsonl": _json, ".json": _json}
    with boundary(RunError, path.name):
        yield from readers[_format(path)](path, wanted)


def _format(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    for suffix in FORMATS:
        if name.endswith(suffix) and not (suffix == ".parquet" and path.name.lower().endswith(".gz")):
            return suffix
    raise RunError(f"{path.name}: cannot be read; formats are {', '.join(FORMATS)}, all but parquet also as .gz")


def _open(path: Path) -> io.BufferedReader[Any]:
    raw = gzip.GzipFile(path) if path.name.lower().endswith(".gz") else io.FileIO(path)
    file = io.BufferedReader(raw)
    if file.peek(3)[:3] == b"\xef\xbb\xbf":
        file.read(3)
    return file


def _parquet(path: Path, wanted: Sequence[str]) -> Iterator[Record]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        number = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(wanted), use_threads=False):
            for values in batch.to_pylist():
                number += 1
                yield Record(number, values)


def _csv_reader(path: Path, file: BinaryIO) -> csv.DictReader[str]:
    csv.field_size_limit(LINE_BYTES)
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
    return csv.DictReader(text, delimiter="\t" if _format(path) == ".tsv" else ",")


def _csv(path: Path, wanted: Sequence[str]) -> Iterator[Record]:
    with _open(path) as file:
        for number, values in enumerate(_csv_reader(path, file), 1):
            more = values.pop(None, None)
            yield Record(number, values, "has more fields than the header" if more else None)


def _json(path: Path, wanted: Sequence[str]) -> Iterator[Record]:
    with _open(path) as file:
        if file.peek(1)[:1] == b"[":
            yield from _array(file, path)
        else:
            yield from map(_object, itertools.count(1), _lines(file))


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Lines that are not blank; None for one that is too long, which is skipped in bounded pieces."""
    while line := file.readline(LINE_BYTES + 1):
        if len(line) > LINE_BYTES:
            while line and not line.endswith(b"\n"):
                line = file.readline(1 << 20)
            yield None
        elif line.strip():
            yield line


def _object(number: int, line: bytes | None) -> Record:
    if line is None:
        return Record(number, {}, f"is longer than {LINE_BYTES:,} bytes")
    try:
        return _mapping(number, json.loads(line.decode("utf-8", "surrogateescape")))
    except (ValueError, RecursionError) as cause:
        return Record(number, {}, f"is not JSON ({cause})")


def _array(file: BinaryIO, path: Path) -> Iterator[Record]:
    text = file.read(JSON_BYTES + 1)
    if len(text) > JSON_BYTES:
        raise RunError(f"{path.name}: a JSON array above {JSON_BYTES >> 20} MB; write one object a line (.jsonl)")
    for number, value in enumerate(json.loads(text.decode("utf-8", "surrogateescape")), 1):
        yield _mapping(number, value)


def _mapping(number: int, value: Any) -> Record:
    if isinstance(value, dict):
        return Record(number, value)
    return Record(number, {}, f"is {type(value).__name__}, not an object")
