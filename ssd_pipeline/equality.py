"""Whether two answers say the same.

Two ways, one after the other. What is plain (words, letters of choices, numbers, ratios, number bases, units) is
decided here, exactly and at once; everything else is a formula and goes to math-verify, which forgives too much to be
asked first: it drops bases, rounds decimals, takes a set for a pair and `2x=5` for 5, and drops most letters that stand
last, as units (the h of `\\pi r^2 h`), which are therefore read here alone. A value that is right but not simplified is
right; a unit or a percent sign may be left out, and another one is wrong; a rounded value is right from six decimals.

`judged_at_once` costs linear time. `equal` and `plainly` may run for ever and must run in a killable worker (see
isolated.py); this file knows no processes, deadlines, rows or stages.
"""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal

from ssd_pipeline.notation import (
    SHORT,
    STYLED,
    Shape,
    as_tuple,
    choice,
    condition,
    named,
    normalise,
    shape,
    tight,
    without_letter,
    words,
)

Judged = Literal["correct", "incorrect"]
UNLIKE: tuple[set[Shape], ...] = ({"set", "tuple"}, {"set", "names"}, {"set", "range"}, {"list", "range"})
ROUNDED = 6  # so many decimals make a rounded value as good as the exact one

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
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9"}
_BASED = re.compile(rf"\(?([-+]?\d[\dA-Fa-f]*)\)? ?_ ?\{{?(?:\\text ?\{{)?(\d+|{'|'.join(_BASES)})\}}*")
_AREA = re.compile(r"\b(square|sq|cubic) (?:units?\b)?([a-z]*)")


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
    said = _AREA.sub(lambda of: of[2] and f"{of[2]}{2 + (of[1] == 'cubic')}", STYLED.sub(r"\1 ", unit).casefold())
    names = [p if len(p) < 3 else p.removesuffix("s") for p in re.findall(r"[A-Za-z]+|%|/|\d", said)]
    return core, " ".join(_UNIT_NAMES.get(name, name) for name in names if name != "unit")


def _same_value(reference: Fraction, answer: Fraction, written: str) -> bool:
    decimals = written.partition(".")[2]
    places = len(decimals) if decimals.isdigit() and answer else 0
    return reference == answer or (places >= ROUNDED and round(reference, places) == answer)


def alike(answer: str) -> str:
    """Equal for answers that say the same in plain words or numbers; for others, how they are written."""
    core, _ = quantity(normalise(answer))
    value = number(core)
    return words(core) or choice(core) or (core if value is None else str(value))


# ------------------------------------------------------------------------------------------------- comparison


def judged_at_once(reference: str, answer: str) -> Judged | None:
    """The verdict where exact rules give one; None where formulas must be compared."""
    gold, said = _both(reference, answer)
    equal = tight(gold) == tight(said)
    if not equal:
        decided = _by_words(gold, said)
        if decided is None:
            decided = _by_quantity(*quantity(gold), *quantity(said), dollars=(r"\$" in reference, r"\$" in answer))
        if decided is None:
            return None
        equal = decided
    return "correct" if equal else "incorrect"


def _both(reference: str, answer: str) -> tuple[str, str]:
    """Both normalised; where one alone has the letter of a choice, only what stands behind it."""
    gold, said = condition(normalise(reference)), condition(normalise(answer))
    if (choice(gold) is None) != (choice(said) is None):
        return without_letter(gold), without_letter(said)
    return gold, said


def _by_words(gold: str, said: str) -> bool | None:
    """Words and the letters A to J are text: math-verify takes "east" for the product e·a·s·t, which equals "seat"."""
    if words(gold) is not None:
        return words(gold) == words(said)
    if re.fullmatch(r"[A-J]", letter := choice(gold) or "") and choice(said) is not None:
        return choice(said) == letter
    return None


def _by_notation(gold: str, said: str) -> bool | None:
    """Ratios (or times) and numbers in another base are equal when they are written alike; 1:2 may be 1/2. An equation
    is no value unless it names one."""
    if (r"\ldots" in gold) != (r"\ldots" in said):  # what goes on for ever is not what stops
        return False
    short = [text for text in (gold, said) if len(text) <= SHORT]
    if any(notation.fullmatch(text) for notation in (_BASED, _RATIO) for text in short):
        return _terms(gold) == _terms(said)
    if ("=" in gold) != ("=" in said) and not named(gold if "=" in gold else said):
        return False
    return None


def _terms(text: str) -> list[str] | None:
    """The parts of a number in another base, of a ratio, or of a fraction, as they are written."""
    for notation in (_BASED, _RATIO, _FRACTION):
        if found := notation.fullmatch(text):
            said = [part.casefold() for part in found.groups() if part]
            return ["base" if notation is _BASED else "ratio", *(_BASES.get(part, part) for part in said)]
    return None


def _by_quantity(gold: str, gold_unit: str, said: str, said_unit: str, dollars: tuple[bool, bool]) -> bool | None:
    both = gold_unit and said_unit
    if gold_unit != said_unit and (both or _COUNTING.search(gold_unit or said_unit)):
        return False
    if (dollars[0] and said_unit in _OTHER_MONEY) or (dollars[1] and gold_unit in _OTHER_MONEY):
        return False
    if (noted := _by_notation(gold, said)) is not None:
        return noted
    mine, theirs = number(gold), number(said)
    if mine is not None and theirs is not None:
        one_percent = gold_unit != said_unit and "percent" in (gold_unit, said_unit)
        scale = Fraction(1, 100) if gold_unit == "percent" else 100
        return _same_value(mine, theirs, said) or (one_percent and _same_value(mine * scale, theirs, said))
    if {shape(gold), shape(said)} in UNLIKE:
        return False
    return True if tight(gold) == tight(said) else None


def equal(reference: str, answer: str) -> str:
    """`correct`, `incorrect`, `incorrect: answer not parseable`, or `error: reference not parseable`. MAY RUN FOR EVER.

    What is not decided at once is compared by math-verify with the reference first (it is not symmetric), each answer
    in a box of its own, because math-verify misreads bare LaTeX (`2\\sqrt{3}` as 2).
    """
    if at_once := judged_at_once(reference, answer):
        return at_once
    from math_verify import verify

    texts = [quantity(text)[0] for text in _both(reference, answer)]
    shapes = {shape(text) for text in texts}
    if "tuple" in shapes or ("names" in shapes and len(shapes) > 1):
        texts = [as_tuple(text) for text in texts]
    gold, said = map(_parse, texts)
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
