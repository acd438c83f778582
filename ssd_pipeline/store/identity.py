"""Canonical bytes and the hashes of them: how anything here gets its name.

Canonical JSON has sorted keys, no white space, no NaN, text byte for byte, and refuses anything that is not plain data,
so that a hash never depends on a process, a locale or the order of a dict. This file does not know what is hashed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssd_pipeline.errors import StoreError

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def canonical(value: Any) -> bytes:
    """Canonical JSON of plain data. Raises TypeError for anything else, ValueError for NaN and infinities."""
    return _encode(_plain(value)).encode()


def canonical_row(values: Any) -> bytes:
    """The same for what came out of a table: its types are fixed by a schema, so that 1 and 1.0 cannot be confused."""
    return _encode(values).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)  # 1.0 and 1 are one number
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(f"not plain data: {type(value).__name__}")


def digest_of(value: Any) -> str:
    """sha256 of canonical JSON, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hex. Raises StoreError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as cause:
        raise StoreError(f"cannot read {path.name}: {cause.strerror or cause}") from cause


def tree_digest(path: Path) -> str:
    """The digest of a local file or folder by content: relative names and bytes; hidden files and .md left out."""
    if path.is_file():
        return file_digest(path)
    names = {p.relative_to(path): p for p in path.rglob("*") if p.is_file() and p.suffix != ".md"}
    shown = {n.as_posix(): p for n, p in names.items() if not any(part.startswith(".") for part in n.parts)}
    return digest_of({name: file_digest(p) for name, p in shown.items()})
