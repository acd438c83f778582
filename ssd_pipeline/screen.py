"""Lines and tables on a stream, plain enough for a cached run to be as fast as its imports.

A rich table costs more than all the rest of a run that takes nothing but hits, so tables are text in columns here, and
rich is imported only for the live progress of a terminal. What came from outside is passed through `clean`: no text in
a recipe, a problem or a server's error moves the cursor or fakes a line. This file does not know what is shown.
"""

from __future__ import annotations

import os
import re
import shutil
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import TextIO

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "magenta": "35", "cyan": "36"}
GAP = "  "


def clean(text: object) -> str:
    """Text of the outside: control and direction characters shown as escapes."""
    return "".join(c if c == "\n" or unicodedata.category(c)[0] != "C" else repr(c)[1:-1] for c in str(text))


class Screen:
    """A stream that somebody may watch. `width`: columns; where nobody can tell, 240: a file has no edge."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.terminal = stream.isatty()
        self.coloured = self.terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self.width = shutil.get_terminal_size((240, 24)).columns

    def line(self, text: str = "", style: str = "") -> None:
        """One line, whole at once."""
        self._stream.write(self.styled(text, style) + "\n")
        self._stream.flush()

    def styled(self, text: str, style: str) -> str:
        return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if style and self.coloured else text

    def table(
        self, heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = (), keys: int = 0
    ) -> None:
        """Rows in columns; those named in `right` are aligned to the right. Cells may be styled already.

        Where the columns do not fit beside each other, those that do not come in tables below, which begin with the
        first `keys` columns too; without keys, or where one column is too much, each row is a block: its first cell,
        then a line a column. The last column may run over the edge, since it often holds a sentence.
        """
        widths = [max(map(_columns, column)) for column in zip(heads, *rows, strict=True)]
        fit = keys
        while keys and fit < len(heads) and sum(widths[: fit + 1]) + len(GAP) * fit <= self.width:
            fit += 1
        if keys < fit < len(heads):
            self.table(heads[:fit], [row[:fit] for row in rows], right)
            self.line()
            self.table([*heads[:keys], *heads[fit:]], [[*row[:keys], *row[fit:]] for row in rows], right, keys)
        elif sum(widths if keys else widths[:-1]) + len(GAP) * len(widths[1:]) > self.width:
            self._blocks(heads, rows)
        else:
            self._lines(heads, rows, right, widths)

    def _lines(
        self, heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str], widths: Sequence[int]
    ) -> None:
        for number, row in enumerate([heads, *rows]):
            cells = []
            for head, cell, width in zip(heads, row, widths, strict=True):
                room = " " * (width - _columns(cell))
                cells.append(room + cell if head in right else cell + room)
            self.line(GAP.join(cells).rstrip(), "" if number else "bold")

    def _blocks(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        wrapper = textwrap.TextWrapper(max(self.width, 12), GAP, GAP * 2, break_long_words=False)
        for first, *others in rows:
            self.line(first, "bold")
            for head, cell in zip(heads[1:], others, strict=True):
                for line in wrapper.wrap(f"{head}: {cell}") if cell else ():
                    self.line(line)


def _columns(text: str) -> int:
    """How many columns a text takes: style marks none, wide characters two."""
    shown = re.sub(r"\x1b\[\d+m", "", text)
    return len(shown) if shown.isascii() else sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in shown)
