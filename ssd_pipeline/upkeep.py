"""What lies in a store, who needs it, and what can go.

An artifact is needed while a recipe's last run took it, or while another needed one was made from it. Everything else
can be made again, so `gc` may take it; only what was made in the last hour is left alone, since a run that goes on may
be about to use it. Replies are needed by nobody, and are what makes the next experiment cheap, so they go only when
asked for. This file does not know what artifacts hold, and prints nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd_pipeline.errors import StoreError
from ssd_pipeline.identities import defaults_of, differences
from ssd_pipeline.planner import Plan
from ssd_pipeline.store import artifact
from ssd_pipeline.store.bundle import used_by
from ssd_pipeline.store.local import Artifact, Store

YOUNG_SECONDS = 3600


@dataclass(frozen=True)
class Held:
    """One entry of the store. `needed_by`: recipes and artifacts, in words; `problem`: why it cannot be used."""

    address: str
    size: int
    record: Mapping[str, Any]
    needed_by: tuple[str, ...]
    problem: str | None


def survey(store: Store) -> list[Held]:
    """Every artifact with its size and who needs it."""
    records: dict[str, Mapping[str, Any]] = {}
    problems: dict[str, str] = {}
    for address in store.addresses():
        found = store.find(address)
        records[address] = found.record if isinstance(found, Artifact) else {}
        if not isinstance(found, Artifact):
            problems[address] = str(found)
    needed = _needed(store, records)
    return [
        Held(a, tree_size(store.root / "artifacts" / a), record, tuple(needed.get(a, ())), problems.get(a))
        for a, record in records.items()
    ]


def _needed(store: Store, records: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    needed: dict[str, list[str]] = {}
    waiting = []
    for recipe in sorted(os.listdir(store.root / "runs")) if (store.root / "runs").is_dir() else []:
        for stage, last in store.remembered(recipe, "stages").items():
            address = last.get("address")
            if address in records:
                needed.setdefault(address, []).append(f"stage {stage} of recipe {recipe.rpartition('-')[0]}")
                waiting.append(address)
    seen = set()
    while waiting:
        address = waiting.pop()
        if address in seen:
            continue
        seen.add(address)
        for above in used_by(records[address]):
            if above in records:
                needed.setdefault(above, []).append(address)
                waiting.append(above)
    return needed


def tree_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.lstat().st_size for p in folder.rglob("*") if not p.is_dir()) if folder.is_dir() else 0


def collectable(store: Store) -> list[Held]:
    """What `gc` would take: not needed, or not usable, and not young."""
    young = time.time() - YOUNG_SECONDS
    return [h for h in survey(store) if not h.needed_by and _made(store, h.address) < young]


def _made(store: Store, address: str) -> float:
    return (store.root / "artifacts" / address).lstat().st_mtime


def verify_all(store: Store, addresses: list[str]) -> Iterator[tuple[str, str | None]]:
    """(address, what is wrong with it or None) after every byte was compared."""
    for address in addresses or list(store.addresses()):
        found = store.find(address)
        if not isinstance(found, Artifact):
            yield address, str(found)
            continue
        try:
            artifact.verify(found.directory, found.record)
        except StoreError as altered:
            yield address, str(altered)
        else:
            yield address, None


def why(plan: Plan, name: str) -> tuple[str, list[str]]:
    """The nearest artifact of a stage's kind and every difference of identity: ('', []) when there is none."""
    stage = plan.stages[name]
    best: tuple[str, list[str]] | None = None
    if not stage.identity:
        return "", []
    usual = defaults_of(plan.document.stages[name].kind)
    for address in plan.store.addresses():
        if not address.startswith(f"{stage.kind}-") or address == stage.address:
            continue
        found = plan.store.find(address)
        if isinstance(found, Artifact):
            lines = differences(found.record["identity"], dict(stage.identity), usual)
            inputs = [{k: v for k, v in i.items() if k != "address"} for i in found.record["inputs"]]
            if inputs != plan.resolver.inputs(plan.document.stages[name]):
                lines.append("its inputs have other content, or are read with another `where`")
            if best is None or len(lines) < len(best[1]):
                best = (address, lines)
    return best or ("", [])
