"""What is needed stays, what is not can go, and every difference and every altered byte is told."""

import os
import time
from pathlib import Path

import pytest
from fakes.bench import Bench
from fakes.command import SSD, call

from ssd_pipeline import upkeep


def aged(bench: Bench, seconds: float = 7200) -> None:
    for folder in (bench.store.root / "artifacts").iterdir():
        os.utime(folder, (time.time() - seconds,) * 2)


def test_nothing_that_a_recipe_took_last_can_go(bench: Bench) -> None:
    bench.run()
    aged(bench)
    assert upkeep.collectable(bench.store) == []


def test_what_an_edited_recipe_left_behind_can_go_and_its_inputs_stay(bench: Bench) -> None:
    old = bench.run()
    new = bench.run("stages.twice.factor=3")
    aged(bench)
    gone = {h.address for h in upkeep.collectable(bench.store)}
    assert gone == {old["twice"]["address"], old["total"]["address"]}
    needed = {h.address: h.needed_by for h in upkeep.survey(bench.store)}
    assert any("stage twice" in by for by in needed[new["twice"]["address"]])
    assert new["total"]["address"] in needed[new["twice"]["address"]]
    for address in gone:
        bench.store.remove(address)
    assert bench.run("stages.twice.factor=3")["twice"]["computed"] == 0


def test_what_is_young_stays(bench: Bench) -> None:
    bench.run()
    bench.run("stages.twice.factor=3")
    assert upkeep.collectable(bench.store) == []


def test_why_names_every_difference_from_the_nearest(bench: Bench) -> None:
    bench.run()
    nearest = bench.run("stages.twice.factor=3")["twice"]["address"]
    found, lines = upkeep.why(bench.plan("stages.twice.factor=3", "stages.twice.bad=[1]"), "twice")
    assert found == nearest
    assert lines == ["bad [] -> [1]"]
    found, lines = upkeep.why(bench.plan("stages.numbers.limit=12", "stages.numbers.repeat=2"), "numbers")
    assert lines == ["limit 10 -> 12", "repeat 1 -> 2"]


def test_why_of_another_input_says_so(bench: Bench) -> None:
    bench.run()
    bench.run("stages.numbers.limit=11", only=("numbers",))
    _, lines = upkeep.why(bench.plan("stages.numbers.limit=11"), "twice")
    assert lines == ["its inputs have other content, or are read with another `where`"]


def test_verify_finds_the_altered_one(bench: Bench) -> None:
    finished = bench.run()
    address = finished["twice"]["address"]
    (file,) = (bench.store.root / "artifacts" / address / "data").glob("bits-*")
    data = bytearray(file.read_bytes())
    data[20] ^= 4
    file.write_bytes(data)
    wrong = {a: p for a, p in upkeep.verify_all(bench.store, []) if p}
    assert wrong == {address: "data/bits-00000.parquet was altered"}


def test_the_commands_say_the_same(home: Path) -> None:
    assert call(home, "recipe.yaml").returncode == 0
    (address,) = os.listdir(home / "store" / "artifacts")
    assert call(home, "verify", command=SSD).stdout == f"{address}  whole\n"
    needed = call(home, "rm", address, command=SSD)
    assert needed.returncode == 1
    assert "needed by stage problems of recipe recipe" in needed.stderr
    assert "keeps" in call(home, "gc", "--dry-run", command=SSD).stdout
    assert "problems: cached" in call(home, "why", "recipe.yaml", "problems", command=SSD).stdout
    record = home / "store" / "artifacts" / address / "record.json"
    record.write_text(record.read_text().replace('"rows": 2', '"rows": 3'))
    broken = call(home, "verify", command=SSD)
    assert broken.returncode == 1
    assert "ssd rm" in broken.stderr
    assert call(home, "rm", address, "--force", command=SSD).returncode == 0
    assert call(home, "ls", command=SSD).returncode == 0
    assert os.listdir(home / "store" / "artifacts") == []


@pytest.mark.parametrize(
    "words",
    [
        ["why", "recipe.yaml", "nope"],
        ["why", "recipe.yaml"],
        ["rm", "nope"],
        ["rm"],
        ["verify", "nope"],
        ["gc", "--al"],
    ],
    ids=" ".join,
)
def test_mistakes_have_one_message(home: Path, words: list[str]) -> None:
    done = call(home, *words, command=SSD)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
