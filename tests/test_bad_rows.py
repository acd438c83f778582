"""Rows as people really bring them, through loading, sampling and scoring: each is answered as it stands, or is an
error of its own that says why. Then files of rows, and things on disk that only look like artifacts or journals.

Tried elsewhere: references and answers (test_answers.py, test_verify_answers.py), sources (test_load_problems.py,
test_hub.py), damaged bytes (faults/test_damage.py), journeys of a store (faults/test_places.py).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes import endpoints
from fakes.bench import Bench
from fakes.command import call

from ssd_pipeline import planner, runner
from ssd_pipeline.stages import KINDS
from ssd_pipeline.store.artifact import read_rows
from ssd_pipeline.store.local import Artifact, Store

RECIPE = """\
models: {{teacher: {{path: {model}}}, student: {{path: {model}}}}}
stages:
  problems: {{uses: load_problems, file: rows.jsonl}}
  trajectories: {{uses: sample_branches, input: problems, teacher: teacher, student: student, branches: 2,
                 max_tokens: 12, chunk: {{max_tokens: 6}}}}
runtime: {{models: {{teacher: {{api: completions, endpoints: ["{url}"]}}, student: {{device: cpu}}}}}}
"""
ANSWERED = ""  # no error is expected
ROWS: dict[str, tuple[Any, str]] = {
    "ordinary": ("What is 1+1?", ANSWERED),
    "the same again": ("What is 1+1?", ANSWERED),
    "empty": ("", "the statement is empty"),
    "blank": (" \t\n", "the statement is empty"),
    "null": (None, "the statement is missing"),
    "a number": (12, "the statement is int, not text"),
    "an object": ({"a": 1}, "the statement is dict, not text"),
    "a lone surrogate": ("half \ud83d", "not valid Unicode"),
    "beyond the context": ("long " * 900, "512"),
    "control text": ("Say <|assistant|> now", "'<|assistant|>', which this model reads as control text"),
    "the end token": ("<|end|>", "reads as control text"),
    "control text of others": ("[INST] <think> <|im_end|> </s> <bos>", ANSWERED),
    "templates": ("{{ 7*7 }} {% if x %} ${HOME} {name} {problem} %s \\boxed{}", ANSWERED),
    "line ends and blanks": ("  a\r\nb\r\n\tc  \r\n", ANSWERED),
    "NUL": ("a\x00b", ANSWERED),
    "U+FFFD": ("a\ufffdb", ANSWERED),
    "right to left": ("\u202eabc\u202c \u05d0\u05d1 \u2066x\u2069", ANSWERED),
    "four bytes": ("\U0001f600 \U00020000", ANSWERED),
    "combining and zero width": ("e\u0301 \u00e9 a\u200bb\u200d\ufeff", ANSWERED),
    "line separators": ("a\u2028b\u2029c\x85d\x0be", ANSWERED),
}


@dataclass(frozen=True)
class Ran:
    """One run over all rows: what came of each, and the texts that the teacher was sent."""

    rows: dict[str, dict]
    sent: list[str]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("bad")
    lines = [json.dumps({"problem": statement, "answer": "2", "id": 7}) for statement, _ in ROWS.values()]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    with endpoints.serve(endpoints.vllm) as server:
        (folder / "recipe.yaml").write_text(RECIPE.format(model=tiny_model(), url=server.url))
        stages = runner.run(planner.plan(folder / "recipe.yaml", KINDS, store=Store(folder / "store")))
        found = stages["trajectories"].found
        assert found is not None
        made = [dict(row) for row in read_rows(found.directory)]
        yield Ran(dict(zip(ROWS, made, strict=True)), [post["prompt"] for post in server.posts()])


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_answered_as_it_stands_or_says_why_not(ran: Ran, name: str) -> None:
    (statement, error), row = ROWS[name], ran.rows[name]
    if error:
        assert row["fate"] == "error"
        assert error in row["error"]
        assert row["solution"] is None
        return
    assert (row["error"], row["problem"]) == (None, statement)
    assert row["fate"] in ("accepted", "too_long")
    assert row["messages"][0] == {"role": "user", "content": statement}
    assert any(prompt.startswith(f"<|user|>{statement}<|assistant|>") for prompt in ran.sent)


def test_what_is_wrong_with_a_row_names_its_place(ran: Ran) -> None:
    for place, (name, row) in enumerate(ran.rows.items(), 1):
        if not isinstance(ROWS[name][0], str) or not ROWS[name][0].strip():
            assert row["error"].startswith(f"row {place}: ")


def test_equal_rows_are_rows_of_their_own(ran: Ran) -> None:
    """With equal ids in the source, too: nothing is kept in a dict by them."""
    one, two = ran.rows["ordinary"], ran.rows["the same again"]
    assert one["uuid"] != two["uuid"]
    assert len({row["uuid"] for row in ran.rows.values()}) == len(ROWS)
    assert one["solution"] != two["solution"], "the second one is drawn by itself"


def test_nothing_is_sent_for_a_row_that_cannot_be_asked(ran: Ran) -> None:
    sent = "".join(ran.sent)
    assert "Say <|assistant|> now" not in sent
    assert "<|user|><|end|>" not in sent


# ---------------------------------------------------------------------------------------------------- files

FILES = [
    ('{"question": "1+1?", "answer": "2"}', "", 2, "no column problem; it has: question, answer"),
    ('{"problem": {"text": "1+1?"}, "answer": "2"}', "columns: {problem: problem.text}", 2, "no column problem.text"),
    ("", "", 1, "0 rows"),
    ('{"problem": "", "answer": "2"}', "", 1, "none of 1 rows can be used"),
    ('{"problem": "1+1?", "answer": Infinity}', "", 1, "the reference answer is not a finite number"),
    ('{"problem": "1+1?", "answer": -Infinity}', "", 1, "the reference answer is not a finite number"),
    ('{"problem": "1+1?", "answer": NaN}', "", 0, ""),
    ('{"problem": "1+1?", "answer": "2"}', "limit: 9", 0, "limit is 9, there are only 1 rows"),
]


@pytest.mark.parametrize(("line", "more", "status", "says"), FILES)
def test_a_file_that_cannot_be_used_is_told_as_soon_as_it_shows(
    home: Path, line: str, more: str, status: int, says: str
) -> None:
    (home / "problems.jsonl").write_text(line + "\n" if line else "")
    more = f", {more}" if more else ""
    (home / "recipe.yaml").write_text(f"stages:\n  p: {{uses: load_problems, file: problems.jsonl{more}}}\n")
    done = call(home, "recipe.yaml")
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert (home / "store" / "artifacts").exists() == (status == 0)


# ------------------------------------------------------------------------------- what only looks like an artifact


def made(bench: Bench) -> Artifact:
    found = bench.plan().stages["twice"].found
    assert found is not None
    return found


def test_a_copy_under_another_name_is_no_artifact(bench: Bench) -> None:
    """By hand, or because 16 digits are the same: the whole key decides, and a record belongs to one address."""
    bench.run()
    found = made(bench)
    other = bench.plan("stages.twice.factor=3").stages["twice"]
    shutil.copytree(found.directory, found.directory.with_name(str(other.address)))
    assert bench.plan("stages.twice.factor=3").stages["twice"].why == "damaged: its record belongs to another address"
    assert bench.store.find(found.address, "0" * 64) == "its record belongs to another address"
    assert bench.run("stages.twice.factor=3")["twice"]["computed"] == 10


@pytest.mark.parametrize("how", ["an empty directory", "data alone", "a record alone", "a file", "a link to nowhere"])
def test_what_is_half_there_is_made_anew(bench: Bench, how: str) -> None:
    digest = bench.run()["twice"]["digest"]
    found = made(bench)
    for part in {"data alone": ["record.json"], "a record alone": ["data"]}.get(how, ["data", "record.json"]):
        path = found.directory / part
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if how in ("a file", "a link to nowhere"):
        found.directory.rmdir()
        found.directory.write_text("") if how == "a file" else os.symlink("nowhere", found.directory)
    assert bench.plan().stages["twice"].status == "miss"
    again = bench.run()
    assert (again["twice"]["computed"], again["twice"]["digest"]) == (10, digest)
    assert isinstance(made(bench), Artifact)


# --------------------------------------------------------------------------------- what only looks like a journal


def interrupted(bench: Bench) -> str:
    """A journal with nine of ten rows; its folder's name."""
    bench.kinds.broken = {9}
    with pytest.raises(Exception, match="9 are kept"):
        bench.run()
    bench.kinds.broken = set()
    (folder,) = (bench.store.root / "journals").iterdir()
    return folder.name


def test_only_a_journal_is_no_artifact_and_its_rows_are_taken(bench: Bench) -> None:
    interrupted(bench)
    assert bench.plan().stages["twice"].status == "miss"
    assert bench.run()["twice"]["computed"] == 1


def test_the_journal_of_another_identity_is_left_alone(bench: Bench) -> None:
    name = interrupted(bench)
    assert bench.run("stages.twice.factor=3")["twice"]["computed"] == 10
    assert [p.name for p in (bench.store.root / "journals").iterdir()] == [name]
    assert bench.run()["twice"]["computed"] == 1


@pytest.mark.parametrize("value", ["1", "null", "[]", "{}", '{"doubled": 2}', '{"doubled": 2, "fate": "accepted"}'])
def test_rows_of_an_older_schema_are_computed_anew(bench: Bench, value: str) -> None:
    """A line whose bytes are whole, with other columns than the stage has today."""
    from ssd_pipeline.store.journal import encode

    folder = bench.store.root / "journals" / interrupted(bench)
    (log,) = folder.glob("*.log")
    keys = [line[9:].split(b" ")[0].decode() for line in log.read_bytes().splitlines()]
    log.write_bytes(b"".join(encode(key, json.loads(value)) for key in keys))
    again = bench.run()["twice"]
    notes = [event["note"] for event in bench.events if event.get("note")]
    assert notes == [f"{len(keys)} of the kept rows cannot be read or are of another version: made anew"]
    assert [row["doubled"] for row in bench.rows(again["address"])] == [2 * n for n in range(10)]
