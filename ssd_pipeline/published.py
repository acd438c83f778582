"""Reading what was published: a version becomes a commit once, and everything is read by that commit.

A version is a name that a person gave (`push_dataset`), or the address of a shared artifact. Every file is compared
with the sha256 in the output's manifest before a row of it is used, so that neither a moved tag, nor a cache that
lies, nor a changed byte can give other rows than those that were published. Which commit a version was is remembered,
so that what was pulled once can be had off-line. This file does not know recipes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd_pipeline import card
from ssd_pipeline.errors import HubError, StoreError, boundary, user_error
from ssd_pipeline.store import bundle, hub
from ssd_pipeline.store.local import PULLED, Artifact, Store
from ssd_pipeline.store.manifest import ADDRESS, misfit, read_manifest
from ssd_pipeline.store.shared import Remote, Shared

REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Pulled:
    """One table of one version, verified on this machine. `files`: parquet, in the order of the rows; of an adapter,
    whose `rows` are None, all of it."""

    repo: str
    version: str
    commit: str
    output: str
    rows: int | None
    files: tuple[Path, ...]
    manifest: Mapping[str, Any]
    repo_type: hub.RepoType


def pull(repo: str, output: str | None = None, version: str | None = None) -> Pulled:
    """Fetch and verify one output of a published data set; `output` may be left out where there is one.

    `version` is a tag or a commit. Raises UserErrors naming what there is when version or output is missing, HubError
    when the Hub cannot be asked or a file is not what its manifest says.
    """
    from huggingface_hub.errors import RevisionNotFoundError

    repo_type, commit = _commit(repo, version)
    pattern = f"*.{version}.json" if ADDRESS.fullmatch(str(version)) else "*.json"
    try:
        folder = hub.snapshot(repo, repo_type, commit, [f"manifests/{pattern}"])
    except HubError as cause:
        if isinstance(cause.__cause__, RevisionNotFoundError):  # a rewritten history loses commits
            known = ", ".join(sorted(hub.versions(repo, repo_type))) or "none"
            raise user_error(f"there is no commit {commit}; versions of {repo}: {known}", key="VERSION") from cause
        raise
    found = [read_manifest(path) for path in sorted((folder / "manifests").glob(pattern))]
    tables = {config: said for said in found for config in said["tables"] or [said["output"]]}
    if not tables:
        raise HubError(f"{repo}@{version} was not published by ssd_pipeline: use datasets.load_dataset")
    if output is None:
        outputs = [said["output"] for said in found]
        if len(outputs) != 1:
            raise user_error(f"which output? There are {', '.join(sorted(tables))}", key="OUTPUT")
        output = outputs[0]
    if output not in tables:
        names = ", ".join(sorted(tables))
        raise user_error(f"{repo}@{version} has no output {output}; there are {names}", key="OUTPUT")
    said = tables[output]
    table = said["tables"].get(output) or {"rows": None, "files": said["beside"]}
    folder = hub.snapshot(repo, repo_type, commit, hub.exactly(list(table["files"])))
    bundle.unaltered(folder, table["files"], f"{repo}@{version}")
    files = tuple(folder / name for name in table["files"])
    return Pulled(repo, str(version), commit, output, table["rows"], files, said, repo_type)


def _commit(repo: str, version: str | None) -> tuple[hub.RepoType, str]:
    """The commit of a version, in the data set repo of that name or else in the model repo."""
    if not REPO.fullmatch(repo):
        raise user_error(f"{repo} is not the name of a repo: owner/name, and @VERSION behind it", key="OWNER/REPO")
    if Path(repo).is_file():
        raise user_error(f"{repo} is a file here; a repo is owner/name, and `ssd-run` takes recipes", key="OWNER/REPO")
    if version is not None and hub.COMMIT.fullmatch(version):
        return "dataset", version
    store, name = Store.default(), f"{repo}@{version}"
    remembered = store.remembered(PULLED, "versions")
    there: list[str] = []
    types: tuple[hub.RepoType, ...] = ("dataset", "model")
    try:
        for repo_type in types:
            known = hub.versions(repo, repo_type)
            if version in known:
                commit = known[str(version)]
                if remembered.get(name) != [repo_type, commit]:
                    with suppress(StoreError):  # a store that cannot be written holds up nothing
                        store.remember(PULLED, "versions", {**remembered, name: [repo_type, commit]})
                return repo_type, commit
            there += known
    except HubError as cause:
        if not (cause.unreachable and name in remembered):
            raise
        repo_type, commit = remembered[name]
        return repo_type, commit
    what = "which version?" if version is None else f"there is no version {version};"
    told = f"{what} Versions of {repo}: {', '.join(sorted(there)) or 'none'}"
    raise user_error(told.replace("; V", "; v"), key="VERSION")


def keep(pulled: Pulled, store: Store) -> list[Artifact]:
    """Put a pulled artifact into the store, with those it was made from as far as the repo has them: a run finds them
    as if they had been made here. Of the others the content is remembered, by which a plan knows what stands on them.
    [] for a part of an artifact, which no run would make. Raises HubError, StoreError."""
    if not pulled.manifest["whole"]:
        return []
    if problem := misfit(pulled.manifest, pulled.manifest["record"]["address"]):
        raise HubError(f"{pulled.repo}@{pulled.version}: {problem}; it is not used")
    shared, kept, contents = Shared(pulled.repo), [], dict(store.remembered(PULLED, "contents"))
    remote: Remote | str | None = Remote(pulled.repo_type, pulled.commit, pulled.manifest)
    for record in [pulled.manifest["record"], *pulled.manifest["above"]]:
        here = store.find(record["address"])
        if record is not pulled.manifest["record"]:
            remote = shared.find("model" if record["rows"] is None else "dataset", record["address"], record["key"])
        if not isinstance(here, Artifact) and isinstance(remote, Remote):
            here = shared.fetch(remote, store)
        kept += [here] if isinstance(here, Artifact) else []
        contents[record["key"]] = record["content"]
    store.remember(PULLED, "contents", contents)
    return kept


def load(repo: str, output: str | None = None, *, version: str | None = None) -> Any:
    """A published output as a `datasets.Dataset`, every byte verified. Raises as `pull`."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    pulled = pull(repo, output, version)
    if pulled.rows is None:
        raise user_error(f"{pulled.output} is an adapter: name it in `models:`, or load it with peft", key="OUTPUT")
    with boundary(HubError, f"{repo}@{version}: {pulled.output}"):
        # Not load_dataset: from a warm cache it may give another revision's rows.
        return Dataset(pa.concat_tables([pq.read_table(path) for path in pulled.files]))


def listing(repo: str) -> Iterator[tuple[str, ...]]:
    """(version, output, rows, student, teacher, date) of every output of every version of a repo, newest first."""
    lines = []
    for repo_type in ("dataset", "model"):
        for version, commit in hub.versions(repo, repo_type).items():
            pattern = f"*.{version}.json" if ADDRESS.fullmatch(version) else "*.json"
            folder = hub.snapshot(repo, repo_type, commit, [f"manifests/{pattern}"]) / "manifests"
            for path in sorted(folder.glob(pattern)):
                try:
                    said = read_manifest(path)
                except HubError as cause:  # the others can be had
                    lines.append(("", version, str(cause), "", "", ""))
                    continue
                records = [said["record"], *said["above"]]
                rows = {name: table["rows"] for name, table in said["tables"].items()} or {said["output"]: None}
                made = said["record"]["ended"]
                for name, count in rows.items():
                    shown = "" if count is None else f"{count:,}"
                    models = (card.model_of(records, role) or "" for role in ("student", "teacher"))
                    lines.append((made, version, name, shown, *models))
    yield from (line[1:] + line[:1] for line in sorted(lines, key=lambda line: line[0], reverse=True))
