"""What the fake Hub keeps: repos with commits, branches and tags, and files as git or LFS objects."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

LFS = ("*.parquet", "*.safetensors", "*.bin", "*.arrow")  # as the Hub's .gitattributes has it, at any size
LFS_BYTES = 10 << 20


@dataclass(frozen=True)
class Blob:
    data: bytes
    lfs: bool

    @property
    def sha1(self) -> str:
        text = self.data if not self.lfs else f"pointer {self.sha256}".encode()
        return hashlib.sha1(b"blob %d\0" % len(text) + text, usedforsecurity=False).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        return self.sha256 if self.lfs else self.sha1


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: Mapping[str, Blob]
    parent: str | None


@dataclass
class Repo:
    private: bool
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, Blob], title: str, branch: str = "main") -> str:
        parent = self.branches.get(branch)
        oid = hashlib.sha1(
            f"{parent} {title} {len(self.commits)} {time.time_ns()}".encode(), usedforsecurity=False
        ).hexdigest()
        self.commits[oid] = Commit(oid, title, dict(files), parent)
        self.branches[branch] = oid
        return oid

    def find(self, revision: str) -> Commit:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return self.commits[oid]


class Refusal(Exception):
    """An answer with an error status, as the Hub words it."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def is_lfs(path: str, size: int) -> bool:
    return size > 0 and (size > LFS_BYTES or any(fnmatch(path, p) for p in LFS))


def entry(path: str, blob: Blob) -> dict[str, Any]:
    told: dict[str, Any] = {"type": "file", "path": path, "oid": blob.sha1, "size": len(blob.data)}
    return {**told, "lfs": {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 130}} if blob.lfs else told
