"""Which answer a text states, and whether it equals the reference.

The rule that is stated to the user: only what follows the last `</think>` counts (the whole text if there is none),
and there the last balanced `\\boxed{...}`, else the last line `#### x`, else the rest of the line after the last
"answer is" or "answer:". Nothing else is an answer: taking "the last number" makes unfinished chains correct by chance.
A box is compared alone and rewrapped, because math-verify misreads bare LaTeX (`2\\sqrt{3}` as 2) and joins boxes that
stand close together.

Finding an answer takes time linear in the text, so it may run anywhere. `equal` may run for ever and must run in a
killable worker (see isolated.py); this file knows no processes, deadlines, rows or stages. What math-verify forgives is
forgiven: units, percent signs and number bases are dropped (`50\\%` equals 50), and six decimals decide.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

Rule = Literal["boxed", "hashes", "phrase"]
RULES: tuple[Rule, ...] = ("boxed", "hashes", "phrase")
END_OF_THOUGHT = "</think>"

# ---------------------------------------------------------------------------------------------- extraction

_BOX = re.compile(
    r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\boxed\s+(?P<bare>[^\s{}$\\]+)|\\.|(?P<open>\{)|(?P<close>\})", re.DOTALL
)
_HASHES = re.compile(r"^[ \t]*####(?!#)(.*)$", re.MULTILINE)
_PHRASE = re.compile(r"\banswer[ \t]*(?:\bis\b|:)", re.IGNORECASE)
_INK = re.compile(r"\S")


def extract(text: str, rules: tuple[Rule, ...] = RULES, after: str = END_OF_THOUGHT) -> str | None:
    """The answer that `text` states, as written there, by the first of `rules` that finds one; None if none does.

    Where the tag `after` occurs, only what follows its last occurrence counts.
    """
    said = text.rpartition(after)[2] if after else text
    return next((found for rule in rules if (found := _FINDERS[rule](said))), None)


def reference_answer(text: str) -> str:
    """The short answer in a data set's reference field: after GSM8K's `####`, in the box of a worked MATH solution, or
    the text itself, stripped."""
    return _last_box(text) or _last_hashes(text) or text.strip()


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
    """The rest of the line after the last "answer is" or "answer:", without markup and the final full stop."""
    for mark in reversed(list(_PHRASE.finditer(text))):
        end = text.find("\n", mark.end())
        line = text[mark.end() : end if end >= 0 else len(text)]
        if rest := line.lstrip(" \t\r:*$").rstrip(" \t\r*$."):
            return rest
    return None


_FINDERS: dict[Rule, Callable[[str], str | None]] = {
    "boxed": _last_box,
    "hashes": _last_hashes,
    "phrase": _last_phrase,
}


# ---------------------------------------------------------------------------------------------- comparison

_SPACES = re.compile(r"\\[,;:!> ]|\\q?quad\b|~|\s+")
_DROPPED = re.compile(r"\\(?:left|right|displaystyle|limits)(?![A-Za-z])|\\[()\[\]$]|\$")
_GROUPED = re.compile(r"([-+]?\d{1,3})((?:(?:,|\{,\}| )\d{3})+)(\.\d+)?")
_MIXED = re.compile(r"(-?\d+) (\d+)/(\d+)")
_POWER_OF_TEN = re.compile(r"([-+]?\d+(?:\.\d+)?)[eE]\+?(-?\d+)")
_STYLED = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"[^\W\d_]{3,}(?:[ '-][^\W\d_]+)*")
_CHOICE = re.compile(r"\(?([A-Za-z])(?:\)[.:]?|[.:])(?: .*)?|([A-Za-z])", re.DOTALL)


def normalise(answer: str) -> str:
    """The answer without what never matters: dollar signs, spacing commands, `\\left`, the final full stop, the
    separators of thousands. A mixed number and `1e-3` become the LaTeX that math-verify reads rightly."""
    plain = " ".join(_SPACES.sub(" ", _DROPPED.sub("", answer)).split()).rstrip(" .")
    plain = plain.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac").replace("\u2212", "-")
    if grouped := _GROUPED.fullmatch(plain):
        return grouped[1] + re.sub(r"\D", "", grouped[2]) + (grouped[3] or "")
    plain = _MIXED.sub(r"\1\\frac{\2}{\3}", plain) if _MIXED.fullmatch(plain) else plain
    return _POWER_OF_TEN.sub(r"\1\\cdot 10^{\2}", plain) if _POWER_OF_TEN.fullmatch(plain) else plain


def words(normalised: str) -> str | None:
    """The answer in lower case if it is words (three letters and more) and not a formula; else None."""
    bare = _STYLED.sub(r"\1", normalised).strip()
    return bare.casefold() if _WORDS.fullmatch(bare) else None


def choice(normalised: str) -> str | None:
    """The letter of a multiple-choice answer, alone or before its text: B, (b), `\\text{(B)}`, `B) 5`; else None."""
    found = _CHOICE.fullmatch(_STYLED.sub(r"\1", normalised).strip())
    return (found[1] or found[2]).upper() if found else None


def same(reference: str, answer: str) -> bool:
    """Whether two answers are equal as text: cheap, never wrong, and enough for most rows."""
    a, b = normalise(reference), normalise(answer)
    return a == b or (words(a) is not None and words(a) == words(b))


def equal(reference: str, answer: str) -> str:
    """`correct`, `incorrect`, or `error: ...` when the reference cannot be read. MAY RUN FOR EVER: see isolated.py.

    Words and the letters A to J are compared as text, since math-verify takes "east" for the product e·a·s·t, which
    equals "seat". Everything else is a formula, with the reference first (the comparison is not symmetric).
    """
    if same(reference, answer):
        return "correct"
    gold, said = normalise(reference), normalise(answer)
    if words(gold) is not None:
        return "incorrect"
    if re.fullmatch(r"[A-J]", letter := choice(gold) or "") and choice(said) is not None:
        return "correct" if choice(said) == letter else "incorrect"
    from math_verify import verify

    parsed = _parse(gold)
    if not parsed:
        return "error: reference not parseable"
    equal = verify(parsed, _parse(said), strict=True, allow_set_relation_comp=True, timeout_seconds=None)
    return "correct" if equal else "incorrect"


def _parse(answer: str) -> list[Any]:
    """A formula as math-verify reads it in a box; empty if it cannot. No deadline inside: SIGALRM hides time-outs."""
    from math_verify import LatexExtractionConfig, parse

    only_box = (LatexExtractionConfig(boxed_match_priority=0),)
    return parse(rf"\boxed{{{answer}}}", only_box, fallback_mode="no_fallback", parsing_timeout=None)
