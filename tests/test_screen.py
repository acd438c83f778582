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


def test_the_width_is_that_of_the_terminal_unless_nobody_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: (_ for _ in ()).throw(OSError()))
    assert Screen(io.StringIO()).width == 240
