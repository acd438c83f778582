"""A manifest as it comes from a repo: of our form from top to bottom, or refused before anybody acts on it.

Whoever may write to a repo may write anything, and a record goes on to the plan, the closing tables, cards and the
next artifact, each of which takes its fields as they were made here. So every field has its type and its bounds, texts
that are printed their pattern, and names are plain; then the key of each record must follow from what it says was
asked. What a stage says of itself (`summary`) is free but for what other stages read. That the numbers are true nobody
can check. This file does not know how manifests are made or what is done with the files.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # below Python 3.12 pydantic takes no other

from ssd_pipeline.errors import HubError
from ssd_pipeline.store import artifact
from ssd_pipeline.store.identity import digest_of

FORMAT = 1
LARGEST = 1 << 63
ADDRESS = re.compile(r"[a-z_]+-[0-9a-f]{16}")
_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
_ADAPTER = (".safetensors", ".json", ".parquet")  # a pickle runs code when it is loaded

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
Count = Annotated[int, Field(ge=0)]
Some = Annotated[int, Field(ge=1)]


class Question(TypedDict):
    kind: str
    version: int
    params: dict[str, Any]


class Source(TypedDict):
    address: Annotated[str, Field(pattern=f"^{ADDRESS.pattern}$")]
    content: Hash


class File(TypedDict):
    name: str
    size: Count
    sha256: Hash


class Rows(TypedDict):
    rows: Count


class Recipe(TypedDict):
    name: str
    stage: str
    texts: dict[str, str]


class Tokens(TypedDict):
    bought: Count
    kept: Count
    pruned: Count
    scored: Count


class Paid(TypedDict):
    bought: Count
    scored: Count
    prompt: Count
    cost: float | None


class Served(TypedDict):
    model: str
    revision: str | None
    check: Literal["verified", "unverifiable"]
    joins: Count
    changed_joins: Count


class Summary(TypedDict):
    mean_tokens: NotRequired[float | None]
    mean_perplexity: NotRequired[float | None]
    share_correct: NotRequired[float | None]
    warnings: NotRequired[list[str]]


class Record(TypedDict):
    """As building.py makes it; what only row stages say may be missing, but not be null."""

    format: Some
    kind: str
    address: str
    key: Hash
    fingerprint: Hash
    identity: Question
    inputs: list[Source]
    uses: list[Source]
    content: Hash
    digest: Hash
    rows: Count | None
    tables: dict[Name, Rows]
    measured: list[str]
    files: list[File]
    recipe: Recipe
    tools: dict[str, str]
    started: Time
    ended: Time
    seconds: float
    summary: Summary
    fates: NotRequired[dict[str, Some]]
    errors: NotRequired[dict[str, Some]]
    spend: NotRequired[Tokens]
    paid: NotRequired[Paid]
    cost: NotRequired[dict[str, float] | None]
    computed: NotRequired[Count]
    served: NotRequired[dict[str, Served] | None]


class Placed(TypedDict):
    sha256: Hash
    size: Count
    name: NotRequired[str]


class Listed(TypedDict):
    rows: Count
    columns: list[str]
    files: dict[str, Placed]


class Manifest(TypedDict):
    format: Some
    output: str
    digest: Hash
    whole: bool
    tables: dict[str, Listed]
    beside: dict[str, Placed]
    record: Record
    above: list[Record]


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest. Raises HubError for anything else, and for one of a newer ssd_pipeline."""
    try:
        if path.stat().st_size > artifact.RECORD_BYTES:
            raise ValueError("larger than any manifest")
        text = path.read_bytes()
        said: dict[str, Any] = json.loads(text, parse_int=_bounded, parse_constant=_bounded)
        if said["format"] > FORMAT or said["record"].get("format", 0) > artifact.FORMAT:
            raise HubError(f"{path.name} was written by a newer ssd_pipeline: upgrade to use it")
        _form().validate_json(text, strict=True)
        digest_of(said)  # no infinity, no half of a character anywhere
        for name, one in listed(said).items():
            if not _plain(name) or (said["whole"] and not _NAME.fullmatch(one["name"])):
                raise HubError(f"{path.name} names a file {name!r}, which no manifest of ours does")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        advice = "it is not used: ask whoever published it to do so again"
        raise HubError(f"{path.name} is not a manifest of ours ({_first(cause)}); {advice}") from cause
    return said


@functools.cache
def _form() -> TypeAdapter[Manifest]:
    """Built when it is first needed: most runs fetch nothing."""
    return TypeAdapter(Manifest)


def _bounded(text: str) -> int:
    """A whole number that arithmetic and parquet can hold. Raises ValueError, also for NaN and the infinities."""
    if abs(number := int(text)) >= LARGEST:
        raise ValueError(f"{text[:20]}... is larger than any number of ours")
    return number


def _first(cause: Exception) -> str:
    """What is wrong, the first place if there are several."""
    if not isinstance(cause, ValidationError):
        return f"{type(cause).__name__}: {cause}"[:200]
    wrong = cause.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"[:200]


def _plain(path: str) -> bool:
    return all(_NAME.fullmatch(part) for part in path.split("/"))


def listed(said: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every file of a manifest by its path in the repo."""
    tables = [table["files"] for table in said["tables"].values()]
    return {path: one for files in [*tables, said["beside"]] for path, one in files.items()}


def misfit(said: Mapping[str, Any], address: str, key: str | None = None) -> str | None:
    """Why a manifest cannot stand for the artifact of an address: its key must follow from what it says was asked."""
    record = said["record"]
    if not said["whole"]:
        return "it holds a part of an artifact"
    if record["address"] != address:
        return "its record belongs to another address"
    if key not in (None, record["key"]) or not all(map(_follows, (record, *said["above"]))):
        return "its record was not asked for under this address"
    if record["rows"] is None and not all(f["name"].endswith(_ADAPTER) for f in record["files"]):
        return f"an adapter is files of {', '.join(_ADAPTER)}: pickles are never loaded, save it as safetensors"
    return None


def _follows(record: Mapping[str, Any]) -> bool:
    """Do address, key and fingerprint of a record follow from what it says was asked?"""
    identity = record["identity"]
    inputs = [{k: v for k, v in one.items() if k != "address"} for one in record["inputs"]]
    key = digest_of({"stage": identity, "inputs": inputs})
    said = (record["key"], record["fingerprint"], record["address"], record["kind"])
    return said == (key, digest_of(identity), f"{identity['kind']}-{key[:16]}", identity["kind"])
