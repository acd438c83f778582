"""The only functions that change the disk, and what each of them promises.

Every write of the project passes through here, so that a kill, a full disk or a power cut can be played at each single
operation by wrapping these few functions, without a hook in production code. A file is created under a name that
nobody reads yet, made durable with `sync`, and becomes visible by one `rename`, made durable by `sync_dir` of its
directory. Any refusal of the system becomes a StoreError that says what was being written and why it failed.
This file does not know what is stored.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache, wraps
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar, cast

from ssd_pipeline.errors import StoreError

P = ParamSpec("P")
R = TypeVar("R")
ELSEWHERE_SECONDS = 7 * 86400  # a draft of another machine is given up after so long without a change
NO_DIRECTORY_SYNC = (errno.EINVAL, errno.ENOTSUP)  # some network file systems: their names are durable at once

ADVICE = {
    errno.ENOSPC: "the disk is full: free some space (`ssd gc`), then run the same command to go on",
    errno.EDQUOT: "the disk quota is used up: free some space (`ssd gc`), then run the same command to go on",
    errno.EFBIG: "the file size limit of this process is too small (ulimit -f)",
    errno.EMFILE: "too many open files (ulimit -n)",
    errno.EACCES: "permission denied: set SSD_HOME to a directory you may write",
    errno.EPERM: "not permitted: set SSD_HOME to a directory you may write",
    errno.EROFS: "the file system is read-only: set SSD_HOME to a directory you may write",
    errno.ENOENT: "there is no such place: set SSD_HOME to a directory you may write",
    errno.EEXIST: "something else stands in its place: set SSD_HOME to another directory",
    errno.ENOTDIR: "a file stands where a directory is wanted: set SSD_HOME to another directory",
}


def store_error(cause: OSError, what: str) -> StoreError:
    """The StoreError for a refusal of the system, with advice where there is any."""
    reason = ADVICE.get(cause.errno or 0, f"{cause.strerror or cause}: the same command goes on where it stopped")
    return StoreError(f"cannot {what}: {reason}")


@contextmanager
def _refusals(what: str):  # type: ignore[no-untyped-def]
    try:
        yield
    except OSError as cause:
        raise store_error(cause, what) from cause


def refusals(what: str) -> AbstractContextManager[None]:
    """OSErrors inside become StoreErrors that say what could not be done."""
    return cast(AbstractContextManager[None], _refusals(what))


def _guarded(verb: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            first = args[0]
            name = Path(getattr(first, "name", None) or str(first)).name
            with refusals(f"{verb} {name}"):
                return function(*args, **kwargs)

        return guarded

    return decorate


@_guarded("create")
def create(path: Path) -> BinaryIO:
    """A new file, open for writing and reading back; one that exists is a refusal. Nothing is durable before `sync`."""
    return open(path, "x+b", buffering=0)


@_guarded("write")
def append(file: BinaryIO, data: bytes) -> None:
    """Write all of `data` at the end of an open file."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) or 0 :]


@_guarded("sync")
def sync(file: BinaryIO) -> None:
    """The file's content survives a power cut from here on."""
    file.flush()
    os.fsync(file.fileno())


@_guarded("sync")
def sync_dir(path: Path) -> None:
    """The names in a directory survive a power cut from here on."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as cause:
        if cause.errno not in NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(fd)


@_guarded("rename")
def rename(source: Path, target: Path) -> None:
    """One atomic rename; a directory is never replaced (OSError becomes StoreError)."""
    os.rename(source, target)


@_guarded("replace")
def replace(source: Path, target: Path) -> None:
    """One atomic replacement of a file."""
    os.replace(source, target)


@_guarded("make")
def make_dir(path: Path) -> None:
    """A directory and its parents, each durable under its name; one that exists is fine."""
    if not path.is_dir():
        make_dir(path.parent)
        new_dir(path)
        sync_dir(path.parent)


@_guarded("make")
def new_dir(path: Path) -> None:
    """One directory, not durable yet (see `make_dir`); one that exists is fine."""
    path.mkdir(exist_ok=True)


@_guarded("remove")
def remove(path: Path) -> None:
    """A file or link is unlinked, a directory tree removed without following links; what is absent is fine."""
    while True:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue  # another process removes the same tree
        return


@_guarded("remove")
def remove_empty(path: Path) -> None:
    """Remove a directory if nothing is in it; what is absent is fine."""
    try:
        path.rmdir()
    except OSError as cause:
        if cause.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise


def write_file(path: Path, data: bytes) -> None:
    """A whole new small file, durable but for its name (see `sync_dir`)."""
    with create(path) as file:
        append(file, data)
        sync(file)


def swap_file(path: Path, data: bytes) -> None:
    """Replace a small file as a whole: readers see the old content or the new one."""
    draft = path.with_name(private(f".{path.name}"))
    try:
        write_file(draft, data)
        replace(draft, path)
    except StoreError:
        with suppress(StoreError):
            remove(draft)
        raise
    sync_dir(path.parent)


# ------------------------------------------------------------------------- drafts, and whose they are


def private(name: str) -> str:
    """A name for a draft that no other process uses, and that tells whose it is."""
    pid = os.getpid()
    return f"{name}.{_machine()}.{pid}-{_born(pid) or 0}.{os.urandom(4).hex()}"


def abandoned(path: Path) -> bool:
    """Is the owner of a draft gone? A process number says nothing on another machine or in another container: a draft
    of one of those is only given up after a week without a change."""
    machine, owner = path.name.split(".")[-3:-1] if path.name.count(".") >= 3 else ("", "")
    pid, _, born = owner.partition("-")
    if not (pid.isdigit() and born.isdigit()):
        return True  # no draft, but something on its way out
    if machine == _machine():
        return not _alive(int(pid), int(born))
    try:
        changed = max(p.lstat().st_mtime for p in (path, *path.glob("*")))
    except OSError:
        return False  # it is being renamed or removed just now
    return time.time() - changed > ELSEWHERE_SECONDS


@cache
def _machine() -> str:
    """Tells apart places whose process numbers have nothing to do with each other."""
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        space = 0  # not Linux
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]


def _alive(pid: int, born: int) -> bool:
    """Is it the same process, and does it run? A killed one that nobody has waited for (in a container without an init,
    for ever) answers signals, and another one may have its number by now."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's: alive
    now = _born(pid)
    return now is None or (now > 0 and born in (0, now))


def _born(pid: int) -> int | None:
    """When a process began, in clock ticks since the machine did; 0 for one that is dead but not waited for; None where
    the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
