"""Damage on disk: found every time, never used, and it costs no more than what was damaged."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from fakes.asking import RECIPE, RECORDED, Endpoint
from fakes.faulty import Disk
from fakes.trials import Bench, durable, in_pairs

from ssd_pipeline.errors import RunError, StoreError
from ssd_pipeline.store import artifact
from ssd_pipeline.store import durable as disk_functions
from ssd_pipeline.store.journal import Journal
from ssd_pipeline.store.local import Artifact, Store
from ssd_pipeline.store.replies import Replies

KEY = "ab" * 32
ADDRESS = f"train_sft-{KEY[:16]}"
FLIPS = 300


def flipped(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def made(store: Store) -> Artifact:
    """An artifact with every type of file."""
    staging = store.staging(ADDRESS)
    schema = pa.schema([("text", pa.string()), ("number", pa.int64())])
    rows = [{"text": f"row {n}", "number": n} for n in range(300)]
    table = artifact.write_table(staging / "data", "rows", schema, rows, frozenset())
    header = b'{"lora.weight":{"dtype":"F32","shape":[64],"data_offsets":[0,256]}}'
    tensors = len(header).to_bytes(8, "little") + header + bytes(range(256))
    disk_functions.write_file(staging / "data" / "adapter_model.safetensors", tensors)
    disk_functions.write_file(staging / "data" / "adapter_config.json", b'{"r": 8, "lora_alpha": 16}')
    disk_functions.write_file(staging / "data" / "keys.bin", bytes(range(160)))
    files = artifact.describe_files(staging / "data")
    record = {"format": 1, "address": ADDRESS, "key": KEY, "fingerprint": "cd" * 32, "files": files, **table}
    return store.commit(staging, {**record, "spend": {"bought": 12}, "seconds": 1.5, "texts": {"r.yaml": "a: é\n"}})


FILES = ["rows-00000.parquet", "adapter_model.safetensors", "adapter_config.json", "keys.bin"]


@pytest.mark.parametrize("name", FILES)
def test_no_flipped_bit_of_a_file_is_used(room: Path, draw: random.Random, name: str) -> None:
    found = made(Store(room))
    path = found.data / name
    whole = path.read_bytes()
    for _ in range(FLIPS):
        path.write_bytes(flipped(whole, draw))
        store = Store(room)
        again = store.find(ADDRESS, KEY)
        assert isinstance(again, Artifact), "sizes are the same"
        with pytest.raises(StoreError, match=f"{name} was altered.*ssd rm .*{ADDRESS}"):
            store.verified(again)


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "cut": lambda path, other: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path, other: path.write_bytes(path.read_bytes() + b"x"),
    "empty": lambda path, other: path.write_bytes(b""),
    "absent": lambda path, other: path.unlink(),
    "of another stage": lambda path, other: shutil.copy(other, path),
    "a link": lambda path, other: (path.unlink(), path.symlink_to(other)),
    "a directory": lambda path, other: (path.unlink(), path.mkdir()),
    "a pipe": lambda path, other: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", [*FILES, "record.json"])
def test_no_damaged_file_is_used(room: Path, name: str, how: str) -> None:
    found, other = made(Store(room / "one")), made(Store(room / "two"))
    path = found.directory / name if name == "record.json" else found.data / name
    stranger = other.data / FILES[FILES.index(name) - 1] if name in FILES else other.data / FILES[0]
    DAMAGES[how](path, stranger)
    store = Store(room / "one")
    again = store.find(ADDRESS, KEY)
    assert isinstance(again, str), again
    made(store)
    assert isinstance(store.find(ADDRESS, KEY), Artifact), "it cannot be made anew"
    store.sweep()
    assert not list((room / "one" / "staging").iterdir())


def test_two_artifacts_with_swapped_files(room: Path, endpoint: Endpoint) -> None:
    bench = Bench(room / "one", endpoint)
    done = bench.here()
    other = bench.here("stages.asked.label=x")
    one, two = (bench.store / "artifacts" / d["asked"]["address"] for d in (done, other))
    for name in ("rows-00000.parquet", "keys.bin"):
        kept = (one / "data" / name).read_bytes()
        (one / "data" / name).write_bytes((two / "data" / name).read_bytes())
        (two / "data" / name).write_bytes(kept)
    for sets, was in (((), done), (("stages.asked.label=x",), other)):
        try:
            again = bench.here("stages.spelled.factor=2", *sets)
        except RunError as error:
            refusal = str(error)
            assert "altered" in refusal
        else:  # other sizes: no hit, so made anew
            assert again["asked"]["computed"] == 24
            assert again["asked"]["digest"] == was["asked"]["digest"]


def test_an_artifact_that_is_a_link(room: Path) -> None:
    found = made(Store(room))
    away = room / "elsewhere"
    found.directory.rename(away)
    found.directory.symlink_to(away)
    assert isinstance(Store(room).find(ADDRESS, KEY), str)
    made(Store(room))
    assert not found.directory.is_symlink()
    Store(room).sweep()
    assert (away / "record.json").exists(), "what a link points to was removed"


def test_a_record_is_whole_or_none(room: Path, draw: random.Random) -> None:
    found = made(Store(room))
    path = found.directory / "record.json"
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert isinstance(Store(room).find(ADDRESS, KEY), str), f"cut at byte {cut}"
    for _ in range(FLIPS):
        path.write_bytes(flipped(whole, draw))
        again = Store(room).find(ADDRESS, KEY)
        assert isinstance(again, str) or again.record == found.record, path.read_text()
    for text in (whole.decode().replace("1.5", "1.25"), whole.decode().replace('"bought": 12', '"bought": 13')):
        path.write_text(text)
        assert Store(room).find(ADDRESS, KEY) == "record.json was altered"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    assert Store(room).find(ADDRESS, KEY) == "record.json is larger than any record"
    record = json.loads(whole)
    for version, says in ((0, "older"), (2, "newer"), (99, "newer")):
        path.write_text(json.dumps({**record, "format": version}))
        assert says in Store(room).find(ADDRESS, KEY)


# ---------------------------------------------------------------------------------------------------- logs

ROWS = {f"{i:032x}": {"said": f"line {i}\nand é {'x' * i}", "n": i} for i in range(8)}


def nul_run(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    length = draw.randint(1, len(data) - start)
    return data[:start] + bytes(length) + data[start + length :]


def duplicated(data: bytes, draw: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    lines.insert(draw.randrange(len(lines) + 1), draw.choice(lines))
    return b"".join(lines)


def swapped(data: bytes, draw: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    draw.shuffle(lines)
    return b"".join(lines)


def cut_inside(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + data[start + draw.randint(1, 40) :]


def spliced(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + draw.randbytes(draw.randint(1, 40)) + data[start:]


@pytest.mark.parametrize(
    ("damage", "lost"),
    [(flipped, 2), (nul_run, None), (duplicated, 0), (swapped, 0), (cut_inside, None), (spliced, 3)],
    ids=["flip", "NUL", "duplicated", "swapped", "cut", "spliced"],
)
def test_a_damaged_line_is_owed_again_and_the_others_are_not(
    room: Path, draw: random.Random, damage: Callable[[bytes, random.Random], bytes], lost: int | None
) -> None:
    journal = Journal(room)
    replies = Replies(room / "replies")
    for key, value in ROWS.items():
        journal.append(key, value)
        replies.put(key, value)
    journal.close()
    replies.close()
    logs = [next(room.glob("*.log")), next((room / "replies").glob("*.log"))]
    whole = [path.read_bytes() for path in logs]
    for number in range(FLIPS if damage is flipped else 50):
        for path, data in zip(logs, whole, strict=True):
            path.write_bytes(damage(data, draw))
        if number % 2:
            (room / "replies" / "index.sqlite").unlink(missing_ok=True)
        journal = Journal(room)
        assert all(journal.read(key) == ROWS[key] for key in journal)
        if lost is not None:
            assert len(set(journal)) >= len(ROWS) - lost
        journal.close()
        replies = Replies(room / "replies")
        known = {key: replies.get(key) for key in ROWS}
        assert all(value in (None, ROWS[key]) for key, value in known.items())
        replies.close()


@pytest.mark.parametrize("text", [RECIPE, RECORDED], ids=["asked", "recorded"])
def test_a_run_goes_on_over_damaged_logs(
    room: Path, endpoint: Endpoint, golden: dict, long: bool, draw: random.Random, text: str
) -> None:
    damages = [flipped, nul_run, duplicated, swapped, cut_inside, spliced]

    def trial(number: int) -> None:
        bench = Bench(room / f"{number}", endpoint, text)
        bench.run(Disk(draw.randint(60, 110)))
        for path in [*bench.store.glob("journals/*/*.log"), *bench.store.glob("replies/*.log")]:
            if path.stat().st_size:
                path.write_bytes(damages[number % len(damages)](path.read_bytes(), draw))
        bench.durable = set()  # what was damaged may be asked again
        bench.recover(golden[text])

    in_pairs(trial, range(60 if long else 12))


def test_a_row_that_is_damaged_while_the_stage_runs(room: Path, endpoint: Endpoint, golden: dict) -> None:
    bench = Bench(room / "damaged", endpoint)
    bench.run(Disk(80))
    assert any(line.startswith("ask") for line in bench.durable)

    def damage() -> None:
        read = Journal.read

        def damaged(self: Journal, key: str) -> object:
            for path in self._directory.glob("*.log"):
                path.write_bytes(path.read_bytes().replace(b'"', b"'"))
            return read(self, key)

        Journal.read = damaged

    outcome = bench.run(first=damage)
    assert outcome.status == 1
    assert "run the same command to compute it anew" in outcome.message()
    assert "Traceback" not in outcome.message()
    bench.durable = set()
    bench.recover(golden[RECIPE])


# ------------------------------------------------------------------------------------------ what is left behind


def test_rows_of_a_longer_input_are_kept_for_later(room: Path, endpoint: Endpoint, golden: dict) -> None:
    """Interrupted with 24 rows, finished with 8, then again with 24: nothing is asked twice."""
    bench = Bench(room / "longer", endpoint)
    bench.run(Disk(80))
    kept = {row for row in bench.durable if row.startswith("ask")}
    assert len(kept) >= 8
    bench.durable = kept
    outcome = bench.start(sets=["stages.numbers.limit=8"]).wait()
    assert outcome.status == 0, outcome.message()
    bench.durable = kept
    assert bench.run().digests() == golden[RECIPE]
    bench.tidy()


def test_drafts_are_swept_when_their_owner_is_gone(room: Path) -> None:
    store = Store(room)
    mine = store.staging("ask-0")
    machine = mine.name.split(".")[1]
    living = room / "staging" / f"ask-0.{machine}.{os.getppid()}-0.aa"
    gone, unwaited = ended(), ended()
    os.waitpid(gone, 0)
    dead = room / "staging" / f"ask-0.{machine}.{gone}-0.bb"
    zombie = room / "staging" / f"ask-0.{machine}.{unwaited}-0.gg"  # killed, and nobody waits for it
    number = room / "staging" / f"ask-0.{machine}.{os.getppid()}-1.hh"  # of a process that had this number before
    elsewhere = room / "staging" / f"ask-0.00000000.{gone}-0.cc"
    old = room / "staging" / f"ask-0.00000000.{os.getpid()}-0.dd"
    broken = room / "staging" / "ask-0.broken.ee"
    for path in (living, dead, zombie, number, elsewhere, old, broken):
        (path / "data").mkdir(parents=True)
    draft = room / "runs" / "r" / f".stages.json.{machine}.{gone}-0.ff"
    draft.parent.mkdir(parents=True)
    draft.write_text("{")
    for path in (old, old / "data"):
        os.utime(path, (0, 0))
    store.sweep()
    os.waitpid(unwaited, 0)
    assert sorted((room / "staging").iterdir()) == sorted([mine, living, elsewhere])
    assert not draft.exists()


def ended() -> int:
    """A process that is dead but not waited for."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def test_nothing_is_committed_without_its_rows(room: Path, endpoint: Endpoint) -> None:
    """Another program removes what is being written."""
    bench = Bench(room / "swept", endpoint)
    bench.run(Disk(80))

    def sweep() -> None:
        described = artifact.describe_files

        def after_a_sweep(directory: Path) -> list[dict]:
            for path in directory.glob("rows-*"):
                path.unlink()
            return described(directory)

        artifact.describe_files = after_a_sweep

    outcome = bench.run(first=sweep)
    assert outcome.status == 1
    assert "removed by another program" in outcome.message()
    bench.whole()


def test_the_helper_reads_what_is_durable() -> None:
    assert durable('row {"said": "n 3/0ab", "fate": "accepted"}') == "ask 3"
    assert durable('row {"of": 5, "spelled": 1}') == "spell 5"
    assert durable('reply [" abc", 6, "stop"]') == "reply abc"
