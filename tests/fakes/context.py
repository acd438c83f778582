"""The context of a whole stage or an effect, with a real artifact directory behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssd_pipeline.identities import artifact_key
from ssd_pipeline.records import Row
from ssd_pipeline.stage import Input, Model, StageRef
from ssd_pipeline.store import artifact
from ssd_pipeline.store.identity import digest_of


@dataclass
class Context:
    """`out` and `work` lie below `root`, as in the store; `revisions` is what the plan has resolved."""

    root: Path
    inputs: Sequence[Input] = ()
    revisions: Mapping[str, str] = field(default_factory=dict)
    seed: int = 17
    take: int = 0
    tables: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.out, self.work = self.root / "data", self.root / "work"
        self.out.mkdir(parents=True)
        self.work.mkdir()

    def stage(self, ref: StageRef) -> Input:
        raise AssertionError(f"not expected: {ref}")

    def model(self, name: str) -> Model:
        raise AssertionError(f"not expected: {name}")

    def revision(self, repo: str) -> str:
        return self.revisions[repo]

    def progress(self, done: int, total: int | None) -> None:
        pass

    def write_rows(self, schema: Any, rows: Iterable[Row]) -> int:
        self.tables["rows"] = artifact.write_table(self.out, "rows", schema, rows, frozenset())
        return int(self.tables["rows"]["rows"])

    def rows(self) -> list[Row]:
        return list(artifact.read_rows(self.root))


def finished(
    root: Path, name: str, rows: Sequence[Row], *, where: Mapping[str, Any] | None = None, **tables: Sequence[Row]
) -> Input:
    """A finished stage with these rows and side tables, as an input of another."""
    import pyarrow as pa

    (root / "data").mkdir(parents=True)
    told = {}
    for table, content in {"rows": rows, **tables}.items():
        schema = pa.Table.from_pylist(list(content)).schema
        told[table] = artifact.write_table(root / "data", table, schema, content, frozenset())

    def read(columns: Sequence[str] | None) -> Iterator[Row]:
        for row in artifact.read_rows(root, columns=columns):
            if all(row[key] in allowed for key, allowed in (where or {}).items()):
                yield row

    identity = {"kind": "verify_answers", "version": 1, "params": {"timeout_s": 5}}
    inputs = [{"content": "c" * 64}]
    key = artifact_key(identity, inputs)
    record = {
        "format": artifact.FORMAT,
        "kind": "verify_answers",
        "address": f"verify_answers-{key[:16]}",
        "key": key,
        "fingerprint": digest_of(identity),
        "identity": identity,
        "inputs": [{**inputs[0], "address": "sample_branches-0123456789abcdef"}],
        "uses": [],
        "rows": told["rows"]["rows"],
        "content": told["rows"]["content"],
        "digest": told["rows"]["digest"],
        "tables": told,
        "measured": [],
        "files": artifact.describe_files(root / "data"),
        "summary": {"correct": 2},
        "recipe": {
            "name": "r",
            "stage": name,
            "texts": {"r.yaml": "runtime: {models: {teacher: {endpoints: [http://10.0.0.1]}}}"},
        },
        "tools": {},
        "started": "2026-11-24T00:00:00Z",
        "ended": "2026-11-24T00:00:01Z",
        "seconds": 1.0,
    }
    digest = told["rows"]["digest"] + (repr(sorted(where.items())) if where else "")
    return Input(name, record["kind"], record["address"], root / "data", record, 1.0, read, digest)
