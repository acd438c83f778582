"""A made-up world of small word problems, with several ways of writing down a solution.

Every problem is a running sum (`Leo had 82 coins, sold 63, got 65. How many coins now?`) and every
solution is one line of text for one or two operations, then `Answer: 84`. All styles are equally right; they
differ in how much must be worked out between two tokens, so a model that was taught too little
can carry out the small lines and not the leaps. That difference is all this world is made for.

Problems fall into parts by a hash of their numbers, so what a model was pretrained on, what recipes
train on and what they are tested on share no sum, whatever names and things they are told with.

This file does not know tokens, models, or who learns from whom; it draws nothing but from the
`random.Random` that it is given.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random

LOWEST, HIGHEST = 10, 99  # every value on the way: two digits, so that no style gains from a short number
OPERANDS = range(3, 90)
KEEP_STYLE = 0.4  # people who begin in one style tend to stay in it

NAMES = ("Leo", "Ann", "Tom", "Mia", "Sam", "Eva", "Max", "Ida")
THINGS = ("coins", "cards", "books", "eggs", "pens", "cups", "nuts", "pins")
GAINS = ("got", "found", "bought", "won")
LOSSES = ("sold", "lost", "gave", "used")

Mix = Mapping[str, float]
LENGTH = {"fine": 1, "direct": 1, "detour": 1, "leap2": 2, "leap3": 3}  # operations in one line of a style

TEACHER: dict[str, Mix] = {
    "L": {"fine": 0.2, "direct": 0.2, "leap2": 0.4, "detour": 0.2},  # the usual line is a leap
    "B": {"fine": 0.5, "direct": 0.15, "leap2": 0.15, "detour": 0.2},  # the usual line is one anybody can follow
}
STUDENT: Mix = {"fine": 0.3, "direct": 0.2, "leap2": 0.35, "leap3": 0.05, "detour": 0.1}
DRILL: Mix = {"direct": 0.3, "leap2": 0.7}

PARTS = ("test", "train") + ("pretrain",) * 14


@dataclass(frozen=True)
class Problem:
    """A statement and the sum behind it: a start and signed operands."""

    statement: str
    start: int
    operands: tuple[int, ...]

    @property
    def answer(self) -> int:
        return self.start + sum(self.operands)

    @property
    def part(self) -> str:
        """Which part of the world the sum belongs to, by content alone."""
        digest = hashlib.sha256(repr((self.start, self.operands)).encode()).digest()
        return PARTS[digest[0] % len(PARTS)]


def draw_problem(rng: Random, operations: tuple[int, int], part: str) -> Problem:
    """A problem of that part of the world with a number of operations in the (closed) range."""
    while True:
        problem = _any_problem(rng, rng.randint(*operations))
        if problem.part == part:
            return problem


def draw_distinct(rng: Random, operations: tuple[int, int], part: str, count: int) -> list[Problem]:
    """`count` problems no two of which share a sum."""
    seen: dict[tuple[int, tuple[int, ...]], Problem] = {}
    while len(seen) < count:
        problem = draw_problem(rng, operations, part)
        seen.setdefault((problem.start, problem.operands), problem)
    return list(seen.values())


def _any_problem(rng: Random, operations: int) -> Problem:
    start = value = rng.randint(LOWEST, HIGHEST)
    operands: list[int] = []
    for _ in range(operations):
        used = {abs(operand) for operand in operands}
        free = [sign * size for size in OPERANDS if size not in used for sign in (1, -1)]
        operands.append(rng.choice([operand for operand in free if LOWEST <= value + operand <= HIGHEST]))
        value += operands[-1]
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    told = ", ".join(f"{rng.choice(GAINS if operand > 0 else LOSSES)} {abs(operand)}" for operand in operands)
    return Problem(f"{name} had {start} {thing}, {told}. How many {thing} now?", start, tuple(operands))


def draw_solution(rng: Random, problem: Problem, mix: Mix) -> str:
    """A right solution whose lines are drawn from the styles of the mix."""
    lines, value, done, style = [], problem.start, 0, ""
    while done < len(problem.operands):
        style = _next_style(rng, style, mix, left=len(problem.operands) - done)
        operands = problem.operands[done : done + LENGTH[style]]
        lines.append(write_line(rng, style, value, operands))
        value += sum(operands)
        done += len(operands)
    return "\n".join([*lines, f"Answer: {value}"])


def _next_style(rng: Random, last: str, mix: Mix, left: int) -> str:
    possible = [style for style in mix if LENGTH[style] <= left]
    if last in possible and rng.random() < KEEP_STYLE:
        return last
    return rng.choices(possible, [mix[style] for style in possible])[0]


def write_line(rng: Random, style: str, value: int, operands: tuple[int, ...]) -> str:
    """One line in a style: `operands` applied to `value`."""
    result = value + sum(operands)
    expression = f"{value}" + "".join(f"{operand:+d}" for operand in operands)
    if style == "fine":
        return f"{expression}: {_digit_by_digit(value, operands[0])}, so {result}."
    if style == "detour":
        wrong = rng.choice([result + off for off in (-10, -1, 1, 10) if LOWEST <= result + off <= HIGHEST])
        return f"{expression} is {wrong}? No, wait. " + write_line(rng, rng.choice(("fine", "direct")), value, operands)
    return f"{expression}={result}."


def _digit_by_digit(value: int, operand: int) -> str:
    """`82-63` as `12-3=9, 7-6=1`: the ones with a borrowed ten, then the tens without it."""
    tens, ones = divmod(value, 10)
    other_tens, other_ones = divmod(abs(operand), 10)
    if operand > 0:
        low = ones + other_ones
        carry = "+1" if low > 9 else ""
        return f"{ones}+{other_ones}={low}, {tens}+{other_tens}{carry}={tens + other_tens + (low > 9)}"
    if ones < other_ones:
        ones, tens = ones + 10, tens - 1
    return f"{ones}-{other_ones}={ones - other_ones}, {tens}-{other_tens}={tens - other_tens}"


# What a sampled text says, for measuring: models write lines that no generator would.
_LINE = re.compile(r"(?:\d+[+-]\d+ is \d+\? No, wait\. )?(?P<sum>\d+(?:[+-]\d+)+)(?:=|: .*, so )(?P<result>\d+)\.")


def style_of(line: str) -> str:
    """The style of a line, or `other` when it is none of ours."""
    found = _LINE.fullmatch(line)
    if not found:
        return "other"
    if " is " in line:
        return "detour"
    if ", so " in line:
        return "fine"
    length = len(re.findall(r"[+-]", found["sum"]))
    return "direct" if length == 1 else f"leap{length}"


def is_right(line: str) -> bool:
    """Whether the result that the line ends with is the value of the sum that it states."""
    found = _LINE.fullmatch(line)
    return bool(found) and _value(found["sum"]) == int(found["result"])


def _value(expression: str) -> int:
    return sum(int(number) for number in re.findall(r"[+-]?\d+", expression))


def solves(text: str, answer: int) -> bool:
    """Whether a text ends with the right answer line."""
    return text.rstrip().split("\n")[-1] == f"Answer: {answer}"


def lines_by_style(texts: Iterable[str]) -> dict[str, list[str]]:
    """All lines but the answers', by style."""
    found: dict[str, list[str]] = {}
    for text in texts:
        for line in text.split("\n"):
            if line and not line.startswith("Answer:"):
                found.setdefault(style_of(line), []).append(line)
    return found
