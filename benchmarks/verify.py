"""What checking answers costs and is worth, against math-verify called one by one in the main process.

    python benchmarks/verify.py [PAIRS]

Half of the pairs are whole numbers as in GSM8K, half are formulas. One run on one machine: the plain way parses and
verifies each pair in turn; ours decides what it can at once and asks killable workers for the rest; ours with the
audit, as the stage runs it, has math-verify's own verdict of every text too. Then the same with seven hostile answers
in front: what the others lose. Last, the table of 250 pairs with a careful person's verdicts
(tests/fakes/answer_pairs.py): how many does each way judge rightly?
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from fakes.answer_pairs import PAIRS
from fakes.measuring import RowContext
from math_verify import parse, verify

from ssd_pipeline.answers import extract, reference_answer
from ssd_pipeline.equality import equal, plainly
from ssd_pipeline.isolated import Workers
from ssd_pipeline.stages.verify_answers import VerifyParams, check
from ssd_pipeline.stages.verify_answers import verify as verify_row

HOSTILE = [
    *("9^{9^{9^9}}", "2^{2^{40}}", "(10^9)!", r"\frac{30000000!}{29999999!}"),
    *("+".join("1" * 200_000), "{" * 5_000 + "1" + "}" * 5_000, "__import__('os').system('true')"),
]
PARAMS = VerifyParams(timeout_s=5)


def pairs(count: int) -> Iterator[tuple[str, str]]:
    for i in range(count):
        if i % 2:
            yield str(i), rf"So there are \boxed{{{i + i % 3 // 2}}}."
        else:
            yield rf"{i}\sqrt{{2}}", rf"It is \boxed{{\sqrt{{{2 * i * i}}}}}."


def ours(given: list[tuple[str, str]], audit: bool, hostile: bool) -> float:
    """Seconds until all of `given` are judged, by a pool that has already started."""
    pool = Workers()

    async def judged() -> float:
        async def one(reference: str, text: str) -> None:
            if audit:
                await verify_row({"answer": reference, "solution": text}, PARAMS, RowContext(pool))
            else:
                await check(reference, text, PARAMS, RowContext(pool))

        await asyncio.gather(*(one(r"\sqrt{8}", r"\boxed{2\sqrt{2}}") for _ in range(8)))
        began = time.perf_counter()
        slow = [asyncio.create_task(one("5", rf"\boxed{{{text}}}")) for text in HOSTILE] if hostile else []
        await asyncio.sleep(0)
        await asyncio.gather(*(one(*pair) for pair in given))
        took = time.perf_counter() - began
        await asyncio.gather(*slow)
        return took

    try:
        return asyncio.run(judged())
    finally:
        pool.close()


def plain(given: list[tuple[str, str]]) -> float:
    """Seconds of the plain way."""
    verify(parse("$1$"), parse("$1$"))
    began = time.perf_counter()
    for reference, text in given:
        verify(parse(f"${reference}$"), parse(text))
    return time.perf_counter() - began


def judged_rightly() -> None:
    ways = {"ours": ours_of, "math-verify called plainly": plainly}
    for name, way in ways.items():
        said = [way(reference, text) for reference, text, _ in PAIRS]
        right = sum(s == v for s, (*_, v) in zip(said, PAIRS, strict=True))
        accepted = sum(s == "correct" != v for s, (*_, v) in zip(said, PAIRS, strict=True))
        print(f"{name:28s}{right:4d} of {len(PAIRS)} judged rightly, {accepted} wrong answers accepted")


def ours_of(reference: str, text: str) -> str:
    found = extract(text)
    return "no_answer" if found is None else equal(reference_answer(reference), found).partition(":")[0]


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # math-verify warns of its own time-outs
    given = list(pairs(int(sys.argv[1]) if len(sys.argv) > 1 else 4_000))
    slow = plain(given)
    print(f"{len(given):,} pairs, half whole numbers, half formulas")
    print(f"{'math-verify one by one':28s}{slow:7.2f} s  {len(given) / slow:8,.0f} a second")
    for name, audit, hostile in (
        ("ours", False, False),
        ("ours with the audit", True, False),
        ("the same behind 7 hostile", True, True),
    ):
        took = ours(given, audit, hostile)
        print(f"{name:28s}{took:7.2f} s  {len(given) / took:8,.0f} a second  {slow / took:.2f} x")
    judged_rightly()
