"""The same rows and addresses wherever and whenever it runs; a store may be moved, copied, and its clock be wrong."""

from __future__ import annotations

import json
import locale
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.asking import RECIPE, RECORDED, Endpoint
from fakes.trials import Bench

LONG_AGO = 1_000_000_000


def somewhere_else() -> None:
    os.makedirs("/tmp", exist_ok=True)
    os.chdir("/")


def turkish() -> None:
    os.environ["LC_ALL"] = "tr_TR.UTF-8"
    for name in ("tr_TR.UTF-8", "C.UTF-8", "C"):
        try:
            locale.setlocale(locale.LC_ALL, name)
        except locale.Error:
            continue
        return


def kiribati() -> None:
    os.environ["TZ"] = "Pacific/Kiritimati"
    time.tzset()


PLACES: dict[str, Callable[[], object]] = {
    "umask": lambda: os.umask(0o077),
    "cwd": somewhere_else,
    "locale": turkish,
    "time zone": kiribati,
    "no home": lambda: os.environ.pop("HOME"),
    "other home": lambda: os.environ.update(HOME="/nowhere"),
    "a year ago": lambda: setattr(time, "time", lambda: LONG_AGO),
    "random": lambda: random.seed(0),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_run_is_the_same_elsewhere(room: Path, endpoint: Endpoint, golden: dict, place: str) -> None:
    here = Bench(room / "here", endpoint, RECORDED)
    addresses = {name: event["address"] for name, event in here.run().finished().items()}
    there = Bench(room / "there", endpoint, RECORDED)
    outcome = there.run(first=PLACES[place])
    assert outcome.status == 0, outcome.message()
    assert outcome.digests() == golden[RECORDED]
    assert {name: event["address"] for name, event in outcome.finished().items()} == addresses
    again = here.run(first=PLACES[place])
    assert (again.status, again.computed()) == (0, 0), "what was made here is no hit there"


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_hashes_of_this_process_are_nowhere(room: Path, endpoint: Endpoint, golden: dict, seed: str) -> None:
    """A new interpreter, since the seed of its hashes is fixed at its start."""
    bench = Bench(room / "bench", endpoint)
    code = (
        "import json, sys; from pathlib import Path; from fakes import asking, trials\n"
        "bench = trials.Bench(Path(sys.argv[1]) / 'inner', asking.Endpoint(int(sys.argv[2])))\n"
        "print(json.dumps({n: e['digest'] for n, e in bench.here().items()}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bench.folder), str(endpoint.port)],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == golden[RECIPE]


def touch_all(store: Path, when: float) -> None:
    for path in store.rglob("*"):
        os.utime(path, (when, when))


def moved(store: Path) -> Path:
    return store.rename(store.with_name("moved"))


def copied(store: Path) -> Path:
    target = Path(shutil.copytree(store, store.with_name("copied"), copy_function=shutil.copyfile))
    shutil.rmtree(store)
    return target


def linked(store: Path) -> Path:
    away = store.rename(store.with_name("away"))
    store.symlink_to(away)
    return store


def in_the_future(store: Path) -> Path:
    touch_all(store, time.time() + 365 * 86400)
    return store


def all_the_same_second(store: Path) -> Path:
    touch_all(store, LONG_AGO)
    return store


def from_an_archive(store: Path) -> Path:
    shutil.make_archive(str(store.with_name("store")), "tar", store)
    shutil.rmtree(store)
    shutil.unpack_archive(store.with_name("store.tar"), store, filter="data")
    return store


def without_what_can_be_rebuilt(store: Path) -> Path:
    for part in ("locks", "runs", "replies", "staging", "journals", "work"):
        shutil.rmtree(store / part, ignore_errors=True)
    return store


JOURNEYS = [
    *(moved, copied, linked, in_the_future, all_the_same_second, from_an_archive, without_what_can_be_rebuilt),
]


@pytest.mark.parametrize("journey", JOURNEYS, ids=lambda journey: journey.__name__)
def test_a_store_may_travel(room: Path, endpoint: Endpoint, golden: dict, journey: Callable[[Path], Path]) -> None:
    bench = Bench(room / "bench", endpoint, RECORDED)
    bench.run()
    bench.store = journey(bench.store)
    outcome = bench.run()
    assert (outcome.status, outcome.computed(), outcome.digests()) == (0, 0, golden[RECORDED]), outcome.message()
    grown = bench.start(sets=["stages.numbers.limit=30"]).wait()
    assert grown.finished()["asked"]["computed"] == 6, "finished rows are not found any more"


def test_nothing_outside_is_touched(room: Path, endpoint: Endpoint) -> None:
    """I10: the store, and nothing else: not the home, not the place of the recipe, not the working directory."""
    bench = Bench(room / "bench", endpoint)
    place = room / "cwd"
    place.mkdir()
    outcome = bench.run(first=lambda: os.chdir(place))
    assert outcome.status == 0
    assert list(place.iterdir()) == []
    assert list((bench.folder / "home").iterdir()) == []
    mine = {"recipe.yaml", "store", "executed", "home", "1.out", "1.err", "1.durable"}
    assert {path.name for path in bench.folder.iterdir()} == mine


def test_no_path_and_no_host_in_what_is_kept(room: Path, endpoint: Endpoint) -> None:
    import socket

    bench = Bench(room / "bench", endpoint)
    bench.run()
    for path in (bench.store / "artifacts").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert str(bench.folder).encode() not in data, path
            assert len(socket.gethostname()) < 3 or socket.gethostname().encode() not in data, path
