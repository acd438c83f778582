"""Two promises as properties: what a fingerprint covers, and that a result does not depend on how it came about."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sys
import tempfile
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fakes.asking import RECIPE, Endpoint, Said
from fakes.trials import Bench
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssd_pipeline import planner
from ssd_pipeline.errors import RowError, RunError
from ssd_pipeline.records import Fate, Spend
from ssd_pipeline.store import artifact
from ssd_pipeline.store.identity import digest_of
from ssd_pipeline.store.local import Store


def examples(short: int, long: int) -> int:
    """Hypothesis wants the number at import, before any fixture."""
    return long if "--long" in sys.argv else short


ANY_ORDER = settings(deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))


def shared_memory() -> Path:
    return Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))


# ---------------------------------------------------------------------------------------- X2: fingerprints


@pytest.fixture(scope="module")
def plan_of(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Stage identities of the stages of a text, by place."""
    bench = Bench(tmp_path_factory.mktemp("plans") / "bench", endpoint)
    kinds = bench.kinds().all()

    def plan(text: str) -> list[str]:
        bench.path.write_text(text)
        planned = planner.plan(bench.path, kinds, store=Store(bench.store))
        return [digest_of(identity_of(planned, name)) for name in planned.order]

    def identity_of(planned: planner.Plan, name: str) -> dict[str, Any]:
        return planned.resolver.identities.stage(planned.document.stages[name])

    return plan


LABELS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=6)
NUMBERS = st.integers(1, 10**9)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@given(st.data())
@settings(ANY_ORDER, max_examples=examples(100, 5000))
def test_what_a_fingerprint_covers(plan_of: Any, data: st.DataObject) -> None:
    label, limit, factor, seed = (data.draw(s) for s in (LABELS, NUMBERS, NUMBERS, NUMBERS))
    params = {"numbers": {"limit": f"{limit}"}, "asked": {"label": quoted(label)}, "spelled": {"factor": f"{factor}"}}

    def text(params: dict[str, dict[str, str]], *, shuffled: bool, seed: int = seed) -> str:
        uses = {"numbers": "load_numbers", "asked": "ask", "spelled": "spell"}
        lines = [f"seed: {seed}", "name: x"]
        stages = []
        for name, given_params in params.items():
            keys = [("uses", uses[name]), *given_params.items()]
            if name != "numbers":
                keys.append(("input", {"asked": "numbers", "spelled": "asked"}[name]))
            if shuffled:
                keys = data.draw(st.permutations(keys))
            comment = data.draw(st.sampled_from(["", "  # a comment", "   "])) if shuffled else ""
            stages.append(f"  {name}: {{{', '.join(f'{k}: {v}' for k, v in keys)}}}{comment}")
        body = ["stages:", *stages]
        runtime = data.draw(st.sampled_from(["", "runtime: {rows_in_flight: 9}"])) if shuffled else ""
        parts = [*lines, runtime, "\n".join(body)] if data.draw(st.booleans()) else ["\n".join(body), *lines]
        return "\n".join(part for part in parts if part) + "\n"

    base = plan_of(text(params, shuffled=False))
    assert plan_of(text(params, shuffled=True)) == base
    for index, (stage, key, other) in enumerate(
        (
            ("numbers", "limit", f"{data.draw(NUMBERS.filter(lambda n: n != limit))}"),
            ("asked", "label", quoted(data.draw(LABELS.filter(lambda t: t != label)))),
            ("spelled", "factor", f"{data.draw(NUMBERS.filter(lambda n: n != factor))}"),
        )
    ):
        changed = plan_of(text({**params, stage: {**params[stage], key: other}}, shuffled=True))
        assert [a != b for a, b in zip(base, changed, strict=True)] == [i == index for i in range(3)]
    reseeded = plan_of(text(params, shuffled=True, seed=data.draw(NUMBERS.filter(lambda n: n != seed))))
    assert [a != b for a, b in zip(base, reseeded, strict=True)] == [False, True, False], "who draws at random"


def test_text_counts_character_by_character(plan_of: Any) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    assert composed != decomposed
    plans = [plan_of(RECIPE.replace("{uses: ask,", f"{{uses: ask, label: '{t}',")) for t in (composed, decomposed)]
    assert plans[0][1] != plans[1][1]


# ------------------------------------------------------------------------------------------- X3: resuming


@given(
    attempts=st.lists(
        st.tuples(st.integers(1, 12), st.integers(1, 64), st.sets(st.integers(0, 11), max_size=8)), max_size=4
    ),
    last=st.integers(1, 64),
    order=st.integers(0, 2**32),
)
@settings(ANY_ORDER, max_examples=examples(60, 2000))
def test_how_it_came_about_does_not_matter(
    endpoint: Endpoint, attempts: list[tuple[int, int, set[int]]], last: int, order: int
) -> None:
    """Any attempts before (a length, how many at once, rows that fail for now), any order of completion."""
    folder = shared_memory()
    try:
        bench = Scripted(folder / "bench", endpoint, RECIPE, group_rows=3, shuffle=random.Random(order))
        for limit, at_once, failing in attempts:
            bench.failing = failing
            with suppress(RunError):
                bench.here(f"stages.numbers.limit={limit}", f"runtime.rows_in_flight={at_once}")
        bench.failing = set()
        done = bench.here("stages.numbers.limit=12", f"runtime.rows_in_flight={last}")
        if not ALONE:
            alone = Scripted(folder / "alone", endpoint, RECIPE, shuffle=random.Random(0))
            ALONE.update(alone.here("stages.numbers.limit=12", "runtime.rows_in_flight=1"))
        assert {name: e["digest"] for name, e in done.items()} == {name: e["digest"] for name, e in ALONE.items()}
        assert max(bench.finished.values()) == 1, "a finished row was computed again"
        assert len(bench.finished) == 12
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("stride", [1, 5, 7, 11])
def test_the_order_of_the_input_does_not_matter(endpoint: Endpoint, room: Path, stride: int) -> None:
    """Shuffled and made longer: what was computed is found again, and is what it would be alone."""
    bench, alone = Bench(room / "bench", endpoint), Bench(room / "alone", endpoint)
    bench.here("stages.numbers.limit=11", "stages.numbers.repeat=2")
    sets = ("stages.numbers.limit=12", "stages.numbers.repeat=2", f"stages.numbers.stride={stride}")
    again, fresh = bench.here(*sets), alone.here(*sets)
    assert [again[name]["computed"] for name in ("asked", "spelled")] == [2, 2]
    assert {n: e["digest"] for n, e in again.items()} == {n: e["digest"] for n, e in fresh.items()}


def test_a_whole_number_in_a_column_of_fractions(endpoint: Endpoint, room: Path) -> None:
    """1 is read back as 1.0: rows that were computed now and rows of before have one digest."""

    class Whole(Bench):
        def kinds(self) -> Any:
            kinds = super().kinds()

            async def ask(row: Any, params: Any, ctx: Any) -> Any:
                return Said(row["problem"], Fate.accepted, Spend(), None, row["number"])

            kinds.ask = ask
            return kinds

    grown, alone = Whole(room / "grown", endpoint), Whole(room / "alone", endpoint)
    grown.here("stages.numbers.limit=5")
    addresses = [bench.here("stages.numbers.limit=8")["total"]["address"] for bench in (grown, alone)]
    assert addresses[0] == addresses[1], "the contents differ"
    contents = [artifact.read_record(next((b.store / "artifacts").glob("spell-*"))) for b in (grown, alone)]
    assert contents[0]["measured"] == ["took"]
    asked = [
        {artifact.read_record(p)["content"] for p in (b.store / "artifacts").glob("ask-*")} for b in (grown, alone)
    ]
    assert asked[1] <= asked[0]


ALONE: dict[str, dict[str, Any]] = {}  # the stages of a run that nothing disturbed


class Scripted(Bench):
    """Rows of `ask` finish in a drawn order, and some fail in a way that may be cured."""

    def __init__(self, *args: Any, shuffle: random.Random, **more: Any) -> None:
        self.shuffle, self.failing, self.finished = shuffle, set(), {}
        super().__init__(*args, **more)

    def kinds(self) -> Any:
        kinds = super().kinds()

        async def ask(row: Any, params: Any, ctx: Any) -> Any:
            for _ in range(self.shuffle.randrange(6)):
                await asyncio.sleep(0)
            if row["number"] in self.failing:
                raise RowError("not now", curable=True)
            self.finished[row["number"]] = self.finished.get(row["number"], 0) + 1
            return Said(
                f"{row['problem']} says {row['number'] ** 3}", Fate.accepted, Spend(), None, self.shuffle.random()
            )

        kinds.ask = ask
        return kinds
