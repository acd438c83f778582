"""Whether two answers say the same.

Two ways, one after the other. What is plain (words, letters of choices, numbers, ratios, number bases, units) is
decided here, exactly and at once; everything else is a formula and goes to math-verify, which forgives too much to be
asked first: it drops bases, rounds decimals, takes a set for a pair, and drops most letters that stand last, as units
(the h of `\\pi r^2 h`), which are therefore read here alone. A value that is right but not simplified is right; a unit
or a percent sign may be left out, and another one is wrong; a rounded value is right from six decimals on.

`judged_at_once` costs linear time. `equal` and `plainly` may run for ever and must run in a killable worker (see
isolated.py); this file knows no processes, deadlines, rows or stages.
"""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal

Judged = Literal["correct", "incorrect"]
SHORT = 200  # characters; what is longer is no number, unit, ratio or choice
ROUNDED = 6  # so many decimals make a rounded value as good as the exact one

# ------------------------------------------------------------------------------------------ one way of writing

_SPACES = re.compile(r"(?<!\\)\\[,;:> ]|\\q?quad\b|~|\s+")
_DROPPED = re.compile(r"\\(?:left|right|displaystyle|limits)(?![A-Za-z])|(?<!\\)\\!|(?<!\\)\\[()\[\]$]|\$")
_GROUPED = re.compile(r"([-+]?\d{1,3})((?:(?:,|\{,\}| )\d{3})+)(\.\d+)?")
_STYLED = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"[^\W\d_]{3,}(?:[ '-][^\W\d_]+)*|[^\W\d_]{2}(?:[ '-][^\W\d_]+)+")
_CHOICE = re.compile(r"\(?([A-Za-z])(?:\)[.:]?|[.:])(?: (.*))?|([A-Za-z])", re.DOTALL)
_OTHERS = re.compile(r"(?:^| )\(?([A-J])\)")


def normalise(answer: str) -> str:
    """The answer without what never matters: dollar signs, spacing commands, `\\left`, the final full stop, the
    separators of thousands."""
    plain = " ".join(_SPACES.sub(" ", _DROPPED.sub("", answer)).split()).rstrip(" .")
    plain = plain.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac")
    plain = plain.replace("\u2212", "-").replace("°", r"^\circ")
    plain = " ".join(_LARGE_TEXT.sub(r" \1 \\text{\2}", plain).removesuffix(r"\text{}").split())
    if len(plain) <= SHORT and (grouped := _GROUPED.fullmatch(plain)):
        return grouped[1] + re.sub(r"\D", "", grouped[2]) + (grouped[3] or "")
    return plain


def words(normalised: str) -> str | None:
    """The answer in lower case if it is one word of three letters or more, or several, and no formula; else None."""
    bare = _STYLED.sub(r"\1", normalised).strip()
    return bare.casefold() if _WORDS.fullmatch(bare) else None


def choice(normalised: str) -> str | None:
    """The letter of a multiple-choice answer, alone or before its text: B, (b), `\\text{(B)}`, `B) 5`; else None.

    Of `(A) or (B)` both, for who names two has chosen none.
    """
    found = _CHOICE.fullmatch(_STYLED.sub(r"\1", normalised).strip())
    if not found:
        return None
    letter = (found[1] or found[3]).upper()
    return letter + "".join(other for other in _OTHERS.findall(found[2] or "") if other != letter)


# ------------------------------------------------------------------------------------------------- quantities

_UNIT = re.compile(
    r"(?:\\(?:text|textrm|mathrm|mbox|operatorname)\s*\{[^{}]*\}|(?:\^\s*\{?\s*)?\\circ\s*\}?(?: ?[CF])?|\\?%"
    r"|(?<=[\d ])(?:[cmk]m|k?g|mg|ml|ft|hr|min|sec|mph|oz|lbs?|days?|cups?|per|[A-Za-z]{4,})(?![A-Za-z])|(?<= )[ap]m)"
    r"(?:\^\s*\{?-?\d\}?)?[ /]*\Z"
)
_LETTER = re.compile(r"(?<=[\d ])[kc]?[mgshlL](?: ?/ ?(?:s|h|min))?\Z")  # a unit only after a number: else a variable
_UNIT_NAMES = {
    **dict.fromkeys(("meter", "metre"), "m"),
    **dict.fromkeys(("centimeter", "centimetre"), "cm"),
    **dict.fromkeys(("kilometer", "kilometre"), "km"),
    **dict.fromkeys(("hour", "hr"), "h"),
    **dict.fromkeys(("second", "sec"), "s"),
    **dict.fromkeys(("circ", "degree"), "degree"),
    **dict.fromkeys(("foot", "feet"), "ft"),
    **{"minute": "min", "gram": "g", "kilogram": "kg", "inche": "inch", "mile": "mi", "pound": "lb", "%": "percent"},
    **{"per": "/", "mph": "mi / h", "liter": "l", "litre": "l"},
}
_LARGE = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_LARGE_TEXT = re.compile(r"\\(?:text|textrm|mathrm|mbox)\s*\{ ?(dozen|hundred|thousand|(?:m|b|tr)illion)\b([^{}]*)\}")
_COUNTING = re.compile(
    r"\b(?:squared|cubed|factorial|half|halve|third|(?:four|fif|six|eigh|ten|hundred|thousand)th|or \w+)\b"
)
_OTHER_MONEY = {"cent", "euro", "yen", "rupee"}
_NUMBER = re.compile(
    r"(?P<sign>[-+]?)(?:(?P<whole>\d+)(?: (?=\d+/)|(?=\\frac)))?"
    r"(?:(?P<over>-?\d+) ?/ ?(?P<under>\d+)|\\frac ?(?:\{(?P<up>-?\d+)\}|(?P<u>\d)) ?(?:\{(?P<down>\d+)\}|(?P<d>\d)))"
    r"|(?P<decimal>[-+]?(?:\d+\.?\d*|\.\d+))"
    r"(?:(?:[eE]| ?\\(?:times|cdot) ?10 ?\^ ?(?P<brace>\{)?)(?P<power>[-+]?\d{1,3})(?(brace)\}))?"
    r"(?: (?P<large>dozen|hundred|thousand|(?:m|b|tr)illion))?"
    r"|(?P<before>[-+]?\d*\.\d*)\\(?:overline|bar) ?\{?(?P<period>\d+)\}?"
)
_RATIO = re.compile(r"(\d+) ?: ?(\d+)(?: ?: ?(\d+))?")
_FRACTION = re.compile(r"(\d+) ?/ ?(\d+)|\\frac ?\{?(\d+)\}? ?\{?(\d+)\}?")
_BASED = re.compile(r"([-+]?\d[\dA-Fa-f]*) ?_ ?\{?(\d+)\}?")


def number(normalised: str) -> Fraction | None:
    """The exact value of a plain number: 72, -0.5, 1e-3, 7/2, `\\frac{7}{2}`, 3 1/2, 2 million, `0.\\overline{3}`."""
    found = _NUMBER.fullmatch(normalised) if len(normalised) <= SHORT else None
    if not found:
        return None
    if found["decimal"]:
        value = Fraction(found["decimal"]) * Fraction(10) ** int(found["power"] or 0)
        return value * _LARGE.get(found["large"], 1)
    if found["period"]:
        places, period = len(found["before"].partition(".")[2]), found["period"]
        nines = Fraction(int(period), 10**places * (10 ** len(period) - 1))
        before = Fraction(found["before"].rstrip(".") or 0) if found["before"].strip("+-.") else Fraction(0)
        return before - nines if found["before"].startswith("-") else before + nines
    under = int(found["under"] or found["down"] or found["d"])
    if not under:
        return None
    value = int(found["whole"] or 0) + Fraction(int(found["over"] or found["up"] or found["u"]), under)
    return -value if found["sign"] == "-" else value


def quantity(normalised: str) -> tuple[str, str]:
    """An answer as what it says and its unit, by one name for each: (`5`, `cm`); the unit is empty without one."""
    core, unit = normalised, ""
    while len(core) <= SHORT and number(core) is None and (found := _UNIT.search(core) or _LETTER.search(core)):
        before = core[: found.start()].rstrip()
        if found.re is _LETTER and number(before) is None:
            break
        core, unit = before, f"{core[found.start() :]} {unit}"
    if not core.endswith((*"0123456789)]}!", r"\pi")) and number(core) is None:
        return normalised, ""
    parts = re.findall(r"[A-Za-z]+|%|/|\d", _STYLED.sub(r"\1 ", unit).casefold())
    names = [p if len(p) < 3 else p.removesuffix("s") for p in parts]
    return core, " ".join(_UNIT_NAMES.get(name, name) for name in names)


def _same_value(reference: Fraction, answer: Fraction, written: str) -> bool:
    decimals = written.partition(".")[2]
    places = len(decimals) if decimals.isdigit() and answer else 0
    return reference == answer or (places >= ROUNDED and round(reference, places) == answer)


def _shape(core: str) -> str:
    if core.startswith(r"\{") and core.endswith(r"\}"):
        return "set"
    return "tuple" if core.startswith("(") and core.endswith(")") and "," in core else ""


def alike(answer: str) -> str:
    """Equal for answers that say the same in plain words or numbers; for others, how they are written."""
    core, _ = quantity(normalise(answer))
    value = number(core)
    return words(core) or choice(core) or (core if value is None else str(value))


# ------------------------------------------------------------------------------------------------- comparison


def judged_at_once(reference: str, answer: str) -> Judged | None:
    """The verdict where exact rules give one; None where formulas must be compared."""
    gold, said = normalise(reference), normalise(answer)
    equal = gold == said
    if not equal:
        decided = _by_words(gold, said)
        if decided is None:
            decided = _by_notation(gold, said)
        if decided is None:
            decided = _by_quantity(*quantity(gold), *quantity(said), dollars=(r"\$" in reference, r"\$" in answer))
        if decided is None:
            return None
        equal = decided
    return "correct" if equal else "incorrect"


def _by_words(gold: str, said: str) -> bool | None:
    """Words and the letters A to J are text: math-verify takes "east" for the product e·a·s·t, which equals "seat"."""
    if words(gold) is not None:
        return words(gold) == words(said)
    if re.fullmatch(r"[A-J]", letter := choice(gold) or "") and choice(said) is not None:
        return choice(said) == letter
    return None


def _by_notation(gold: str, said: str) -> bool | None:
    """Ratios (or times) and numbers in another base are equal when they are written alike; 1:2 may be 1/2."""
    if max(len(gold), len(said)) > SHORT:
        return None
    if gold.endswith("dots") != said.endswith("dots"):  # what goes on for ever is not what stops
        return False
    if any(notation.fullmatch(text) for notation in (_BASED, _RATIO) for text in (gold, said)):
        return _terms(gold) == _terms(said)
    return None


def _terms(text: str) -> list[str] | None:
    """The parts of a number in another base, of a ratio, or of a fraction, as they are written."""
    for notation in (_BASED, _RATIO, _FRACTION):
        if found := notation.fullmatch(text):
            return ["base" if notation is _BASED else "ratio", *(part.casefold() for part in found.groups() if part)]
    return None


def _by_quantity(gold: str, gold_unit: str, said: str, said_unit: str, dollars: tuple[bool, bool]) -> bool | None:
    both = gold_unit and said_unit
    if gold_unit != said_unit and (both or _COUNTING.search(gold_unit or said_unit)):
        return False
    if (dollars[0] and said_unit in _OTHER_MONEY) or (dollars[1] and gold_unit in _OTHER_MONEY):
        return False
    mine, theirs = number(gold), number(said)
    if mine is not None and theirs is not None:
        one_percent = gold_unit != said_unit and "percent" in (gold_unit, said_unit)
        scale = Fraction(1, 100) if gold_unit == "percent" else 100
        return _same_value(mine, theirs, said) or (one_percent and _same_value(mine * scale, theirs, said))
    if {_shape(gold), _shape(said)} == {"set", "tuple"}:
        return False
    return True if gold == said else None


def equal(reference: str, answer: str) -> str:
    """`correct`, `incorrect`, `incorrect: answer not parseable`, or `error: reference not parseable`. MAY RUN FOR EVER.

    What is not decided at once is compared by math-verify with the reference first (it is not symmetric), each answer
    in a box of its own, because math-verify misreads bare LaTeX (`2\\sqrt{3}` as 2).
    """
    if at_once := judged_at_once(reference, answer):
        return at_once
    from math_verify import verify

    gold, said = (_parse(quantity(normalise(text))[0]) for text in (reference, answer))
    if not gold:
        return "error: reference not parseable"
    if not said:
        return "incorrect: answer not parseable"
    same = verify(gold, said, strict=True, allow_set_relation_comp=True, timeout_seconds=None)
    return "correct" if same else "incorrect"


def plainly(reference: str, text: str) -> str:
    """What math-verify says when it is called on a whole text as its own documentation does: `correct`, `incorrect` or
    `no_answer`. It takes the last number where nothing is boxed. MAY RUN FOR EVER."""
    from math_verify import parse, verify

    said = parse(text, parsing_timeout=None)
    if not said:
        return "no_answer"
    gold = parse(f"${reference}$", parsing_timeout=None)
    return "correct" if verify(gold, said, timeout_seconds=None) else "incorrect"


def _parse(answer: str) -> list[Any]:
    """A formula as math-verify reads it in a box; empty if it cannot. No deadline inside: SIGALRM hides time-outs."""
    from math_verify import LatexExtractionConfig, parse

    usual = LatexExtractionConfig()
    without_units = replace(usual.normalization_config, units=False)
    only_box = (replace(usual, boxed_match_priority=0, normalization_config=without_units),)
    return parse(rf"\boxed{{{answer}}}", only_box, fallback_mode="no_fallback", parsing_timeout=None)
