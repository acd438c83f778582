"""An artifact: a directory of data and one record.json that lists every file in it with size and sha256.

It is built in a fresh staging directory and becomes visible by one rename, so it is absent or whole for every reader.
Two digests are taken over the rows while they are written: `content` covers every column and goes into the keys of
what is built on it; `digest`, which is shown, leaves out measured columns (scores, times), so that two runs can be
compared. `check` finds what a listing can show (missing, extra, other size); `verify` reads every byte. Parquet is
written in bounded row groups; side tables stand beside the rows. This file does not know stages, recipes or addresses'
meaning.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd_pipeline.errors import StoreError
from ssd_pipeline.records import Row
from ssd_pipeline.store import durable
from ssd_pipeline.store.identity import canonical_row, digest_of, file_digest

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
GROUP_ROWS = 1024  # rows per parquet row group at most, and
GROUP_BYTES = 16 << 20  # bytes of canonical JSON per row group, so that long texts stay bounded in memory too
FILE_BYTES = 256 << 20  # a new shard is begun above this
RECORD_BYTES = 32 << 20
SINK_BYTES = 1 << 20
NEEDED = frozenset({"address", "key", "fingerprint", "content", "digest", "rows", "files"})


class Table:
    """Writes one table of an artifact in shards `<name>-00000.parquet`, and digests its rows on the way."""

    def __init__(self, directory: Path, name: str, schema: pa.Schema, measured: frozenset[str] = frozenset()) -> None:
        self._directory, self._name, self._schema, self._measured = directory, name, schema, measured
        self._content, self._digest = hashlib.sha256(), hashlib.sha256()
        self._buffer: list[Row] = []
        self._buffered = self._written = self._shard = 0
        self._file: Any = None
        self._writer: Any = None
        self.rows = 0
        self._known = frozenset(schema.names)
        self._fractions = {f.name: fix for f in schema if (fix := _fractions(f.type))}

    def append(self, row: Row) -> None:
        """One more row; its keys must be exactly the schema's. Raises StoreError otherwise."""
        if row.keys() != self._known:
            odd = sorted(row.keys() ^ self._known)
            raise StoreError(f"a row of {self._name} has other columns than its schema: {', '.join(odd)}")
        if self._fractions:
            row = {**row, **{name: fix(row[name]) for name, fix in self._fractions.items()}}
        data = canonical_row(row)
        self._content.update(data + b"\n")
        if self._measured:
            data = canonical_row({k: v for k, v in row.items() if k not in self._measured})
        self._digest.update(data + b"\n")
        self._buffer.append(row)
        self._buffered += len(data)
        self.rows += 1
        if len(self._buffer) >= GROUP_ROWS or self._buffered >= GROUP_BYTES:
            self._flush()

    def close(self) -> dict[str, Any]:
        """Flush, and say what was written: rows, content and digest."""
        if self._buffer or self._shard == 0:
            self._flush()
        self._end_shard()
        digests = {"content": self._content.hexdigest(), "digest": self._digest.hexdigest()}
        return {"rows": self.rows, "shards": self._shard, **digests}

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._writer is None:
            self._file = durable.create(self._directory / f"{self._name}-{self._shard:05d}.parquet")
            self._sink = _Sink(self._file)
            self._writer = pq.ParquetWriter(
                pa.PythonFile(self._sink, mode="w"), self._schema, compression="zstd", write_page_checksum=True
            )
            self._shard += 1
        try:
            table = pa.Table.from_pylist(self._buffer, schema=self._schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError) as cause:
            raise StoreError(f"rows {self.rows - len(self._buffer)} to {self.rows} of {self._name}: {cause}") from cause
        if len(self._buffer) or self.rows == 0:
            self._writer.write_table(table, row_group_size=max(1, len(self._buffer)))
        self._written += self._buffered
        self._buffer, self._buffered = [], 0
        if self._written >= FILE_BYTES:
            self._end_shard()

    def _end_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._sink.flush()
            durable.sync(self._file)
            self._file.close()
            self._writer, self._written = None, 0


def _fractions(type_: pa.DataType) -> Callable[[Any], Any] | None:
    """Whole numbers in a column of fractions as they are read back, 1.0 for 1, so that a row that was written before
    has the digest of a row that is computed; None where a type holds no fractions."""
    import pyarrow as pa

    if pa.types.is_floating(type_):
        return lambda value: float(value) if type(value) is int else value
    if pa.types.is_list(type_) and (inner := _fractions(type_.value_type)):
        return lambda value: None if value is None else [inner(one) for one in value]
    if pa.types.is_struct(type_) and (fixes := {f.name: fix for f in type_ if (fix := _fractions(f.type))}):
        return lambda value: value if value is None else {**value, **{n: fix(value.get(n)) for n, fix in fixes.items()}}
    return None


class _Sink:
    """The file that parquet writes into, so that every byte goes through durable.append, a megabyte at a time."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._held = bytearray()
        self._size = 0
        self.closed = False

    def write(self, data: Any) -> int:
        self._held += data
        self._size += len(data)
        if len(self._held) >= SINK_BYTES:
            self.flush()
        return len(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        if self._held:
            held, self._held = bytes(self._held), bytearray()
            durable.append(self._file, held)

    def close(self) -> None:
        self.closed = True

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


def list_files(directory: Path) -> dict[str, Path]:
    """Every file below a directory by its relative name. Raises StoreError for a link or anything not a plain file."""
    found = {}
    for base, folders, names in os.walk(directory):
        for name in [*folders, *names]:
            path = Path(base) / name
            relative = path.relative_to(directory).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise StoreError(f"{relative} is not a plain file")
            if name in names:
                found[relative] = path
    return found


def describe_files(directory: Path) -> list[dict[str, Any]]:
    """name, size and sha256 of every file below a data directory, each made durable."""
    described = []
    for name, path in sorted(list_files(directory).items()):
        with path.open("rb") as file:
            durable.sync(file)
        described.append({"name": name, "size": path.stat().st_size, "sha256": file_digest(path)})
    for base, _, _ in os.walk(directory):
        durable.sync_dir(Path(base))
    return described


def files_content(files: Sequence[Mapping[str, Any]]) -> str:
    """The content digest of an artifact that is files and not rows (an adapter); its parquet tables do not count."""
    return digest_of({f["name"]: f["sha256"] for f in files if not f["name"].endswith((".parquet", ".bin"))})


def content_of(directory: Path, record: Mapping[str, Any], without: Collection[str] = ()) -> str:
    """The content digest of what a directory holds, taken anew; `without` the measured columns it is the digest."""
    if record["rows"] is None:
        return files_content(record["files"])
    content = hashlib.sha256()
    for row in read_rows(directory):
        content.update(canonical_row({name: value for name, value in row.items() if name not in without}) + b"\n")
    return content.hexdigest()


def count(directory: Path, table: str = "rows") -> int:
    """How many rows there are."""
    return sum(1 for _ in read_rows(directory, table, columns=read_schema(directory, table).names[:1]))


def complete(files: Sequence[Mapping[str, Any]], tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Is every file of every table still there? Raises StoreError when something removed one while it was built."""
    names = {f["name"] for f in files}
    for table, told in tables.items():
        for name in (f"{table}-{shard:05d}.parquet" for shard in range(told["shards"])):
            if name not in names:
                raise StoreError(f"{name} was removed by another program while the stage was written: run again")


def write_record(directory: Path, record: Mapping[str, Any]) -> None:
    """record.json of a staging directory, the last file before the rename, with a sha256 of itself."""
    text = json.dumps(
        {**record, "sha256": digest_of(record)}, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False
    )
    durable.write_file(directory / "record.json", text.encode("utf-8"))
    durable.sync_dir(directory)


def read_record(directory: Path) -> dict[str, Any]:
    """The record of an artifact directory. Raises StoreError with the reason when it is not one we can use."""
    path = directory / "record.json"
    try:
        if directory.is_symlink() or path.is_symlink() or not path.is_file():
            raise StoreError("no record.json")
        if path.stat().st_size > RECORD_BYTES:
            raise StoreError("record.json is larger than any record")
        record = json.loads(path.read_bytes(), object_pairs_hook=_no_duplicates, parse_constant=_no_constants)
    except (OSError, ValueError, RecursionError) as cause:
        raise StoreError(f"record.json cannot be read ({type(cause).__name__})") from cause
    if not isinstance(record, dict) or not isinstance(record.get("format"), int):
        raise StoreError("record.json is not a record")
    if record["format"] > FORMAT:
        raise StoreError("written by a newer ssd_pipeline: upgrade to use it")
    if record["format"] < FORMAT:
        raise StoreError("written by an older ssd_pipeline")
    if record.pop("sha256", None) != _record_digest(record) or not record.keys() >= NEEDED:
        raise StoreError("record.json was altered")
    return record


def _record_digest(record: dict[str, Any]) -> str | None:
    try:
        return digest_of(record)
    except (ValueError, RecursionError):  # text that is no Unicode
        return None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate keys")
    return found


def _no_constants(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def check(directory: Path, record: Mapping[str, Any]) -> None:
    """Are exactly the listed files there, with the listed sizes? Raises StoreError with the first difference."""
    data = directory / "data"
    if data.is_symlink() or not data.is_dir():
        raise StoreError("its data is missing")
    try:
        listed = {str(f["name"]): f["size"] for f in record["files"]}
    except (KeyError, TypeError) as cause:
        raise StoreError("record.json lists no files") from cause
    found = list_files(data)
    for name in sorted(listed.keys() - found.keys()):
        raise StoreError(f"data/{name} is missing")
    for name in sorted(found.keys() - listed.keys()):
        raise StoreError(f"data/{name} was not written by this stage")
    for name, size in sorted(listed.items()):
        if found[name].stat().st_size != size:
            raise StoreError(f"data/{name} has {found[name].stat().st_size} bytes instead of {size}")


def verify(directory: Path, record: Mapping[str, Any]) -> None:
    """Read every byte and compare. Raises StoreError naming the first file that was altered."""
    check(directory, record)
    for entry in record["files"]:
        if file_digest(directory / "data" / entry["name"]) != entry["sha256"]:
            raise StoreError(f"data/{entry['name']} was altered")


def read_rows(directory: Path, table: str = "rows", columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of one table in order, as dicts; a row group at a time."""
    import pyarrow.parquet as pq

    for path in sorted((directory / "data").glob(f"{table}-*.parquet")):
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group, columns=columns).to_pylist()


def read_schema(directory: Path, table: str = "rows") -> pa.Schema:
    """The arrow schema of one table. Raises StoreError when the artifact has no such table."""
    import pyarrow.parquet as pq

    for path in sorted((directory / "data").glob(f"{table}-*.parquet")):
        return pq.read_schema(path).remove_metadata()
    raise StoreError(f"it has no table {table}")


def write_table(directory: Path, name: str, schema: pa.Schema, rows: Iterable[Row], measured: frozenset[str]) -> dict:
    """A whole table at once; see `Table`."""
    table = Table(directory, name, schema, measured)
    for row in rows:
        table.append(row)
    return table.close()
