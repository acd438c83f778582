"""Text to learn -> token ids and labels, checked: the positions that carry loss must decode to exactly that text.

Trainers' own handling of chat data loses text silently (templates that drop reasoning, masks without effect, rows cut
at a default length), so none of it is used. Prompt and response are tokenised apart, as the model meets them when it
writes: its prompt is fixed, its own tokens follow. Rows that are left out are counted by reason. This file does not
know trainers, models' weights or where rows come from.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from ssd_pipeline.errors import ModelError, RunError
from ssd_pipeline.models.rendering import control_tokens, end_token
from ssd_pipeline.store.identity import canonical

IGNORED = -100  # the label of a position without loss
BATCH = 1024  # rows per arrow batch
SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])


@dataclass(frozen=True)
class Example:
    """One row: the rendered prompt, the response, and whether the response ended by itself (gets the end token)."""

    prompt: str
    text: str
    finished: bool


@dataclass
class Rows:
    """Tokenised rows and what became of the others. `tokens`: positions with loss, of one epoch."""

    table: pa.Table
    count: int = 0
    tokens: int = 0
    cut: int = 0
    too_long: int = 0
    control_text: int = 0
    longest: int = 0
    digest: str = ""


def tokenised(
    examples: Iterable[Example],
    tokenizer: Any,
    template: str | None,
    limit: int,
    too_long: Literal["drop", "cut", "error"],
) -> Rows:
    """Examples as `input_ids` and `labels`; a response with control text, or a too long one, is left out and counted.

    `template`: the chat template, if not the tokeniser's own. `limit`: the most tokens of prompt and response together.
    Raises ModelError when the tokens do not say the response (up to Unicode NFC, which some tokenisers apply), RunError
    for a row that is too long when that is an error.
    """
    end_text, end_id = end_token(tokenizer, template)
    control = control_tokens(tokenizer)
    rows, ready, batches = Rows(SCHEMA.empty_table()), [], []
    said = hashlib.sha256()
    for number, example in enumerate(examples):
        if any(token in example.text for token in control):
            rows.control_text += 1
            continue
        before = _ids(tokenizer, example.prompt)
        trained = _ids(tokenizer, example.text) + ([end_id] if example.finished else [])
        expected = example.text + (end_text if example.finished else "")
        _check(tokenizer, trained, expected, number)
        length = len(before) + len(trained)
        if length > limit and too_long == "error":
            raise RunError(
                f"row {number} has {length} tokens, above {limit}: raise max_length, or too_long: drop or cut"
            )
        if length > limit and (too_long == "drop" or len(before) >= limit):
            rows.too_long += 1
            continue
        rows.cut += length > limit
        ids = (before + trained)[:limit]
        labels = ([IGNORED] * len(before) + trained)[:limit]
        rows.tokens += len(ids) - len(before)
        rows.longest = max(rows.longest, len(ids))
        said.update(canonical([len(before), ids]))
        ready.append({"input_ids": ids, "labels": labels})
        if len(ready) == BATCH:
            batches.append(pa.RecordBatch.from_pylist(ready, schema=SCHEMA))
            ready = []
    batches.append(pa.RecordBatch.from_pylist(ready, schema=SCHEMA))
    rows.table, rows.digest = pa.Table.from_batches(batches, schema=SCHEMA), said.hexdigest()
    rows.count = rows.table.num_rows
    return rows


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _check(tokenizer: Any, ids: Sequence[int], expected: str, number: int) -> None:
    """The positions that carry loss must say exactly what is to be learned."""
    said = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if said != expected and unicodedata.normalize("NFC", said) != unicodedata.normalize("NFC", expected):
        at = next((i for i, (a, b) in enumerate(zip(said, expected, strict=False)) if a != b), 0)
        raise ModelError(
            f"row {number}: the tokeniser changes the text to be learned: {said[at : at + 40]!r} instead of "
            f"{expected[at : at + 40]!r}"
        )
