"""An artifact on its way to a repo and back: which of its files goes where, and a manifest that says what they are.

Files travel as they are, byte for byte, so that what is fetched is the artifact that was made: tables as shards that
`load_dataset` finds, everything else beside them. A manifest holds the record, each file's place, size and sha256, and
the lineage. Nothing in it is a place of a machine: recipe texts travel without their `runtime:`. What comes back is
believed in nothing: its manifest is of our form (manifest.py), every byte has its hash, the digest is taken over the
rows again, and the tables beside them belong to them. This file does not know how a Hub is spoken to.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from ssd_pipeline.card import Config
from ssd_pipeline.errors import HubError, StoreError, boundary
from ssd_pipeline.store import artifact, durable
from ssd_pipeline.store.identity import file_digest
from ssd_pipeline.store.local import Artifact, Store
from ssd_pipeline.store.manifest import FORMAT, listed, misfit


def leaving(
    output: str, record: Mapping[str, Any], data: Path, names: Mapping[str, str]
) -> tuple[list[Config], dict[str, Path]]:
    """The tables of an artifact as they stand below `data`, and the files beside them by their path in the repo.

    `names`: the config of each table, rows first.
    """
    made = []
    for name, config in names.items():
        shards = sorted(data.glob(f"{name}-[0-9]*.parquet"))
        columns = artifact.read_schema(data.parent, name).names
        made.append(Config(config, record["tables"][name]["rows"], columns, placed(config, shards)))
    tabled = {file.name for table in made for file in table.files.values()}
    rest = [f["name"] for f in record.get("files", ()) if f["name"] not in tabled]
    return made, {f"data/{output}/{name}": data / name for name in rest}


def plain_name(output: str) -> str:
    """The name of an output in a repo: without the brackets of a sweep's instance, which are patterns there."""
    return re.sub(r"[^\w.-]+", "-", output, flags=re.ASCII).strip("-")


def placed(config: str, shards: Sequence[Path]) -> dict[str, Path]:
    """Shards by their path in a data set repo."""
    return {f"data/{config}/train-{i:05d}-of-{len(shards):05d}.parquet": shard for i, shard in enumerate(shards)}


def side_tables(record: Mapping[str, Any]) -> list[str]:
    """The names of an artifact's tables beside its rows."""
    return sorted(name for name in record.get("tables", {}) if name != "rows")


def manifest(
    output: str,
    digest: str,
    record: Mapping[str, Any],
    above: Sequence[Mapping[str, Any]],
    made: Sequence[Config],
    beside: Mapping[str, Path],
    *,
    whole: bool,
) -> bytes:
    """What an output is, as JSON. `whole`: the files are all of the artifact, which can be made of them again."""

    def told(path: Path) -> dict[str, Any]:
        said = {"sha256": file_digest(path), "size": path.stat().st_size}
        return {**said, "name": path.name} if whole else said

    said = {
        "format": FORMAT,
        "output": output,
        "digest": digest,
        "whole": whole,
        "tables": {
            t.name: {"rows": t.rows, "columns": list(t.columns), "files": {p: told(f) for p, f in t.files.items()}}
            for t in made
        },
        "beside": {path: told(file) for path, file in beside.items()},
        "record": shareable(record),
        "above": [shareable(one) for one in above],
    }
    return json.dumps(said, indent=1, sort_keys=True, ensure_ascii=False).encode()


def unaltered(folder: Path, files: Mapping[str, Mapping[str, Any]], where: str) -> None:
    """Are these the files that were published? Raises HubError naming the first that is not."""
    for name, said in files.items():
        path = folder / name
        if not path.is_file():
            raise HubError(f"{where}: the manifest lists {name}, and it is not there")
        if path.stat().st_size != said["size"] or file_digest(path) != said["sha256"]:
            raise HubError(f"{where}: {name} is not the file that was published; it is not used")


def restore(store: Store, folder: Path, said: Mapping[str, Any], where: str) -> Artifact:
    """Make the artifact of downloaded files, as if it had been made here. Raises HubError when it is not what was said,
    StoreError."""
    record, files = said["record"], listed(said)
    if problem := misfit(said, str(record.get("address"))):
        raise HubError(f"{where}: {problem}; it is not used")
    unaltered(folder, files, where)
    staging = store.staging(record["address"])
    try:
        with boundary(HubError, "what it holds cannot be read"):
            for path, one in files.items():
                _copy(folder / path, staging / "data" / one["name"])
            artifact.verify(staging, record)
            if odd := _untrue(staging, record):
                raise HubError(f"{odd}; they are not used")
            return store.commit(staging, record)
    except (StoreError, HubError) as cause:
        with suppress(StoreError):
            durable.remove(staging)
        if isinstance(cause.__cause__, OSError) and cause.__cause__.errno in (errno.ENOSPC, errno.EDQUOT):
            room(store, said, where)
        raise type(cause)(f"{where}: {cause}") from cause


def _untrue(staging: Path, record: Mapping[str, Any]) -> str | None:
    """What of the rows, or of what stands beside them, is not as the record has it."""
    rows, keys = record["rows"], staging / "data" / "keys.bin"
    taken = (artifact.content_of(staging, record, without) for without in ((), record["measured"]))
    if tuple(taken) != (record["content"], record["digest"]) or (rows is not None and rows != artifact.count(staging)):
        return "the rows are not those that the record names"
    if keys.is_file() and keys.stat().st_size != 16 * (rows or 0):
        return "the row keys are not those of the rows"
    if rows is not None and "rows" not in record["tables"]:
        return "the record names no rows"
    for name, told in record["tables"].items():
        owned = rows is None or name == "rows" or "row" in artifact.read_schema(staging, name).names
        if not owned or artifact.count(staging, name) != told["rows"]:
            return f"the rows of {name} are not those that the record names"
    return None


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as given, durable.create(target) as file:
        while piece := given.read(1 << 20):
            durable.append(file, piece)
        durable.sync(file)


def room(store: Store, said: Mapping[str, Any], where: str) -> None:
    """Raises HubError when the disk has no room for what is to be fetched, naming how many bytes are needed."""
    durable.make_dir(store.root)
    needed, free = sum(one["size"] for one in listed(said).values()), shutil.disk_usage(store.root).free
    if free < needed:
        raise HubError(f"{where}: {needed:,} bytes are needed and {free:,} are free: make room (`ssd gc`), run again")


# ------------------------------------------------------------------------------------- what may be shown


def shareable(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what belongs to one machine: the recipe texts lose their `runtime:` and absolute paths."""
    origin = record.get("recipe")
    if not origin:
        return dict(record)
    texts = {name: _without_runtime(text) for name, text in origin.get("texts", {}).items()}
    return {**record, "recipe": {**origin, "texts": {name: text for name, text in texts.items() if text}}}


def _without_runtime(text: str) -> str:
    try:
        said = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return ""
    if not isinstance(said, dict):  # an override of the command line
        return "" if text.lstrip().startswith("runtime") else text
    said.pop("runtime", None)
    return yaml.safe_dump(_no_places(said), sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)


def _no_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _no_places(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_no_places(one) for one in value]
    here = isinstance(value, str) and os.path.isabs(value) and os.path.exists(value)
    return Path(value).name if here else value


def lineage(store: Store, record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The records of everything that an artifact was made from, nearest first, as far as they are in the store."""
    found: dict[str, Mapping[str, Any]] = {}
    waiting = list(used_by(record))
    while waiting:
        address = waiting.pop(0)
        here = store.find(address) if address not in found else None
        if isinstance(here, Artifact):
            found[address] = here.record
            waiting += used_by(here.record)
    return list(found.values())


def used_by(record: Mapping[str, Any]) -> Iterable[str]:
    """The addresses that an artifact was made from."""
    return [str(i["address"]) for i in [*record.get("inputs", []), *record.get("uses", [])] if i.get("address")]
