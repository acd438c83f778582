"""From what a source gave to a problem row: text or the reason why there is none, names by content, parts by content.

Foreign values are not trusted and not mended: what is no text, too long or not valid Unicode makes a row with an
`error`, never a crash and never a made-up statement. Everything here is a function of the values alone, so that a row
has the same name and falls into the same part wherever and whenever it is loaded. This file does not know any source.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
import uuid
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ssd_pipeline.answers import reference_answer
from ssd_pipeline.records import Row

TEXT_BYTES = 1_000_000  # a longer statement or reference is an error of its row
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Problem:
    """One row. `error` says why it cannot be used; then `problem` may be null."""

    uuid: str
    problem: str | None
    answer: str | None
    source: str
    error: str | None


@dataclass(frozen=True)
class Found:
    """What a source gave for one row: foreign values, and how messages call the row."""

    problem: Any
    answer: Any
    place: str
    error: str | None = None


def _text(value: Any, what: str) -> tuple[str | None, str | None]:
    """A foreign value as text, or why it is none. Numbers are texts where they come as references."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None, None
    if not isinstance(value, str):
        return None, f"{what} is {type(value).__name__}, not text"
    if len(value) > TEXT_BYTES or len(value.encode("utf-8", "surrogatepass")) > TEXT_BYTES:
        return None, f"{what} is longer than {TEXT_BYTES:,} bytes"
    if SURROGATE.search(value):
        return None, f"{what} is not valid Unicode"
    return value, None


def _reference(value: Any) -> tuple[str | None, str | None]:
    """The short answer in a reference column; a number is written out (72.0 as 72), an empty text is no reference, and
    a list of texts (OlympiadBench's `final_answer`) is one answer with commas."""
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        value = ", ".join(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool) and value == value:
        return (None, "the reference answer is not a finite number") if abs(value) == math.inf else (str(value), None)
    text, error = _text(value, "the reference answer")
    return (reference_answer(text) or None if text else None), error


def _statement(found: Found) -> tuple[str | None, str | None]:
    """The statement, and why it cannot be used, if so. An empty statement is kept as it is."""
    if found.error:
        return None, found.error
    text, error = _text(found.problem, "the statement")
    if not error and (text is None or not text.strip()):
        error = "the statement is missing" if text is None else "the statement is empty"
    return text, error


def row(found: Found, source: str, seen: Counter[bytes]) -> Row:
    """One row. Its uuid is a hash of source, statement and answer, and of its place among equal rows."""
    problem, error = _statement(found)
    answer, unusable = _reference(found.answer) if not error else (None, None)
    error = error or unusable
    told = found.problem if isinstance(found.problem, str) else repr(found.problem)
    said = json.dumps([source, told, answer])
    equal = hashlib.sha256(said.encode()).digest()
    ordinal = seen[equal]
    seen[equal] += 1
    name = uuid.UUID(bytes=hashlib.sha256(equal + str(ordinal).encode()).digest()[:16])
    return {
        "uuid": str(name),
        "problem": problem,
        "answer": answer,
        "source": source,
        "error": f"{found.place}: {error}" if error else None,
    }


def part(statement: str, of: int) -> int:
    """The part (from 1) of a statement: case, width and white space do not matter."""
    normal = " ".join(unicodedata.normalize("NFKC", statement).casefold().split())
    digest = hashlib.sha256(b"holdout\0" + normal.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % of + 1


def statement_key(statement: str) -> bytes:
    """Equal for statements that are the same but for white space and the composition of their characters."""
    normal = " ".join(unicodedata.normalize("NFC", statement).split())
    return hashlib.sha256(normal.encode()).digest()[:16]
