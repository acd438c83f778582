"""Strict reading of YAML: what every scalar becomes, where everything stands, and that nothing breaks the reader."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_pipeline.errors import Position, UserErrors
from ssd_pipeline.positions import LIMIT_NODES, Node, Report, compose, decode, dotted, nearest, resolve, shown


def tree(text: str) -> Node:
    report = Report()
    node = compose(text, "r.yaml", Path(), report)
    report.raise_any()
    return node


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 0.0001),
        ("1.0e-4", 0.0001),
        ("1E5", 100000.0),
        ("4", 4),
        ("-12", -12),
        ("+3", 3),
        ("0", 0),
        ("0x1F", 31),
        ("4.0", 4.0),
        (".5", 0.5),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("tRUE", "tRUE"),
        ("v1", "v1"),
        ("1.10.2", "1.10.2"),
        ("2-10", "2-10"),
    ],
)
def test_a_scalar_is_read_as_yaml_1_2_reads_it(text: str, value: Any) -> None:
    assert resolve(text) == (value, False)
    assert type(resolve(text)[0]) is type(value)


def test_nan_in_every_spelling() -> None:
    assert all(math.isnan(resolve(text)[0]) for text in (".nan", ".NaN", ".NAN"))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "0123456",
            "089",
            "-012",
            "12:30",
            "1:30.5",
            "190:20:30",
            "1_000",
            "+1_0",
            "0b101",
            "0o17",
            "0x1_F",
            "9" * 40,
        ),
        *("no", "on", "Yes", "OFF", "2024-01-01", "2001-12-14t21:59:43.10-05:00", "="),
    ],
)
def test_what_yaml_readers_disagree_on_stays_text_and_is_marked(text: str) -> None:
    assert resolve(text) == (text, True)


def test_quoted_scalars_are_text() -> None:
    root = tree("a: '1e-4'\nb: \"no\"\nc: |\n  4\n")
    assert root.plain() == {"a": "1e-4", "b": "no", "c": "4\n"}
    assert not any(node.doubtful for _, node in root.walk())


def test_every_value_and_key_knows_its_place() -> None:
    root = tree("# comment\nstages:\n  a: {uses: load, limit: 3}\n  b:\n    - x\n    - [1, 2]\n")
    assert root.place(("stages", "a", "limit")) == Position("r.yaml", 3, 26)
    assert root.find(("stages", "a", "limit"))[0].key_at == Position("r.yaml", 3, 19)
    assert root.place(("stages", "b", 1, 1)) == Position("r.yaml", 6, 11)
    assert root.place(("stages", "b", 0)) == Position("r.yaml", 5, 7)


def test_what_is_absent_is_placed_at_the_key_above_it() -> None:
    root = tree("stages:\n  a:\n    uses: load\n")
    assert root.place(("stages", "a", "limit", "x")) == Position("r.yaml", 2, 3)
    assert root.place(("runtime",)) == Position("r.yaml", 1, 1)


def test_windows_lines_a_mark_and_no_final_newline_change_nothing() -> None:
    text = 'name: a\nprompt: |\n  x\n  {problem}\nlist:\n- "é"'
    marked = decode(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(), "r.yaml")
    assert tree(marked).plain() == tree(text).plain()
    assert tree(marked).place(("list", 0)) == tree(text).place(("list", 0))


def test_lines_break_where_editors_break_them() -> None:
    root = tree("a: 1\r\nb: 2\rc: 3\nd: 4")
    assert [root.place((key,)).line for key in "abcd"] == [1, 2, 3, 4]


def test_several_mistakes_that_leave_the_tree_intact_come_together() -> None:
    with pytest.raises(UserErrors) as caught:
        tree('a: 1\na: 2\n1: x\nb: !env y\nc: "\\u202e"\n')
    assert [(m.position.line, m.key) for m in caught.value.mistakes] == [(2, "a"), (3, "1"), (4, "b"), (5, "c")]
    assert "first is on line 1" in caught.value.mistakes[0].message


def test_a_model_text_may_hold_what_an_escape_says() -> None:
    root = tree('prompt: "a\\u0007b\\u202e"\nmodels: {m: {system: "\\e[0m"}}')
    assert root.plain() == {"prompt": "a\ab\u202e", "models": {"m": {"system": "\x1b[0m"}}}


def test_the_limits_are_named() -> None:
    for text, limit in (
        ("a: " + "[" * 2000, "deeper than 64"),
        ("[" + "1," * (LIMIT_NODES + 1) + "]", "10,000 values"),
    ):
        with pytest.raises(UserErrors, match=limit):
            tree(text)
    with pytest.raises(UserErrors, match="1,000,000 bytes"):
        decode(b"a" * 1_000_001, "r.yaml")


def test_a_fixed_position_for_text_that_stands_in_no_file() -> None:
    at = Position("--set #1")
    assert {n.at for _, n in compose("{a: [1, 2]}", at.file, Path(), Report(), at).walk()} == {at}
    with pytest.raises(UserErrors) as caught:
        compose("[1", at.file, Path(), Report(), at)
    assert caught.value.mistakes[0].position == at


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="{}[]:,&*!|>'\"\\%@`-?#<~ \n\tax1\ud800\x00", max_size=40))
def test_no_text_breaks_the_reader(text: str) -> None:
    report = Report()
    found = []
    try:
        node = compose(text, "r.yaml", Path(), report)
        assert all(isinstance(key, (str, int)) for path, _ in node.walk() for key in path)
    except UserErrors as errors:
        found = errors.mistakes
    assert len(found) <= 1
    assert all(m.position.line >= 1 for m in [*found, *report.found.values()])


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=80))
def test_no_bytes_break_the_decoder(data: bytes) -> None:
    told = ""
    try:
        decode(data, "r.yaml").encode()
    except UserErrors as errors:
        told = str(errors)
    assert not told or told.startswith("r.yaml")


PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.text(st.characters(min_codepoint=32, max_codepoint=126))
)


@settings(max_examples=80, deadline=None)
@given(
    st.recursive(
        PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text("abc", min_size=1), inner), max_leaves=20
    )
)
def test_json_is_read_as_json(value: Any) -> None:
    assert tree(json.dumps(value)).plain() == value


def test_names_are_shown_on_one_line_and_not_endless() -> None:
    assert shown("a\nb\x1b\u202e") == r"a\nb\x1b\u202e"
    assert len(shown("x" * 500)) == 60
    assert dotted(("stages", "a", 0)) == "stages.a.0"


def test_the_nearest_name_is_proposed() -> None:
    assert nearest("rnk", ["rank", "alpha"]) == "Did you mean `rank`?"
    assert nearest("STAGE", ["stages"]) == "Did you mean `stages`?"
    assert nearest("zzz", ["rank", "alpha"]) == "Known: alpha, rank."
    assert nearest("rnk", ["rank", "alpha"], "Keys", listed=True) == "Did you mean `rank`? Keys: alpha, rank."
    assert nearest("x", [], "Stages") == "Stages: none."
    assert "and 980 more" in nearest("zzz", [f"a{i}" for i in range(1000)])
