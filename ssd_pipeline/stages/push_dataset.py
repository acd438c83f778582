"""push_dataset: publish finished rows as a version of a data set on the Hub.

One commit brings everything that belongs together: parquet under `data/<config>/`, a manifest for each output with the
hashes, the record and the lineage, and the card; then the version, a tag, names it for good. `load_dataset(repo,
output, revision=version)` reads it without this package. What is published is what the stage reads: the artifact's own
files, or, with a `where`, the rows that it leaves. Whether the work is done is read from the manifests under the tag,
never from memory: a repo that somebody deleted is no hit. This file does not know how the Hub is spoken to.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from ssd_pipeline import card
from ssd_pipeline.errors import HubError, RunError
from ssd_pipeline.records import Row
from ssd_pipeline.stage import EffectStage, Input, Params, StageContext, Summary
from ssd_pipeline.store import artifact, bundle, durable, hub
from ssd_pipeline.store.manifest import ADDRESS, read_manifest
from ssd_pipeline.store.refusals import asking

REPO = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?/[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?", re.ASCII)
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


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
        taken = self.version == "main" or hub.COMMIT.fullmatch(self.version) or ADDRESS.fullmatch(self.version)
        if taken or not VERSION.fullmatch(self.version):
            yield ("version",), f"{self.version!r} cannot name a version: letters, digits, '.', '_', '-'; not main"


def run(params: PushDataset, ctx: StageContext) -> Summary:
    """Publish all inputs. Raises HubError; RunError when an input gives no rows."""
    with tempfile.TemporaryDirectory(prefix="upload-", dir=ctx.work) as folder:
        files: dict[str, hub.Content] = {}
        outputs, delete, rows = [], [], 0
        for given in ctx.inputs:
            tables, beside = _leaving(given, ctx.inputs, Path(folder))
            files |= {path: file for table in tables for path, file in table.files.items()} | beside
            delete += [f"data/{table.name}/*" for table in tables] + [f"manifests/{given.name}.*.json"]
            rows += sum(table.rows for table in tables)
            manifest = f"manifests/{given.name}.json"
            told = (given.name, given.digest, given.record, given.above, tables, beside)
            files[manifest] = bundle.manifest(*told, whole=not _filtered(given))
            shown = [bundle.shareable(one) for one in (given.record, *given.above)]
            outputs.append(card.Output(given.name, given.digest, tables, shown[0], shown[1:], manifest))
        said = {name: getattr(params, name) for name in ("license", "pretty_name", "description")}
        release = card.Release(params.repo, params.version, outputs, **said)
        files["README.md"] = lambda present: card.rendered(release, present)
        commit = hub.publish(
            params.repo,
            "dataset",
            files,
            delete=delete,
            message=f"{params.version}: {', '.join(given.name for given in ctx.inputs)}",
            private=params.private,
            version=params.version,
        )
    return {"repo": params.repo, "version": params.version, "commit": commit, "rows": rows}


def done(params: PushDataset, digests: Sequence[str]) -> bool:
    """Does the repo hold exactly these rows under that version? Raises HubError when it cannot be asked."""
    commit = hub.version_commit(params.repo, "dataset", params.version)
    if commit is None:
        return False
    folder = hub.snapshot(params.repo, "dataset", commit, ["manifests/*.json"]) / "manifests"
    return set(digests) <= {_digest(path) for path in folder.glob("*.json")}


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
        return str(read_manifest(path)["digest"])
    except HubError:
        return None


def _filtered(given: Input) -> bool:
    return given.digest != given.record["digest"]


def _leaving(given: Input, inputs: Sequence[Input], folder: Path) -> tuple[list[card.Config], dict[str, Path]]:
    """The tables of an input, rows first, and the files beside them: as they stand, or, with a `where`, written anew
    below `folder`."""
    if not given.record.get("rows"):
        raise RunError(f"{given.name} gives no rows to publish")
    others = {name for one in inputs if one is not given for name in (one.name, *bundle.side_tables(one.record))}
    names = {"rows": given.name}
    for name in bundle.side_tables(given.record):
        names[name] = f"{given.name}_{name}" if name in others or name == given.name else name
    if _filtered(given):
        return _written(given, names, folder), {}
    return bundle.leaving(given.name, given.record, given.directory, names)


def _written(given: Input, names: dict[str, str], folder: Path) -> list[card.Config]:
    """What `where` leaves, as shards; the engine's row number is left out, for it would name nothing."""
    root, kept = given.directory.parent, set()

    def rows() -> Iterator[Row]:
        for row in given.rows():
            kept.add(row["uuid"])
            yield row

    made = []
    for name, config in names.items():
        beside = (row for row in artifact.read_rows(root, name) if row["uuid"] in kept)
        made.append(_table(config, artifact.read_schema(root, name), rows() if name == "rows" else beside, folder))
    if not made[0].rows:
        raise RunError(f"{given.name} gives no rows to publish: `where` leaves none")
    return made


def _table(config: str, schema: Any, rows: Iterator[Row], folder: Path) -> card.Config:
    import pyarrow as pa

    names = [name for name in schema.names if name != "row"]
    shown = pa.schema([schema.field(name) for name in names])
    place = folder / config
    durable.make_dir(place)
    told = artifact.write_table(place, "train", shown, ({n: row[n] for n in names} for row in rows), frozenset())
    return card.Config(config, told["rows"], names, bundle.placed(config, sorted(place.glob("train-*.parquet"))))


STAGE = EffectStage(kind="push_dataset", version=1, params=PushDataset, run=run, done=done, ready=ready)
