"""Reading what `push_dataset` has published: a version becomes a commit once, and everything is read by that commit.

Every file is compared with the sha256 in the output's manifest before a row of it is used, so that neither a moved tag,
nor a cache that lies, nor a changed byte can give other rows than those that were published. This file does not know
recipes or the store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd_pipeline.errors import HubError, user_error
from ssd_pipeline.store import hub
from ssd_pipeline.store.identity import file_digest


@dataclass(frozen=True)
class Pulled:
    """One table of one version, verified on this machine. `files`: parquet, in the order of the rows."""

    repo: str
    version: str
    commit: str
    output: str
    rows: int
    files: tuple[Path, ...]
    manifest: Mapping[str, Any]


def pull(repo: str, output: str | None = None, version: str | None = None) -> Pulled:
    """Fetch and verify one output of a published data set; `output` may be left out where there is one.

    `version` is a tag or a commit. Raises UserErrors naming what there is when version or output is missing, HubError
    when the Hub cannot be asked or a file is not what its manifest says.
    """
    commit = _commit(repo, version)
    folder = hub.snapshot(repo, "dataset", commit, ["manifests/*.json"])
    tables = _tables(folder)
    if not tables:
        raise HubError(f"{repo}@{version} was not published by ssd_pipeline: use datasets.load_dataset")
    names = ", ".join(sorted(tables))
    if output is None:
        outputs = [name for name, (manifest, _) in tables.items() if manifest["output"] == name]
        if len(outputs) != 1:
            raise user_error(f"which output? There are {names}", key="OUTPUT")
        output = outputs[0]
    if output not in tables:
        raise user_error(f"{repo}@{version} has no output {output}; there are {names}", key="OUTPUT")
    manifest, table = tables[output]
    folder = hub.snapshot(repo, "dataset", commit, hub.exactly(list(table["files"])))
    for name, said in table["files"].items():
        _unaltered(folder, name, said, f"{repo}@{version}")
    files = tuple(folder / name for name in table["files"])
    return Pulled(repo, str(version), commit, output, int(table["rows"]), files, manifest)


def _commit(repo: str, version: str | None) -> str:
    if version is not None and hub.COMMIT.fullmatch(version):
        return version
    known = hub.versions(repo, "dataset")
    if version in known:
        return known[str(version)]
    there = ", ".join(sorted(known)) or "none"
    what = "which version?" if version is None else f"there is no version {version};"
    raise user_error(f"{what} Versions of {repo}: {there}".replace("; V", "; v"), key="VERSION")


def _tables(folder: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Every table of every manifest: config -> (manifest, table)."""
    found = {}
    for path in sorted((folder / "manifests").glob("*.json")):
        try:
            manifest = json.loads(path.read_bytes())
        except ValueError as cause:
            raise HubError(f"{path.name} is not a manifest: {cause}") from cause
        for config, table in manifest["tables"].items():
            found[config] = (manifest, table)
    return found


def _unaltered(folder: Path, name: str, said: Mapping[str, Any], where: str) -> None:
    path = folder / name
    if ".." in Path(name).parts or Path(name).is_absolute() or not path.is_file():
        raise HubError(f"{where}: the manifest lists {name}, and it is not there")
    if path.stat().st_size != said["size"] or file_digest(path) != said["sha256"]:
        raise HubError(f"{where}: {name} is not the file that was published; it is not used")


def load(repo: str, output: str | None = None, *, version: str | None = None) -> Any:
    """A published output as a `datasets.Dataset`, every byte verified. Raises as `pull`."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    pulled = pull(repo, output, version)
    # Not load_dataset: from a warm cache it may give another revision's rows.
    return Dataset(pa.concat_tables([pq.read_table(path) for path in pulled.files]))
