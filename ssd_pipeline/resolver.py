"""How a stage stands: hit, remote, miss, waits or effect, and why.

A stage's artifact key is its identity and the contents of its inputs, so every key is looked up in the store, and of a
stage whose inputs do not exist yet only that it waits is known. What is not here may be in the shared repo of
`runtime.hub`: its tags are listed once per plan, and a Hub that cannot be asked makes misses, which say so. Nothing
heavy is imported and nothing is written but the commits that revisions were resolved to, and what a run says it has
made. This file does not know which stages were asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ssd_pipeline.errors import HubError, UserErrors
from ssd_pipeline.graph import dependencies, recipe_id
from ssd_pipeline.identities import Identities, Waiting, artifact_key, defaults_of, differences
from ssd_pipeline.names import labels_of
from ssd_pipeline.recipe import Document, StageDef
from ssd_pipeline.revisions import RepoType, Revisions
from ssd_pipeline.stage import EffectStage, RowStage, WholeStage
from ssd_pipeline.store.identity import digest_of
from ssd_pipeline.store.local import PULLED, Artifact, Store
from ssd_pipeline.store.shared import Remote, Shared

Status = Literal["hit", "remote", "miss", "waits", "effect"]


@dataclass(frozen=True)
class Planned:
    """One stage as it stands now. `most_tokens`: an upper bound of teacher tokens, None where nothing is sampled.
    `known`: the content of a miss on which something that was pulled stands."""

    name: str
    kind: str
    status: Status
    address: str | None
    why: str
    key: str | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    take: int = 0
    found: Artifact | None = None
    remote: Remote | None = None
    rows: int | None = None
    most_tokens: int | None = None
    known: str | None = None


class Resolver:
    """Looks stages up. What was once found made stays so for this process; `resolve_all` looks for the rest."""

    def __init__(
        self, document: Document, store: Store, force: frozenset[str], *, refresh: bool, hub_cache: bool = True
    ) -> None:
        self.document, self.store = document, store
        said = document.runtime.hub if hub_cache else None
        self.shared = Shared(said.repo, said.private) if said else None
        self.recipe = recipe_id(document)
        self._force = force
        self._takes: dict[str, int] = {}
        self._planned: dict[str, Planned] = {}
        self._last = store.remembered(self.recipe, "stages")
        self.revisions = Revisions(document, store, self.recipe, refresh=refresh)
        self._contents = store.remembered(PULLED, "contents")
        self.identities = Identities(document, self._content, self.revisions.commit)

    def resolve_all(self, order: Iterable[str]) -> dict[str, Planned]:
        """Every stage as it stands now, in the given order (dependencies first)."""
        self._planned = {name: stage for name, stage in self._planned.items() if stage.status == "hit"}
        self._origins = self.store.remembered(PULLED, "origins")
        for name in order:
            if name not in self._planned:
                self._planned[name] = self._resolve(name)
        return dict(self._planned)

    def _content(self, name: str) -> str:
        planned = self._planned[name]
        found = planned.found or planned.remote
        if found is None and planned.known is None:
            raise Waiting(name)
        return str(found.record["content"] if found else planned.known)

    def inputs(self, definition: StageDef) -> list[dict[str, Any]]:
        """What of its inputs goes into a stage's key. Raises Waiting."""
        weights = definition.weights or (1.0,) * len(definition.inputs)
        inputs = []
        for place, (name, weight) in enumerate(zip(definition.inputs, weights, strict=True)):
            said: dict[str, Any] = {"content": self._content(name)}
            if definition.gathers and (labels := labels_of(name)):
                said["labels"] = labels
            if definition.made_from and definition.made_from[place]:
                said["made_from"] = list(definition.made_from[place])
            if definition.where:
                said["where"] = {k: sorted(v, key=repr) for k, v in definition.where.items()}
            if weight != 1:
                said["weight"] = weight
            inputs.append(said)
        return inputs

    def _resolve(self, name: str) -> Planned:
        definition = self.document.stages[name]
        try:
            inputs = self.inputs(definition)
            base = self.identities.stage(definition)
        except Waiting:
            return self._waits(name, definition)
        if isinstance(definition.kind, EffectStage):
            return self._effect(name, definition, base, inputs)
        take, found, remote = self._preferred(name, definition, base, inputs)
        identity = {**base, "take": take} if take else base
        key = artifact_key(identity, inputs)
        address = f"{definition.kind.kind}-{key[:16]}"
        if isinstance(found, Artifact):
            origin = self._origins.get(address) or ["", None]  # where it was fetched, unless it was made anew since
            why = "cached" + (f" (take {take})" if take else "")
            why += f", from {origin[0]}" if origin[1] == found.record["ended"] else ""
            kind, rows = definition.kind.kind, found.record.get("rows")
            return Planned(name, kind, "hit", address, why, key, identity, take, found, rows=rows)
        if isinstance(remote, Remote) and self.shared:
            why, rows = f"in {self.shared.repo}", remote.record["rows"]
            return Planned(name, definition.kind.kind, "remote", address, why, key, identity, take, None, remote, rows)
        why = f"damaged: {found}" if found else self._why(name, identity, inputs, forced=name in self._force)
        kept = self.store.journaled(digest_of(identity))
        left = f"interrupted, {kept} row{'s are' if kept > 1 else ' is'} kept" if kept else None
        problem = remote if isinstance(remote, str) else self.shared.problem if self.shared else None
        known = self._contents.get(key)
        if not known:
            self.revisions.check(definition)
        why = "known from what was pulled, made if its rows are needed" if known else why
        why = "; ".join(filter(None, (why, left, problem, *self.revisions.notes)))
        rows = self._expected_rows(definition)
        kind, most = definition.kind.kind, _most(definition, rows)
        return Planned(name, kind, "miss", address, why, key, identity, take, rows=rows, most_tokens=most, known=known)

    def _preferred(
        self, name: str, definition: StageDef, base: dict[str, Any], inputs: list[dict[str, Any]]
    ) -> tuple[int, Artifact | str | None, Remote | str | None]:
        """The newest take that is there, here or else in the shared repo; with `--force` the one after it, fixed for
        this process."""
        repo_type: RepoType = "model" if definition.kind.gives == "adapter" else "dataset"

        def named(take: int) -> tuple[str, str]:
            key = artifact_key({**base, "take": take} if take else base, inputs)
            return f"{definition.kind.kind}-{key[:16]}", key

        def look(take: int) -> Artifact | str | None:
            return self.store.find(*named(take))

        def looked(take: int) -> tuple[int, Artifact | str | None, Remote | str | None]:
            found = look(take)
            asked = self.shared is not None and not isinstance(found, Artifact)
            return take, found, self._asked(repo_type, *named(take)) if asked else None

        if name in self._takes:
            return looked(self._takes[name])
        take = 0
        while isinstance(look(take + 1), Artifact):
            take += 1
        there = isinstance(look(take), Artifact)
        while (not there or name in self._force) and self._shares(repo_type, named(take + 1)[0]):
            take, there = take + 1, isinstance(look(take + 1), Artifact)
        if name in self._force:
            owed = self.store.remembered(self.recipe, "forced").get(name)
            new = take + 1 if there or self._shares(repo_type, named(take)[0]) else take
            take = self._takes[name] = int(owed) if owed in (take, new) else new
        return looked(take)

    def _shares(self, repo_type: RepoType, address: str) -> bool:
        """Is an address in the shared repo? Raises UserErrors when that repo may not be read."""
        try:
            return self.shared is not None and self.shared.has(repo_type, address)
        except HubError as cause:
            advice = "give it access, or leave the shared repo out with --no-hub-cache"
            key = ("runtime", "hub", "repo")
            raise UserErrors([self.document.mistake(key, f"{cause}; {advice}")]) from cause

    def _asked(self, repo_type: RepoType, address: str, key: str) -> Remote | str | None:
        there = self.shared is not None and self._shares(repo_type, address)
        return self.shared.find(repo_type, address, key) if there and self.shared else None

    def owe(self) -> None:
        """Remember which takes were forced, until the run that wants them has ended: the same command goes on."""
        if self._takes:
            self.store.remember(self.recipe, "forced", {**self.store.remembered(self.recipe, "forced"), **self._takes})

    def settle(self) -> None:
        """The forced takes are made; forcing again takes the next."""
        if self._takes:
            owed = self.store.remembered(self.recipe, "forced")
            self.store.remember(self.recipe, "forced", {n: t for n, t in owed.items() if n not in self._takes})

    def _effect(
        self, name: str, definition: StageDef, identity: dict[str, Any], inputs: list[dict[str, Any]]
    ) -> Planned:
        key = artifact_key(identity, inputs)
        return Planned(name, definition.kind.kind, "effect", None, "changes the outside", key, identity)

    def _waits(self, name: str, definition: StageDef) -> Planned:
        above = {n: self._planned[n] for n in dependencies(self.document, name)}
        missing = [n for n, stage in above.items() if not (stage.found or stage.remote or stage.known)]
        rows = self._expected_rows(definition)
        why = f"waits for {', '.join(missing[:3])}" + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        return Planned(name, definition.kind.kind, "waits", None, why, rows=rows, most_tokens=_most(definition, rows))

    def _why(self, name: str, identity: dict[str, Any], inputs: list[dict[str, Any]], *, forced: bool) -> str:
        if forced:
            return f"forced: take {identity.get('take', 0)}, a new sample; the old one is kept"
        last = self._last.get(name)
        if not last:
            return "not made yet"
        changed = differences(last.get("identity"), identity, defaults_of(self.document.stages[name].kind))
        if last.get("inputs") != inputs:
            changed.append("input changed")
        return ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "") or "not here"

    def _expected_rows(self, definition: StageDef) -> int | None:
        if isinstance(definition.kind, WholeStage):
            return getattr(definition.params, "limit", None) if definition.kind.loads else None
        counts = [self._planned[n].rows for n in definition.inputs if n in self._planned]
        return sum(c for c in counts if c is not None) if counts and None not in counts else None

    def remember(self, name: str, planned: Planned) -> None:
        """The last artifact of a stage of this recipe, so that the next plan can say what changed, and gc keeps it."""
        inputs = self.inputs(self.document.stages[name])
        last = {"address": planned.address, "identity": dict(planned.identity), "inputs": inputs}
        if self._last.get(name) != last:
            self._last[name] = last
            self.store.remember(self.recipe, "stages", self._last)


def fingerprint(planned: Planned) -> str:
    """The hash of the stage identity alone: finished rows and checkpoints are kept under it."""
    return digest_of(planned.identity)


def _most(definition: StageDef, rows: int | None) -> int | None:
    kind = definition.kind
    if not isinstance(kind, RowStage) or kind.most_tokens is None or rows is None:
        return None
    return kind.most_tokens(definition.params) * rows
