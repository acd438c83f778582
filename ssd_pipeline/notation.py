"""How answers are written: one way for what never matters, and the parts and names of what is written.

Models, data sets and people write one answer in many ways: `\\dfrac12`, `½`, `3√5`, `\\{x | x>1\\}`. What is rewritten
here is never a matter of value, so that everything above can compare texts. All of it costs linear time. This file does
not know what equals what (see equality.py).
"""

from __future__ import annotations

import re
from typing import Literal

# ------------------------------------------------------------------------------------------ one way of writing

SHORT = 200  # characters; what is longer is no number, unit, ratio, name or choice
LONG = 5_000  # characters; what is longer is no answer that anybody would write in two ways
STYLED = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_SPACES = re.compile(r"(?<!\\)\\[,;:> ]|\\q?quad\b|~|\s+")
_DROPPED = re.compile(r"\\(?:left|right|displaystyle|limits)(?![A-Za-z])|(?<!\\)\\!\s*|(?<!\\)\\[()\[\]$]|\$")
_DOTS = re.compile(r"\.\.\.+|\\[cl]?dots(?![A-Za-z])")
_NOON = re.compile(r"\b([ap])\.m\b\.?", re.IGNORECASE)
_ROOT = re.compile(r"(?<![\\A-Za-z])(sq|cb)rt ?(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+(?:\.\d+)?|[A-Za-z]))")
_PI = re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])")
_UNIT_IN_BRACKETS = re.compile(r"\((\\(?:text|mathrm|mbox) ?\{[^{}]*\}[^()]*)\)\Z")
_SPOKEN_LARGE = re.compile(r"\\(?:text|mathrm|mbox)\s*\{ ?(dozen|hundred|thousand|(?:m|b|tr)illion)\b([^{}]*)\}")
_GROUPED = re.compile(r"([-+]?\d{1,3})((?:(?:,|\{,\}| )\d{3})+)(\.\d+)?")
_NO_NUMBER = re.compile(r"(?:there (?:is|are) )?no solutions?(?: exists?)?|none", re.IGNORECASE)
_EVERY_NUMBER = re.compile(r"all reals?(?: numbers?)?", re.IGNORECASE)
_SAME = {r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\varnothing": r"\emptyset", r"\langle": "(", r"\rangle": ")"}

GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi chi psi omega"
_SIGNS = str.maketrans(
    dict(zip("αβγδεζηθικλμνξπρστφχψω", (rf"\{name} " for name in GREEK.split()), strict=True))
    | {chr(0xFEE0 + plain): chr(plain) for plain in range(0x21, 0x7F)}  # of full width
    | {"\u2212": "-", "°": r"^\circ", "∞": r"\infty ", "·": r"\cdot ", "×": r"\times ", "±": r"\pm ", "∠": r"\angle "}
    | {"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset "}
    | {"√": "sqrt", "∛": "cbrt", "…": r"\ldots ", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}"}
)
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "₀₁₂₃₄₅₆₇₈₉"
_ON_LINE = str.maketrans(_RAISED + _LOWERED, "0123456789+-n0123456789")
_FIRST_DASH = re.compile(r"\A\s*[–—]")


def normalise(answer: str) -> str:
    """The answer without what never matters: dollar signs, spacing commands, `\\left`, the final full stop, the
    separators of thousands, unicode for LaTeX."""
    plain = _DROPPED.sub("", answer if answer.isascii() else _in_latex(answer))
    plain = " ".join(_SPACES.sub(" ", plain).split())
    if len(plain) > LONG:
        return plain.rstrip(" .")
    plain = _NOON.sub(r"\1m", _DOTS.sub(r"\\ldots ", plain)).rstrip(" .")
    for other, usual in _SAME.items():
        plain = plain.replace(other, usual)
    if len(plain) <= SHORT and _NO_NUMBER.fullmatch(spoken := STYLED.sub(r"\1", plain).strip()):
        return r"\emptyset"
    if len(plain) <= SHORT and _EVERY_NUMBER.fullmatch(spoken):
        return r"\mathbb{R}"
    plain = _UNIT_IN_BRACKETS.sub(r" \1", _PI.sub(r"\\pi ", _ROOT.sub(_root, plain)))
    plain = " ".join(_SPOKEN_LARGE.sub(r" \1 \\text{\2}", plain).removesuffix(r"\text{}").split())
    if len(plain) <= SHORT and (grouped := _GROUPED.fullmatch(plain)):
        return grouped[1] + re.sub(r"\D", "", grouped[2]) + (grouped[3] or "")
    return plain


def _in_latex(answer: str) -> str:
    """Unicode's signs as LaTeX has them; a dash before everything is a minus."""
    answer = re.sub(f"[{_RAISED}]+", lambda run: f"^{{{run[0].translate(_ON_LINE)}}}", answer)
    answer = re.sub(f"[{_LOWERED}]+", lambda run: f"_{{{run[0].translate(_ON_LINE)}}}", answer)
    return _FIRST_DASH.sub("-", answer).translate(_SIGNS)


def _root(found: re.Match[str]) -> str:
    of = found[2] or found[3] or found[4] or ""
    return rf"\sqrt[3]{{{of}}}" if found[1] == "cb" else rf"\sqrt{{{of}}}"


_IDLE_SPACE = re.compile(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])")


def tight(normalised: str) -> str:
    """The answer without styles and without blanks that part nothing: equal for two that are written alike."""
    return normalised if len(normalised) > LONG else _IDLE_SPACE.sub("", STYLED.sub(r"\1", normalised).strip())


# ------------------------------------------------------------------------------------------- words and choices

_WORDS = re.compile(r"[^\W\d_]{3,}(?:[ '-][^\W\d_]+)*|[^\W\d_]{2}(?:[ '-][^\W\d_]+)+")
_CHOICE = re.compile(r"\(?([A-Za-z])(?:\)[.:]?|[.:])(?: (.*))?|([A-Za-z])", re.DOTALL)
_OTHERS = re.compile(r"(?:^| )\(?([A-J])\)")


def words(normalised: str) -> str | None:
    """The answer in lower case if it is one word of three letters or more, or several, and no formula; else None."""
    bare = STYLED.sub(r"\1", normalised).strip()
    return bare.casefold().replace("solutions", "solution") if _WORDS.fullmatch(bare) else None


def choice(normalised: str) -> str | None:
    """The letter of a multiple-choice answer, alone or before its text: B, (b), `\\text{(B)}`, `B) 5`; else None.

    Of `(A) or (B)` both, for who names two has chosen none.
    """
    found = _chosen(normalised)
    if not found:
        return None
    letter = (found[1] or found[3]).upper()
    return letter + "".join(other for other in _OTHERS.findall(found[2] or "") if other != letter)


def without_letter(normalised: str) -> str:
    """What stands behind the letter of a choice (`(E) 32`); the answer itself where nothing does, or other letters."""
    found = _chosen(normalised)
    return found[2].strip() if found and found[2] and len(choice(normalised) or "") == 1 else normalised


def _chosen(normalised: str) -> re.Match[str] | None:
    return _CHOICE.fullmatch(STYLED.sub(r"\1", normalised).strip())


# --------------------------------------------------------------------------------------------- parts and names

BETWEEN = r",|;|\\text ?\{ ?(?:and|or) ?\}| and | or "
EQUALS = r"(?<![<>!])="
_HAND = rf"\\(?:{'|'.join(GREEK.split())}|ell|Delta|Gamma|Omega|Phi|Theta|Sigma|Lambda)(?![A-Za-z])"
_INDEX = r"'*(?:_(?:\w|\{[^{}]*\}))?'*"
_ARGUMENT = r"(?:\((?:[^()]|\([^()]*\))*\)|\[[^\[\]]*\])"
_MARK = r"\\(?:angle|triangle|overline|overrightarrow|widehat|hat|vec|bar|sin|cos|tan|cot|max|min|det)(?![A-Za-z])"
_LETTERS = rf"[fghpqA-Z]{_INDEX}{_ARGUMENT}|(?:[A-Z]+|[a-z]|{_HAND}){_INDEX}|[A-Za-z][a-z]{{3,}}[A-Za-z ]*"
_LINES = r"[|\[][A-Z]+[|\]]|\\frac\{[A-Z]{2,}\}\{[A-Z]{2,}\}|[A-Z]{2,}[:/][A-Z]{2,}"
_DONE = r"\\(?:lim|int|sum|prod|gcd|lcm)(?![A-Za-z]).*"
_NAME = re.compile(rf"m?(?:{_MARK} ?\{{?)*(?:{_LETTERS})\}}*{_INDEX}|{_LINES}|\([A-Za-z](?:,[A-Za-z])+\)|{_DONE}")
_VALUE = re.compile(r"(?:\\(?:frac|d?binom|sqrt|pi|cdot|times|div|pm)(?![A-Za-z])|[^A-Za-z\\])+")


def parts(text: str, mark: str) -> list[str]:
    """The text cut wherever `mark` (a pattern) stands in no brackets; a very long one stays whole."""
    if len(text) > LONG:
        return [text]
    depth, start, found = 0, 0, []
    for token in re.finditer(rf"(?P<mark>{mark})|(?P<open>\\?[(\[{{])|\\?[)\]}}]", text):
        if token["mark"] is None:
            depth += 1 if token["open"] else -1
        elif depth == 0:
            found.append(text[start : token.start()].strip())
            start = token.end()
    return [*found, text[start:].strip()]


def named(text: str) -> bool:
    """Whether every equation of a list says what a name, or a sum of numbers, is: `x=5` and `f(2)=5`, but not `2x=5` or
    `x+y=5`, which leave it to the reader to find x."""
    heads = [tight(head) for one in parts(text, BETWEEN) for head in parts(one, EQUALS)[:-1]]
    return all(len(head) <= SHORT and (_NAME.fullmatch(head) or _VALUE.fullmatch(head)) for head in heads)


Shape = Literal["set", "tuple", "list", "names", "range", ""]
_LESS = re.compile(r"[<>]|\\[lg](?:e(?:q|qslant|slant)?|t)(?![A-Za-z])")
_NUMBERED = re.compile(r"_(?:\d|\{\d+\})\Z")


def shape(text: str) -> Shape:
    """What holds several values: a set in braces, a tuple (or interval) in round brackets, a bare list, one that names
    each value (`x=1, y=2`; not `x=1 or x=2`, nor x_1 and x_2), or inequalities."""
    if _LESS.search(text):
        return "range"
    several = [parts(one, EQUALS) for one in parts(text, BETWEEN)]
    if len(several) > 1:
        names = {_NUMBERED.sub("", one[0]) for one in several if len(one) > 1}
        return "names" if len(names) == len(several) else "list"
    value = several[0][-1]
    if value.endswith("}") and (value.startswith(r"\{") or (value.startswith("{") and "," in value)):
        return "set"
    return "tuple" if value.startswith("(") and value.endswith(")") and "," in value else ""


_VECTOR = re.compile(r"\\begin\{([pb]?matrix)\}(.*)\\end\{\1\}", re.DOTALL)
_BUILT = re.compile(r"\\\{ ?[A-Za-z] ?(?:\||\\mid|:) ?(.*)\\\}", re.DOTALL)


def as_tuple(text: str) -> str:
    """A bare list, or a matrix of one row or column, as a tuple in its order; what is neither stays."""
    if found := _VECTOR.fullmatch(text):
        rows = [row.split("&") for row in found[2].split(r"\\")]
        flat = [cell.strip() for row in rows for cell in row]
        return f"({','.join(flat)})" if min(len(rows), max(map(len, rows))) == 1 else text
    if shape(text) in ("list", "names"):
        return f"({','.join(parts(one, EQUALS)[-1] for one in parts(text, BETWEEN))})"
    return text


def condition(text: str) -> str:
    """What holds of the numbers of a set that is written as `\\{x | x>1\\}`; other texts stay."""
    found = _BUILT.fullmatch(text)
    return found[1].strip() if found else text
