"""Many rows: memory stays bounded, and going on costs what is left, not what is done."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from fakes.asking import RECIPE, Endpoint, Kinds, Said
from fakes.trials import Bench

from ssd_pipeline.records import Fate, Spend

LONG_TEXT = "x" * 4000
MEGABYTE = 1 << (20 if sys.platform == "darwin" else 10)  # of ru_maxrss


def test_many_rows(room: Path, endpoint: Endpoint, long: bool) -> None:
    """The children inherit the memory of this process: what they need more is measured."""
    rows = 100_000 if long else 1500
    recipe = RECIPE.replace("{uses: load_numbers}", f"{{uses: load_numbers, limit: {rows}}}")
    # The endpoint is not what is measured here, and `spell` would only do the same again.
    bench = Bench(room / "bench", endpoint, recipe.replace("  total", "  # total"), group_rows=64)
    bench.path.write_text("\n".join(line for line in recipe.splitlines() if "spelled" not in line) + "\n")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEGABYTE

    async def local(self: Kinds, row: dict, params: object, ctx: object) -> Said:
        return Said(f"{row['problem']} {LONG_TEXT}", Fate.accepted, Spend(6, 6), None, 0.5)

    def first() -> None:
        Kinds.ask = local

    told = []
    for share in (0.0, 0.5, 0.9999, 1.0):
        if share < 1:
            half = bench.start(sets=[f"stages.numbers.limit={max(1, int(rows * share))}"], first=first).wait(600)
            assert half.status == 0, half.message()
        outcome = bench.start(first=first).wait(600) if share == 1 else half
        assert outcome.status == 0, outcome.message()
        more = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / MEGABYTE - before
        told.append(
            f"{share:.2%}: {outcome.finished()['asked']['computed']} rows in {outcome.seconds:.1f} s, +{more:.0f} MB"
        )
    print("\n".join(told))
    assert more < 500
