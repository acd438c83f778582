"""Finished artifacts in a Hub repo that several people share: found, fetched and published under their addresses.

One data set repo for rows and, under the same name, one model repo for adapters, made when they are first needed. An
artifact is one commit, and a tag with its address names that commit for good; `main` holds the newest of each output.
The tags are listed once per plan, and only when something is missing here. Journals and replies never travel. An
address that holds other content (somebody else's sampling) is never overwritten. This file does not know recipes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ssd_pipeline import card
from ssd_pipeline.errors import HubError
from ssd_pipeline.store import bundle, hub
from ssd_pipeline.store.local import PULLED, Artifact, Store
from ssd_pipeline.store.manifest import listed, misfit, read_manifest


@dataclass(frozen=True)
class Remote:
    """An artifact in a repo, known by its manifest."""

    repo_type: hub.RepoType
    commit: str
    manifest: Mapping[str, Any]

    @property
    def record(self) -> Mapping[str, Any]:
        record: Mapping[str, Any] = self.manifest["record"]
        return record


@dataclass
class Shared:
    """The repos of one `runtime.hub`. `problem`: why the Hub could not be asked, once it could not."""

    repo: str
    private: bool = True
    problem: str | None = None
    _tags: dict[hub.RepoType, dict[str, str]] = field(default_factory=dict)
    _found: dict[str, Remote | str | None] = field(default_factory=dict)

    def has(self, repo_type: hub.RepoType, address: str) -> bool:
        """Is there anything under an address? Raises HubError when the Hub refuses; false when it cannot be asked."""
        if repo_type not in self._tags and self.problem is None:
            try:
                self._tags[repo_type] = hub.versions(self.repo, repo_type)
            except HubError as cause:
                if not cause.unreachable:
                    raise
                self.problem = str(cause)
        return address in self._tags.get(repo_type, {})

    def find(self, repo_type: hub.RepoType, address: str, key: str | None = None) -> Remote | str | None:
        """The artifact of an address, looked up once; the reason (text) why what is there cannot be used; None when
        nothing is. Whether its files are there with the right hashes is asked too, so that a plan can count on it."""
        if not self.has(repo_type, address):
            return None
        if address not in self._found:
            try:
                self._found[address] = self._looked_up(repo_type, address, key)
            except HubError as cause:
                if cause.unreachable:
                    self.problem = str(cause)
                self._found[address] = str(cause)
        return self._found[address]

    def _looked_up(self, repo_type: hub.RepoType, address: str, key: str | None) -> Remote | str:
        commit = self._tags[repo_type][address]
        said = _manifest(self.repo, repo_type, commit, address)
        if problem := misfit(said, address, key):
            return problem
        if other := hub.differing(self.repo, repo_type, commit, listed(said)):
            return f"{other} is missing in {self.repo} or is not what its manifest says"
        return Remote(repo_type, commit, said)

    def fetch(self, remote: Remote, store: Store) -> Artifact:
        """Download an artifact, verify it and put it into the store. Raises HubError, StoreError."""
        where, said = f"{self.repo}@{remote.commit[:8]}", remote.manifest
        bundle.room(store, said, where)
        files = hub.exactly(list(listed(said)))
        kept = bundle.restore(store, hub.snapshot(self.repo, remote.repo_type, remote.commit, files), said, where)
        origins = store.remembered(PULLED, "origins")
        store.remember(PULLED, "origins", {**origins, kept.address: [where, kept.record["ended"]]})
        return kept

    def push(self, store: Store, found: Artifact, output: str) -> str:
        """Publish an artifact under its address, or find it there; the commit. Raises HubError."""
        record, address, output = store.verified(found).record, found.address, bundle.plain_name(output)
        repo_type: hub.RepoType = "model" if record["rows"] is None else "dataset"
        above = bundle.lineage(store, record)
        place = f"manifests/{output}.{address}.json"
        if repo_type == "model":
            made: list[card.Config] = []
            beside = {f["name"]: found.data / f["name"] for f in record["files"]}
            delete = ["adapter_*", "rows-*.parquet", "manifests/*.json"]
        else:
            names = {"rows": output, **{n: f"{output}.{n}" for n in bundle.side_tables(record)}}
            made, beside = bundle.leaving(output, record, found.data, names)
            delete = [f"data/{output}/*", f"data/{output}.*", f"manifests/{output}.*json"]
        files: dict[str, hub.Content] = {path: file for t in made for path, file in t.files.items()} | beside
        files[place] = bundle.manifest(output, record["digest"], record, above, made, beside, whole=True)
        shown = [bundle.shareable(one) for one in (record, *above)]
        out = card.Output(output, record["digest"], made, shown[0], shown[1:], place)
        files["README.md"] = lambda present: card.rendered(card.Release(self.repo, address, [out]), present)

        def same(commit: str) -> bool:
            theirs = _manifest(self.repo, repo_type, commit, address)["record"]
            if theirs["content"] == record["content"]:
                return True
            raise HubError(
                f"{self.repo} has {address} with other rows (digest {theirs['digest'][:16]}, here "
                f"{record['digest'][:16]}): it is not overwritten. `ssd rm` yours to take theirs, or take a new "
                "sample, which has another address, with --force"
            )

        return hub.publish(
            self.repo,
            repo_type,
            files,
            delete=delete,
            message=f"{output}: {address}",
            private=self.private,
            version=address,
            same=same,
        )


def _manifest(repo: str, repo_type: hub.RepoType, commit: str, address: str) -> dict[str, Any]:
    """The manifest of an address at the commit that its tag names. Raises HubError."""
    folder = hub.snapshot(repo, repo_type, commit, [f"manifests/*.{address}.json"]) / "manifests"
    found = list(folder.glob(f"*.{address}.json"))
    if len(found) != 1:
        raise HubError(f"{repo}@{commit[:8]} holds no manifest of {address}: somebody else made this tag")
    return read_manifest(found[0])
