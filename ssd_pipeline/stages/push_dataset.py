"""push_dataset: publish finished rows as a version of a data set on the Hub.

One commit brings everything that belongs together: parquet under `data/<config>/`, a manifest for each output with the
digests, hashes and lineage, and the card; then the version, a tag, names it for good. `load_dataset(repo, output,
revision=version)` reads it without this package. What is published is what the stage reads, `where` applied. Whether
the work is done is read from the manifests under the tag, never from memory: a repo that somebody deleted is no hit.
This file does not know how the Hub is spoken to.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from ssd_pipeline import card
from ssd_pipeline.errors import HubError, RunError
from ssd_pipeline.records import Row
from ssd_pipeline.stage import EffectStage, Input, Params, StageContext, Summary
from ssd_pipeline.store import artifact, durable, hub
from ssd_pipeline.store.identity import file_digest
from ssd_pipeline.store.refusals import asking

FORMAT = 1
REPO = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?/[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?", re.ASCII)
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LINEAGE = ("kind", "address", "key", "fingerprint", "identity", "inputs", "content", "digest", "served", "tools")
CAME_OUT = ("rows", "fates", "summary", "spend", "served")


class PushDataset(Params):
    """Where the inputs go. A version that exists is never changed."""

    repo: str = Field(description="owner/name; made if it does not exist")
    version: str = Field(description="the tag that names this publication, for instance v1")
    private: bool = Field(True, description="the repo must be so, or nothing is uploaded")
    license: str | None = Field(
        None, pattern=r"^[a-z0-9][a-z0-9.+-]*$", description="an SPDX identifier in lower case, as the Hub spells it"
    )
    pretty_name: str | None = Field(None, description="the title of a new card")
    description: str | None = Field(None, description="what a new card says first, in Markdown")

    def mistakes(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        repo = self.repo
        if not REPO.fullmatch(repo) or len(repo) > 96 or "--" in repo or ".." in repo or repo.endswith(".git"):
            yield ("repo",), f"{repo!r} is not the name of a repo on the Hub: owner/name, 96 characters at most"
        if not VERSION.fullmatch(self.version) or self.version == "main" or hub.COMMIT.fullmatch(self.version):
            yield ("version",), f"{self.version!r} cannot name a version: letters, digits, '.', '_', '-'; not main"


@dataclass(frozen=True)
class Table:
    """One table of an output on its way out: its config, its files by their path in the repo, what they hold."""

    config: str
    files: dict[str, Path]
    rows: int
    columns: list[str]


def run(params: PushDataset, ctx: StageContext) -> Summary:
    """Publish all inputs. Raises HubError; RunError when an input gives no rows."""
    with tempfile.TemporaryDirectory(prefix="upload-", dir=ctx.work) as folder:
        outputs = [(given, _tables(given, ctx.inputs, Path(folder))) for given in ctx.inputs]
        tables = [table for _, own in outputs for table in own]
        files: dict[str, hub.Content] = {path: file for table in tables for path, file in table.files.items()}
        for given, own in outputs:
            files[f"manifests/{given.name}.json"] = _manifest(given, own)
        release = card.Release(
            repo=params.repo,
            version=params.version,
            outputs=[_output(given, own) for given, own in outputs],
            license=params.license,
            pretty_name=params.pretty_name,
            description=params.description,
        )
        files["README.md"] = lambda present: card.render(release, _text(present)).encode()
        commit = hub.publish(
            params.repo,
            "dataset",
            files,
            delete=[f"data/{table.config}/*" for table in tables],
            message=f"{params.version}: {', '.join(given.name for given in ctx.inputs)}",
            private=params.private,
            version=params.version,
        )
    return {"repo": params.repo, "version": params.version, "commit": commit, "rows": sum(t.rows for t in tables)}


def done(params: PushDataset, digests: Sequence[str]) -> bool:
    """Does the repo hold exactly these rows under that version? Raises HubError when it cannot be asked."""
    commit = hub.version_commit(params.repo, "dataset", params.version)
    if commit is None:
        return False
    folder = hub.snapshot(params.repo, "dataset", commit, ["manifests/*.json"]) / "manifests"
    held = {_digest(path) for path in folder.glob("*.json")}
    return set(digests) <= held


def ready(params: PushDataset) -> str:
    """Who pushes, and whether the version is there already. Raises HubError: no token that may write, not reachable."""
    with asking(f"ask who pushes to {params.repo}", params.repo):
        found = hub.api().whoami()
    who = found["name"]
    if found.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise HubError(f"the token of {who} may only read: one with `write` permission is needed")
    there = hub.version_commit(params.repo, "dataset", params.version) is not None
    return f"pushes as {who}" + (f"; {params.version} is there already and will not change" if there else "")


def _digest(path: Path) -> str | None:
    """The digest that a manifest names; None for a file that is no manifest of ours."""
    try:
        said = json.loads(path.read_bytes())
    except ValueError:
        return None
    return str(said["digest"]) if isinstance(said, dict) and said.get("format") == FORMAT else None


def _tables(given: Input, inputs: Sequence[Input], folder: Path) -> list[Table]:
    """The rows of an input, then its side tables, written below `folder`."""
    if not given.record.get("rows"):
        raise RunError(f"{given.name} gives no rows to publish")
    kept: set[str] = set()

    def rows() -> Iterator[Row]:
        for row in given.rows():
            kept.add(row["uuid"])
            yield row

    root = given.directory.parent
    written = [_written(given.name, artifact.read_schema(root), rows(), folder)]
    if not written[0].rows:
        raise RunError(f"{given.name} gives no rows to publish: `where` leaves none")
    for name in _side_tables(given):
        clash = any(name in (other.name, *_side_tables(other)) for other in inputs if other is not given)
        config = f"{given.name}_{name}" if clash or name == given.name else name
        schema = artifact.read_schema(root, name)
        beside = (row for row in artifact.read_rows(root, name) if row["uuid"] in kept)
        written.append(_written(config, schema, beside, folder))
    return written


def _side_tables(given: Input) -> list[str]:
    return sorted(name for name in given.record.get("tables", {}) if name != "rows")


def _written(config: str, schema: Any, rows: Iterator[Row], folder: Path) -> Table:
    """Write rows as shards; the engine's row number is left out of side tables, where it would name nothing."""
    import pyarrow as pa

    names = [name for name in schema.names if name != "row"]
    shown = pa.schema([schema.field(name) for name in names])
    place = folder / config
    durable.make_dir(place)
    told = artifact.write_table(place, "train", shown, ({n: row[n] for n in names} for row in rows), frozenset())
    shards = sorted(place.glob("train-*.parquet"))
    files = {f"data/{config}/train-{i:05d}-of-{len(shards):05d}.parquet": shard for i, shard in enumerate(shards)}
    return Table(config, files, told["rows"], names)


def _manifest(given: Input, tables: Sequence[Table]) -> bytes:
    """What an output is: digests, every file with size and sha256, and what it was made from. The same input, the same
    bytes: no time and no place."""
    said = {
        "format": FORMAT,
        "output": given.name,
        "digest": given.digest,
        "tables": {
            table.config: {
                "rows": table.rows,
                "columns": table.columns,
                "files": {
                    path: {"sha256": file_digest(file), "size": file.stat().st_size}
                    for path, file in table.files.items()
                },
            }
            for table in tables
        },
        "lineage": {name: given.record[name] for name in LINEAGE if name in given.record},
    }
    return json.dumps(said, indent=1, sort_keys=True, ensure_ascii=False).encode()


def _output(given: Input, tables: Sequence[Table]) -> card.Output:
    return card.Output(
        name=given.name,
        kind=given.kind,
        digest=given.digest,
        configs=[card.Config(t.config, f"data/{t.config}", t.rows, t.columns) for t in tables],
        asked=given.record.get("identity", {}),
        came_out={name: given.record[name] for name in CAME_OUT if given.record.get(name)},
    )


def _text(present: bytes | None) -> str | None:
    try:
        return None if present is None else present.decode("utf-8")
    except UnicodeDecodeError as cause:
        raise RunError("README.md in the repo is not UTF-8: repair it, nothing was sent") from cause


STAGE = EffectStage(kind="push_dataset", version=1, params=PushDataset, run=run, done=done, ready=ready)
