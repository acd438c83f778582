"""The Hub as this project uses it: commits in, files out, and one commit with a tag back.

Only a 40-hex commit names something for good, so a revision is resolved once and everything after that is asked for by
commit: the fallbacks of the client's caches cannot give other rows then. A publication is ONE commit on `main` that
knows its parent, made anew from the present head after every conflict, read back, and then tagged; a version that
exists is never moved. Every call has an end (pace.py) and is repeated where that can help; the client itself does
neither for most of them. Tokens come from huggingface_hub's own lookup and are never seen here. Every failure is a
HubError that says which permission is needed. huggingface_hub is imported inside functions, for the sake of start-up.
This file does not know stages, artifacts or what is in the files.
"""

from __future__ import annotations

import errno
import fnmatch
import functools
import glob
import hashlib
import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ssd_pipeline.errors import HubError
from ssd_pipeline.store.refusals import TRANSIENT, asking

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Answer = TypeVar("Answer")
RepoType = Literal["dataset", "model"]
Content = bytes | Path | Callable[[bytes | None], bytes]  # a function is given the file's present bytes

CONFLICTS = 10  # how often somebody else may be faster
FAILURES = 4  # how often a call may end in a server error or a dropped connection
CONFLICT = (409, 412)
COMMIT = re.compile(r"[0-9a-f]{40}")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def api() -> HfApi:
    """The client, with time-outs."""
    from huggingface_hub import HfApi

    from ssd_pipeline.store.pace import patient_clients

    patient_clients()
    return HfApi(library_name="ssd_pipeline")


def _patiently(call: Callable[[], Answer], conflicts: int = 1) -> Answer:
    """The answer to a call, which is made again after a failure that may pass and, `conflicts` times, after a conflict.

    The client itself repeats only some of its calls, and none that writes. What the Hub says of the wait is kept, a
    minute at most. A call must be such that nothing is done twice when its answer was lost.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    from ssd_pipeline.store.pace import LONGEST_WAIT_S, TooSlow, told_wait

    lost = failures = 0
    while True:
        try:
            return call()
        except HfHubHTTPError as cause:
            status = cause.response.status_code
            lost += status in CONFLICT
            failures += status in TRANSIENT
            if status not in CONFLICT + TRANSIENT or lost >= conflicts or failures >= FAILURES:
                raise
            wait = told_wait(cause.response.headers)
        except (httpx2.TransportError, json.JSONDecodeError) as cause:  # or a proxy's page in the place of an answer
            slow = isinstance(cause, (httpx2.TimeoutException, TooSlow))
            failures, wait = failures + (2 if slow else 1), 0.0
            if failures >= FAILURES:
                raise
        backoff = 0.5 * 2 ** min(lost + failures, 5) * random.uniform(0.5, 1.0)
        time.sleep(min(max(wait, backoff), LONGEST_WAIT_S))


# -------------------------------------------------------------------------------------------------- reading


def _info(repo: str, repo_type: RepoType, revision: str) -> Any:
    from ssd_pipeline.store.pace import ANSWER_S

    return api().repo_info(repo, repo_type=repo_type, revision=revision, timeout=ANSWER_S)


def resolve_revision(repo: str, repo_type: RepoType, revision: str) -> str:
    """The commit (40 hex) that a revision names now, by one request. A full commit is given back unasked.

    Raises HubError: no such repo or revision, gated, no permission, not reachable.
    """
    if COMMIT.fullmatch(revision):
        return revision
    with asking(f"look up {repo}@{revision}", repo):
        found = _patiently(lambda: _info(repo, repo_type, revision)).sha
    if not found or not COMMIT.fullmatch(found):
        raise HubError(f"cannot look up {repo}@{revision}: the Hub names no commit")
    return found


def holds(repo: str, repo_type: RepoType, commit: str) -> bool:
    """Whether a repo has a commit (still). Raises HubError: no such repo, gated, no permission, not reachable."""
    from huggingface_hub.errors import RevisionNotFoundError

    with asking(f"look up {repo}@{commit[:8]}", repo):
        try:
            _patiently(lambda: _info(repo, repo_type, commit))
        except RevisionNotFoundError:
            return False
    return True


def snapshot(repo: str, repo_type: RepoType, commit: str, patterns: Sequence[str]) -> Path:
    """The folder that holds the files of a commit that match (fnmatch); from the local cache where they are there.

    What is read is compared with the hash under which the cache keeps it. Raises HubError.
    """
    from huggingface_hub import snapshot_download

    from ssd_pipeline.store.pace import patient_clients

    if not COMMIT.fullmatch(commit):
        raise HubError(f"{repo}@{commit}: not a commit, and anything else may change")
    patient_clients()
    download = functools.partial(
        snapshot_download, repo, repo_type=repo_type, revision=commit, allow_patterns=list(patterns)
    )
    with asking(f"download {repo}@{commit[:8]}", repo):
        try:
            folder = Path(_patiently(download))
        except OSError as cause:
            if cause.errno not in NO_ROOM:
                raise
            raise HubError(f"cannot download {repo}@{commit[:8]}: {_no_room(download(dry_run=True))}") from cause
    exact = {re.sub(r"\[([*?[])\]", r"\1", pattern) for pattern in patterns}  # ten thousand paths are no square then
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and (name in exact or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)):
            _unaltered(path, f"{repo}@{commit[:8]}: {name}")
    return folder


def _no_room(files: Sequence[Any]) -> str:
    """How much is missing and what to do, of files that tell their size and whether they are still to come."""
    from huggingface_hub import constants

    needed = sum(file.file_size for file in files if file.will_download)
    cache = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(place for place in (cache, *cache.parents) if place.exists())).free
    room = f"{needed:,} bytes are still needed in the download cache (HF_HOME) and {free:,} are free"
    return f"{room}: make room and run the same command again, what has come is kept"


def _unaltered(path: Path, what: str) -> None:
    """The cache names its blobs by git sha1 or sha256; the library compares lengths alone. (Behind the blob there may
    be another link, to a file that clients with Xet share and name in their own way.)"""
    kept = Path(os.readlink(path)).name if path.is_symlink() else ""
    if re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", kept) and kept not in _described(path).values():
        raise HubError(f"{what} was altered in the download cache: remove {kept} there and run again")


def _described(content: Path | bytes) -> dict[str, Any]:
    """The size of a content and its two names on the Hub: sha256 (LFS), sha1 of the git blob (regular)."""
    sha256 = hashlib.sha256()
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    sha1 = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    for piece in [content] if isinstance(content, bytes) else _pieces(content):
        sha256.update(piece)
        sha1.update(piece)
    return {"size": size, "sha256": sha256.hexdigest(), "sha1": sha1.hexdigest()}


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece


def versions(repo: str, repo_type: RepoType) -> dict[str, str]:
    """Every version (tag) of a repo and its commit; {} when the repo does not exist or cannot be seen."""
    from huggingface_hub.errors import RepositoryNotFoundError

    with asking(f"list the versions of {repo}", repo):
        try:
            refs = _patiently(lambda: api().list_repo_refs(repo, repo_type=repo_type))
        except RepositoryNotFoundError:
            return {}
    return {tag.name: tag.target_commit for tag in refs.tags}


def version_commit(repo: str, repo_type: RepoType, version: str) -> str | None:
    """The commit of a version; None when there is none."""
    return versions(repo, repo_type).get(version)


def differing(repo: str, repo_type: RepoType, commit: str, said: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The first file that a commit does not hold as it is said to be (`size`, `sha256`), by one request; None if none.

    The Hub knows a regular file by its git `sha1`; where that is not said, only its size is compared.
    """
    with asking(f"look at {repo}@{commit[:8]}", repo):
        infos = _patiently(lambda: api().get_paths_info(repo, list(said), repo_type=repo_type, revision=commit))
    found = {info.path: info for info in infos}
    for path, wanted in said.items():
        info: Any = found.get(path)
        lfs, own = getattr(info, "lfs", None), getattr(info, "blob_id", None)
        same = lfs.sha256 == wanted["sha256"] if lfs else own == wanted.get("sha1", own)
        if getattr(info, "size", None) != wanted["size"] or not same:
            return path
    return None


def exactly(paths: Sequence[str]) -> list[str]:
    """Patterns that match these paths and no others."""
    return [glob.escape(path) for path in paths]


# ----------------------------------------------------------------------------------------------- publishing


def publish(
    repo: str,
    repo_type: RepoType,
    files: Mapping[str, Content],
    *,
    delete: Sequence[str] = (),
    message: str,
    private: bool,
    version: str,
    same: Callable[[str], bool] | None = None,
) -> str:
    """Put files (path in the repo -> content) on `main` by one commit, tag it with the version, and return the commit.

    Files that match `delete` (fnmatch) and are not among `files` go in the same commit. A missing repo is created. A
    version that holds the same already is left alone (`same` is given its commit and says so; else every file is
    compared); with others, or when the repo's visibility is not what `private` says, HubError is raised before anything
    is uploaded. A death between commit and tag is mended by the same call: what it finds unchanged it only tags.
    """
    with asking(f"publish {version} to {repo}", repo):
        said = {path: _described(content) for path, content in files.items() if not callable(content)}
        standing = version_commit(repo, repo_type, version)
        if standing is not None:
            if not (same(standing) if same else differing(repo, repo_type, standing, said) is None):
                raise HubError(
                    f"{repo} has a version {version} with other content (commit {standing[:8]}), and a version is "
                    "never moved: choose another name"
                )
            return standing
        _patiently(lambda: api().create_repo(repo, repo_type=repo_type, private=private, exist_ok=True), CONFLICTS)
        commit = _patiently(lambda: _commit_once(repo, repo_type, files, delete, message, private), CONFLICTS)
        if differing(repo, repo_type, commit, said):
            raise HubError(f"{repo}: commit {commit[:8]} does not hold what was sent; no version was made of it")
        # Named, and the name read back: somebody may have given it away meanwhile.
        _patiently(lambda: api().create_tag(repo, tag=version, revision=commit, repo_type=repo_type, exist_ok=True))
        found = version_commit(repo, repo_type, version)
        if found != commit and not (found and same and same(found)):
            raise HubError(
                f"version {version} of {repo} was given to commit {str(found)[:8]} meanwhile; ours is {commit[:8]}: "
                "choose another name"
            )
    return found


def _commit_once(
    repo: str, repo_type: RepoType, files: Mapping[str, Content], delete: Sequence[str], message: str, private: bool
) -> str:
    """One commit upon the present head, by fresh operations; one that has landed is found unchanged, not made again."""
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

    client = api()
    head = _info(repo, repo_type, "main")
    if bool(head.private) != private:
        raise HubError(
            f"{repo} is {'private' if head.private else 'public'}, the recipe says private: {str(private).lower()}; "
            "nothing was uploaded"
        )
    here = client.list_repo_files(repo, repo_type=repo_type, revision=head.sha)
    operations: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
        CommitOperationAdd(path, _made(repo, repo_type, str(head.sha), path, content, path in here))
        for path, content in files.items()
    ]
    gone = [path for path in here if path not in files and any(fnmatch.fnmatch(path, p) for p in delete)]
    operations += [CommitOperationDelete(path) for path in gone]
    return client.create_commit(
        repo, operations, commit_message=message, repo_type=repo_type, parent_commit=head.sha
    ).oid


def _made(repo: str, repo_type: RepoType, head: str, path: str, content: Content, there: bool) -> bytes | str:
    if isinstance(content, Path):
        return str(content)
    if isinstance(content, bytes):
        return content
    present = snapshot(repo, repo_type, head, exactly([path])) / path if there else None
    return content(present.read_bytes() if present else None)
