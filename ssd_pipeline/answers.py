"""Which answer a text states.

The rule that is stated to the user: only what follows the last `</think>` counts (the whole text if there is none),
and there the last balanced `\\boxed{...}`, else the last line `#### x`, else what follows the last "answer is" or
"answer:" in its line, up to a full stop. Nothing else is an answer: taking "the last number" makes unfinished chains
correct by chance. A box is taken alone, because math-verify joins boxes that stand close together.

Finding an answer takes time linear in the text, so it may run anywhere. This file does not know what equals what (see
equality.py), nor rows or stages.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

Rule = Literal["boxed", "hashes", "phrase"]
RULES: tuple[Rule, ...] = ("boxed", "hashes", "phrase")
END_OF_THOUGHT = "</think>"

_BOX = re.compile(
    r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\boxed\s+(?P<bare>[^\s{}$\\]+)|\\.|(?P<open>\{)|(?P<close>\})", re.DOTALL
)
_HASHES = re.compile(r"^[ \t]*####(?!#)(.*)$", re.MULTILINE)
_PHRASE = re.compile(r"\banswer[ \t]*(?:\bis\b|:)", re.IGNORECASE)
_INK = re.compile(r"\S")
_NO_REFERENCE = {"proof", "notfound"}  # what NuminaMath-1.5 and OpenR1-Math write where there is no short answer


def extract(text: str, rules: tuple[Rule, ...] = RULES, after: str = END_OF_THOUGHT) -> str | None:
    """The answer that `text` states, as written there, by the first of `rules` that finds one; None if none does.

    Where the tag `after` occurs, only what follows its last occurrence counts.
    """
    said = text.rpartition(after)[2] if after else text
    return next((found for rule in rules if (found := _FINDERS[rule](said))), None)


def reference_answer(text: str) -> str:
    """The short answer in a data set's reference field: after GSM8K's `####`, in the box of a worked MATH solution, or
    the text itself, stripped; empty where it says that there is none."""
    found = _last_box(text) or _last_hashes(text) or text.strip()
    return "" if found.casefold() in _NO_REFERENCE else found


def _last_box(text: str) -> str | None:
    """The content of the box that begins last, among those that are closed and not empty. `\\{` is no brace."""
    opened: list[int] = []  # for every open brace: where the content of its box begins, or -1
    start, end = -1, -1
    for token in _BOX.finditer(text):
        if token["box"]:
            opened.append(token.end())
        elif token["open"]:
            opened.append(-1)
        elif token["bare"]:
            start, end = token.span("bare")
        elif token["close"] and opened:
            begin = opened.pop()
            if begin > start and _INK.search(text, begin, token.start()):
                start, end = begin, token.start()
    return text[start:end].strip().rstrip(".") if start >= 0 else None


def _last_hashes(text: str) -> str | None:
    """GSM8K's mark: the rest of the last line that begins with exactly four hashes and says something."""
    return next((line for m in reversed(list(_HASHES.finditer(text))) if (line := m[1].strip())), None)


def _last_phrase(text: str) -> str | None:
    """The rest of the sentence in the line after the last "answer is" or "answer:", without markup and full stop."""
    for mark in reversed(list(_PHRASE.finditer(text))):
        end = text.find("\n", mark.end())
        line = text[mark.end() : end if end >= 0 else len(text)]
        rest = line.lstrip(" \t\r:*$")
        stop = rest.find(". ")
        if rest := rest[: stop if stop >= 0 else len(rest)].rstrip(" \t\r*$."):
            return rest
    return None


_FINDERS: dict[Rule, Callable[[str], str | None]] = {
    "boxed": _last_box,
    "hashes": _last_hashes,
    "phrase": _last_phrase,
}
