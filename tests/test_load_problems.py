"""load_problems with real files, a Hub on loopback and a real generator: good rows, bad rows, splits, order."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import re
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.context import Context
from fakes.hub import FakeHub
from fakes.hub_client import at_home
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_pipeline.errors import HubError, RunError
from ssd_pipeline.stages import load_problems
from ssd_pipeline.stages.load_problems import STAGE, LoadProblems
from ssd_pipeline.store import sources

count = itertools.count()


def load(tmp_path: Path, revisions: dict[str, str] | None = None, **params: Any) -> tuple[list[dict], dict]:
    context = Context(tmp_path / f"out{next(count)}", revisions=revisions or {})
    summary = STAGE.run(LoadProblems.model_validate(params), context)
    return [dict(row) for row in context.rows()], dict(summary)


def jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def problems(n: int) -> list[dict]:
    return [{"problem": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(n)]


# ------------------------------------------------------------------------------------------------- formats


def write(path: Path, rows: list[dict]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.name.endswith(".jsonl"):
        path.write_text(text)
    elif path.name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress(text.encode()))
    elif path.name.endswith(".json"):
        path.write_text(json.dumps(rows))
    elif path.name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz", "p.json", "p.parquet", "p.csv", "p.tsv"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    rows = [
        {"problem": 'Windows\r\nlines, "quotes" and blanks  ', "answer": "1"},
        {"problem": "{{ 7*7 }} ${HOME} {name} %s <|im_end|> \u202e \U0001f600 e\u0301 \x00\ufffd", "answer": "2"},
    ]
    write(tmp_path / name, rows)
    found, summary = load(tmp_path, file=str(tmp_path / name))
    assert [(r["problem"], r["answer"]) for r in found] == [(r["problem"], r["answer"]) for r in rows]
    assert [r["source"] for r in found] == [name, name]
    assert [r["error"] for r in found] == [None, None]
    assert summary == {"rows": 2, "bad": 0, "duplicates": 0, "notes": []}


def test_rows_have_the_agreed_columns_and_uuids(tmp_path: Path) -> None:
    found, _ = load(tmp_path, file=jsonl(tmp_path / "p.jsonl", problems(3)))
    assert list(found[0]) == ["uuid", "problem", "answer", "source", "error"]
    assert len({str(uuid.UUID(r["uuid"])) for r in found}) == 3


def test_other_columns_and_no_answers(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", [{"question": "1+1?", "other": [1]}])
    found, _ = load(tmp_path, file=path, columns={"problem": "question", "answer": None})
    assert (found[0]["problem"], found[0]["answer"]) == ("1+1?", None)


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n#### 72", "72"),
        ("We have $x = \\frac{1}{2}$, so the answer is $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        ("  50\\%  ", "50\\%"),
        ("none", "none"),
        ("[1, 2)", "[1, 2)"),
        (72, "72"),
        (72.0, "72"),
        (0.5, "0.5"),
        (["2", "3"], "2, 3"),
        (["$\\frac{1}{2}$"], "$\\frac{1}{2}$"),
        ("033", "033"),
        ("proof", None),
        ("notfound", None),
        ("", None),
        (None, None),
    ],
)
def test_references_as_people_write_them(tmp_path: Path, reference: Any, answer: str | None) -> None:
    found, _ = load(tmp_path, file=jsonl(tmp_path / "p.jsonl", [{"problem": "?", "answer": reference}]))
    assert (found[0]["answer"], found[0]["error"]) == (answer, None)


# ------------------------------------------------------------------------------------------------ bad rows

BAD = [
    ("", "the statement is empty"),
    (" \n\t ", "the statement is empty"),
    (None, "the statement is missing"),
    (7, "the statement is int, not text"),
    (["a"], "the statement is list, not text"),
    ("half \ud800 a pair", "the statement is not valid Unicode"),
    ("x" * 1_000_001, "the statement is longer than 1,000,000 bytes"),
    ("é" * 600_000, "the statement is longer than 1,000,000 bytes"),
]


@pytest.mark.parametrize(("statement", "reason"), BAD)
def test_a_bad_row_is_kept_with_its_reason_and_number(tmp_path: Path, statement: Any, reason: str) -> None:
    rows = [*problems(2), {"problem": statement, "answer": "1"}, *problems(1)]
    found, summary = load(tmp_path, file=jsonl(tmp_path / "p.jsonl", rows))
    assert [r["error"] for r in found] == [None, None, f"row 3: {reason}", None]
    assert summary["bad"] == 1
    assert len({r["uuid"] for r in found}) == 4


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"problem": "cut o', "is not JSON"),
        (b"[1, 2]", "is list, not an object"),
        (b'{"problem": "caf\xe9", "answer": "1"}', "not valid Unicode"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"answer": "1"}', "the statement is missing"),
        (b'{"problem": "?", "answer": {"a": 1}}', "the reference answer is dict, not text"),
        (b'{"problem": "?", "answer": true}', "the reference answer is bool, not text"),
        (b'{"problem": "?", "answer": ' + b"9" * 5000 + b"}", "is not JSON"),
    ],
)
def test_a_line_that_cannot_be_read_costs_that_row_only(tmp_path: Path, line: bytes, reason: str) -> None:
    good = json.dumps(problems(1)[0]).encode()
    (tmp_path / "p.jsonl").write_bytes(good + b"\n\n" + line + b"\n" + good)
    found, _ = load(tmp_path, file=str(tmp_path / "p.jsonl"))
    assert [bool(r["error"]) for r in found] == [False, True, False]
    assert found[1]["error"].startswith("row 2: ")
    assert reason in found[1]["error"]


def test_a_line_of_50_mb_is_a_row_error_in_bounded_memory(tmp_path: Path) -> None:
    import tracemalloc

    good = json.dumps(problems(1)[0]).encode() + b"\n"
    with (tmp_path / "p.jsonl").open("wb") as file:
        file.write(good + b'{"problem": "')
        for _ in range(50):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n' + good)
    tracemalloc.start()
    found = list(sources.records(tmp_path / "p.jsonl", ["problem"]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [r.error for r in found] == [None, "is longer than 8,388,608 bytes", None]
    assert peak < 4 * sources.LINE_BYTES


def test_a_wrong_type_far_down_is_a_row_error_there(tmp_path: Path) -> None:
    rows: list[Any] = problems(3000)
    rows[2499]["problem"] = 2500
    found, _ = load(tmp_path, file=jsonl(tmp_path / "p.jsonl", rows))
    assert [r["error"] for r in found if r["error"]] == ["row 2500: the statement is int, not text"]
    assert len(found) == 3000


def test_csv_rows_with_more_or_fewer_fields(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('problem,answer\n1+1?,2\n"a, b?",3,4\nonly\n')
    found, _ = load(tmp_path, file=str(tmp_path / "p.csv"))
    assert [r["error"] for r in found] == [None, "row 2: has more fields than the header", None]
    assert found[2]["answer"] is None


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes(b"\xef\xbb\xbfproblem,answer\n1+1?,2\n")
    assert load(tmp_path, file=str(tmp_path / "p.csv"))[0][0]["answer"] == "2"


def test_parquet_nulls_and_nan_are_null(tmp_path: Path) -> None:
    table = pa.table({"problem": ["a", None, "c"], "answer": [1.0, 2.0, float("nan")]})
    pq.write_table(table, tmp_path / "p.parquet")
    found, _ = load(tmp_path, file=str(tmp_path / "p.parquet"))
    assert [r["answer"] for r in found] == ["1", None, None]
    assert found[1]["error"] == "row 2: the statement is missing"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b"", "0 rows"),
        ("p.json", b"[]", "0 rows"),
        ("p.csv", b"problem,answer\n", "0 rows"),
        ("p.jsonl", b'{"question": "?", "answer": "1"}\n', "has no column problem; it has: question, answer"),
        (
            "p.csv",
            b"problem,target\n1,2\n",
            "no column answer; it has: problem, target; without references: answer: null",
        ),
        ("p.jsonl", b'{"problem": ""}\n{"problem": null, "answer": ""}\n', "none of 2 rows can be used; first: row 1"),
        ("p.jsonl", "{}".encode("utf-16"), "none of 1 rows"),
        ("p.parquet", b"PAR1 not really", "p.parquet"),
        ("p.json", b'[{"problem"', "p.json"),
        ("p.xlsx", b"x", "formats are .parquet"),
        ("p.jsonl.gz", b"not gzip", "p.jsonl.gz"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match=re.escape(message)):
        load(tmp_path, file=str(tmp_path / name))


def test_mistakes_in_local_files_show_before_anything_runs(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", [{"question": "?", "answer": "1"}])
    assert STAGE.check is not None
    assert [key for key, _ in STAGE.check(LoadProblems(file=path))] == [("columns", "problem")]
    assert [key for key, _ in STAGE.check(LoadProblems(file=str(tmp_path / "gone.jsonl")))] == [("file",)]
    good = LoadProblems.model_validate({"file": path, "columns": {"problem": "question"}})
    assert not list(STAGE.check(good))


def test_a_key_that_the_first_rows_leave_out_is_no_missing_column(tmp_path: Path) -> None:
    rows = [{"problem": "a"}, {"problem": "b", "answer": "1"}]
    found, _ = load(tmp_path, file=jsonl(tmp_path / "p.jsonl", rows))
    assert [r["answer"] for r in found] == [None, "1"]


@pytest.mark.parametrize(
    ("params", "key"),
    [
        ({}, ()),
        ({"file": "/x.csv", "dataset": "a/b"}, ("file",)),
        ({"file": "/x.csv", "split": "train"}, ("split",)),
        ({"file": "/x.csv", "revision": "main"}, ("revision",)),
        ({"reasoning_gym": {"name": "x", "size": 1}, "columns": {"problem": "x"}}, ("columns",)),
    ],
)
def test_mistakes_across_keys(params: dict, key: tuple) -> None:
    assert [k for k, _ in LoadProblems.model_validate(params).mistakes()] == [key]


@pytest.mark.parametrize("part", [0, 11, "0-3", "4-2", "2-11", "a", "", "1-", -1])
def test_parts_that_are_none(part: Any) -> None:
    params = LoadProblems.model_validate({"file": "/x.csv", "holdout": {"part": part, "of": 10}})
    assert params.holdout is not None
    assert [k for k, _ in params.holdout.mistakes()] == [("part",)]


# --------------------------------------------------------------------------- equal rows, parts, order, limit


def test_identical_rows_are_both_kept_and_differ_in_uuid(tmp_path: Path) -> None:
    rows = [*problems(1) * 3, {"problem": "What  is 0 + 1?", "answer": "other"}]
    found, summary = load(tmp_path, file=jsonl(tmp_path / "p.jsonl", rows))
    assert len({r["uuid"] for r in found}) == len(found) == 4
    assert summary["duplicates"] == 3
    assert "3 rows repeat a statement: kept" in summary["notes"][0]


def test_dedupe_keeps_the_first_and_says_so(tmp_path: Path) -> None:
    rows = [{"problem": "a", "answer": "1"}, {"problem": "b", "answer": "2"}, {"problem": " a ", "answer": "3"}]
    found, summary = load(tmp_path, file=jsonl(tmp_path / "p.jsonl", rows), dedupe=True)
    assert [r["answer"] for r in found] == ["1", "2"]
    assert summary["notes"] == ["1 rows repeat a statement: dropped"]


def test_uuids_depend_on_content_and_not_on_place(tmp_path: Path) -> None:
    rows = [*problems(20), *problems(5), {"problem": "", "answer": "1"}]
    first, _ = load(tmp_path, file=jsonl(tmp_path / "p.jsonl", rows))
    second, _ = load(tmp_path, file=jsonl(tmp_path / "p.jsonl", rows[::-1]))
    assert {r["uuid"] for r in first} == {r["uuid"] for r in second}


def test_limit_takes_the_first_and_a_larger_one_is_noted(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", problems(5))
    all_rows, summary = load(tmp_path, file=path, limit=9)
    assert summary["notes"] == ["limit is 9, there are only 5 rows"]
    assert load(tmp_path, file=path, limit=3)[0] == all_rows[:3]


@pytest.mark.parametrize("slice_rows", [1, 3, 10, 50_000])
def test_a_shuffled_order_depends_on_content_and_seed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slice_rows: int
) -> None:
    rows = [*problems(10), *problems(3)]
    path = jsonl(tmp_path / "p.jsonl", rows)
    expected, summary = load(tmp_path, file=path, shuffle=1)
    monkeypatch.setattr(load_problems, "SLICE_ROWS", slice_rows)
    again, _ = load(tmp_path, file=path, shuffle=1)
    assert again == expected
    assert summary["duplicates"] == 3
    assert sorted(r["uuid"] for r in again) == sorted(r["uuid"] for r in load(tmp_path, file=path)[0])
    assert again != load(tmp_path, file=path)[0]
    assert again != load(tmp_path, file=path, shuffle=2)[0]
    assert load(tmp_path, file=path, shuffle="seed")[0] == load(tmp_path, file=path, shuffle=17)[0], "the context's"
    assert load(tmp_path, file=path, shuffle=1, limit=4)[0] == expected[:4]
    moved, _ = load(tmp_path, file=jsonl(tmp_path / "p.jsonl", rows[::-1]), shuffle=1)
    assert [r["uuid"] for r in moved] == [r["uuid"] for r in expected]


STATEMENT = st.text(min_size=1, max_size=30).filter(lambda s: s.strip())


@settings(max_examples=60, deadline=None)
@given(st.lists(STATEMENT, min_size=1, max_size=20), st.integers(2, 12), st.data())
def test_parts_share_no_problem_and_together_are_everything(
    tmp_path_factory: pytest.TempPathFactory, statements: list[str], of: int, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(1, of - 1))
    rows = [load_problems.Found(s, None, "row") for s in [*statements, *(s.upper() + " " for s in statements)]]
    source = load_problems.Source("s", lambda: iter(rows))
    parts = []
    for part in (f"1-{cut}", f"{cut + 1}-{of}"):
        params = LoadProblems.model_validate({"file": "/x.csv", "holdout": {"part": part, "of": of}})
        parts.append(list(load_problems._rows(params, source, load_problems.Counter())))
    first, second = ({" ".join(str(r["problem"]).split()).casefold() for r in part} for part in parts)
    whole = LoadProblems.model_validate({"file": "/x.csv"})
    names = {r["uuid"] for r in load_problems._rows(whole, source, load_problems.Counter())}
    assert not first & second
    assert {r["uuid"] for part in parts for r in part} == names
    assert sum(map(len, parts)) == len(rows)


def test_holdout_parts_of_a_file(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", problems(400))
    held, _ = load(tmp_path, file=path, holdout={"part": 1, "of": 10})
    rest, _ = load(tmp_path, file=path, holdout={"part": "2-10", "of": 10})
    assert len(held) + len(rest) == 400
    assert 20 <= len(held) <= 60
    one = jsonl(tmp_path / "q.jsonl", [{"problem": held[0]["problem"], "answer": "1"}])
    with pytest.raises(RunError, match="none of 1 rows is in that part"):
        load(tmp_path, file=one, holdout={"part": "2-10", "of": 10})


# ------------------------------------------------------------------------------------------- the generator


def test_reasoning_gym_gives_problems(tmp_path: Path) -> None:
    task = {"name": "basic_arithmetic", "seed": 3, "size": 4, "config": {"min_terms": 2, "max_terms": 2}}
    found, _ = load(tmp_path, reasoning_gym=task)
    assert len(found) == 4
    assert all(r["problem"] and r["answer"] and r["source"] == "reasoning_gym/basic_arithmetic" for r in found)
    assert load(tmp_path, reasoning_gym=task)[0] == found
    assert load(tmp_path, reasoning_gym={**task, "seed": 4})[0] != found


@pytest.mark.parametrize("change", [{"name": "no_such_task"}, {"config": {"no_such_key": 1}}])
def test_reasoning_gym_mistakes_name_the_task(tmp_path: Path, change: dict) -> None:
    task = {"name": "basic_arithmetic", "size": 4, **change}
    with pytest.raises(RunError, match=f"reasoning_gym task {task['name']}"):
        load(tmp_path, reasoning_gym=task)


# ------------------------------------------------------------------------------------------------- the Hub


def parquet(rows: list[dict]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def test_the_commit_decides_also_with_a_warm_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub() as hub, at_home(hub, tmp_path / "home", monkeypatch, None):
        name = "data/train-00000-of-00001.parquet"
        first = hub.add("them/maths", {name: parquet(problems(3))})
        second = hub.add("them/maths", {name: parquet(problems(5)), "data/test-00000-of-00001.parquet": parquet([])})

        def rows(commit: str) -> int:
            return len(load(tmp_path, {"them/maths": commit}, dataset="them/maths", revision="v1")[0])

        assert [rows(first), rows(second), rows(first), rows(second)] == [3, 5, 3, 5]
        found, _ = load(tmp_path, {"them/maths": first}, dataset="them/maths")
        assert {r["source"] for r in found} == {"them/maths"}


def test_configs_splits_and_formats_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = b"---\nconfigs:\n- config_name: main\n  data_files: [{split: test, path: 'main/*.jsonl'}]\n---\n"
    one, two = (json.dumps({"question": q, "answer": f"so\n#### {q}"}).encode() for q in "12")
    with FakeHub() as hub, at_home(hub, tmp_path / "home", monkeypatch, None):
        commit = hub.add("them/gsm", {"README.md": card, "main/a.jsonl": one, "main/b.jsonl": two + b"\n{}"})
        params = {"dataset": "them/gsm", "config": "main", "columns": {"problem": "question"}}
        found, _ = load(tmp_path, {"them/gsm": commit}, split="test", **params)
        assert [r["answer"] for r in found] == ["1", "2", None]
        assert found[2]["error"] == "row 2 of b.jsonl: the statement is missing"
        with pytest.raises(HubError, match="splits are: test"):
            load(tmp_path, {"them/gsm": commit}, **params)


def test_a_private_data_set_names_the_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub() as hub, at_home(hub, tmp_path / "home", monkeypatch, None):
        commit = hub.add("them/secret", {"p.csv": b"problem,answer\n1,2\n"}, private=True)
        with pytest.raises(HubError, match="`read` permission"):
            load(tmp_path, {"them/secret": commit}, dataset="them/secret")
