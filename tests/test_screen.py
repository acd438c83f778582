"""Tables on screens of any width: everything is there, nothing is cut, columns stand under each other."""

from __future__ import annotations

import io
import os

import pytest

from ssd_pipeline.screen import Screen

HEADS = ("stage", "kind", "plan", "rows", "why")
ROWS = [
    ("cold_problems", "load_problems", "cached", "1.2k", "load_problems-697cdc7a1f0ac2cf"),
    ("trajectories", "sample_branches", "runs", "192", "branches 4 -> 2, temperature 1.0 -> 0.7 and 3 more"),
    ("加法", "load_problems", "runs", "", ""),
]


def shown(monkeypatch: pytest.MonkeyPatch, width: int) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    stream = io.StringIO()
    Screen(stream).table(HEADS, ROWS, right=("rows",))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [12, 20, 40])
def test_a_narrow_table_is_a_block_a_row(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = shown(monkeypatch, width)
    words = [word for row in ROWS for cell in row for word in cell.split()]
    assert " ".join(lines).split() == [
        word
        for first, *others in ROWS
        for word in [first, *(w for h, c in zip(HEADS[1:], others, strict=True) if c for w in (f"{h}:", *c.split()))]
    ]
    for line in lines:
        assert len(line) <= width or line.strip() in words, "only one long word may run over the edge"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_wide_table_has_a_line_a_row(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = shown(monkeypatch, width)
    assert len(lines) == 1 + len(ROWS)
    place = lines[0].index("kind")
    assert [line[place:].split()[0] for line in lines[:3]] == ["kind", "load_problems", "sample_branches"]
    assert lines[1][: lines[0].index("rows") + 4].endswith("1.2k")


COMPARED = ("comparison", "mode", *(f"column {n}" for n in range(9)))


@pytest.mark.parametrize(("width", "tables"), [(200, 1), (120, 2), (80, 3), (60, 5)])
def test_columns_that_do_not_fit_come_below_with_the_keys(
    monkeypatch: pytest.MonkeyPatch, width: int, tables: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    stream = io.StringIO()
    rows = [("scores[arm=standard_kd]", mode, *(f"{mode[0]}{n}" for n in range(9))) for mode in ("greedy", "sampled")]
    Screen(stream).table(COMPARED, rows, right=COMPARED[2:], keys=2)
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    shown = [line.split() for line in lines if line.startswith("scores")]
    assert [words[:2] for words in shown] == [list(row[:2]) for row in rows] * tables
    for row in rows:
        assert [cell for words in shown if words[1] == row[1] for cell in words[2:]] == list(row[2:])


def test_one_column_that_does_not_fit_beside_the_keys_makes_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    stream = io.StringIO()
    Screen(stream).table(("comparison", "mode", "accuracy"), [("scores[arm=gen]", "greedy", "96.3 ± 1.5")] * 2, keys=2)
    assert stream.getvalue().splitlines()[:3] == ["scores[arm=gen]", "  mode: greedy", "  accuracy: 96.3 ± 1.5"]


def test_the_width_is_that_of_the_terminal_unless_nobody_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: (_ for _ in ()).throw(OSError()))
    assert Screen(io.StringIO()).width == 240
