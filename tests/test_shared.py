"""Sharing finished stages over a Hub on loopback: found by plans, fetched, published, and what can go wrong."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from fakes.hub import FakeHub
from fakes.hub_client import at_home
from fakes.hub_repos import Blob
from fakes.kinds import Doubled, Kinds
from fakes.sharing import RECIPE, REPO, Person, replaced, tags

from ssd_pipeline.display import Display
from ssd_pipeline.errors import RunError, UserErrors
from ssd_pipeline.looking import push_artifacts
from ssd_pipeline.screen import Screen
from ssd_pipeline.sharing import Sharing
from ssd_pipeline.store import durable
from ssd_pipeline.store import hub as client
from ssd_pipeline.store.manifest import listed


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    with FakeHub() as served, at_home(served, tmp_path / "home", monkeypatch, served.token("me")):
        yield served


@pytest.fixture
def ann(tmp_path: Path) -> Person:
    return Person(tmp_path / "ann")


@pytest.fixture
def bob(tmp_path: Path) -> Person:
    return Person(tmp_path / "bob")


def test_a_colleague_with_a_fresh_store_computes_nothing(hub: FakeHub, ann: Person, bob: Person) -> None:
    made = ann.run()
    assert set(tags(hub)) == {made[n]["address"] for n in ("numbers", "twice", "total")}
    assert set(tags(hub, "model")) == {made["weights"]["address"]}
    assert not ann.notes()
    assert ann.owed() == {}
    assert set(bob.statuses().values()) == {"remote"}
    taken = bob.run()
    assert bob.executions() == 0
    assert {n: e["digest"] for n, e in taken.items()} == {n: e["digest"] for n, e in made.items()}
    assert {n: (e["computed"], e["reused"]) for n, e in taken.items()}["twice"] == (0, 5)
    for address in (e["address"] for e in made.values()):
        ours, theirs = (p.store.root / "artifacts" / address for p in (ann, bob))
        for path in (ours / "data").iterdir():
            assert path.read_bytes() == (theirs / "data" / path.name).read_bytes()
    assert set(bob.statuses().values()) == {"hit"}


def test_a_plan_says_which_repo_an_artifact_comes_from(hub: FakeHub, ann: Person, bob: Person) -> None:
    address = ann.run()["twice"]["address"]
    assert bob.plan().stages["twice"].why == "in me/cache"
    bob.run()
    commit = tags(hub)[address]
    assert bob.plan().stages["twice"].why == f"cached, from me/cache@{commit[:8]}"
    shown = io.StringIO()
    Display(Screen(shown), bob.plan()).show_plan()
    assert f"{address}, from me/cache@{commit[:8]}" in shown.getvalue()
    assert ann.plan().stages["twice"].why == "cached", "hers is her own"
    bob.store.remove(address)
    bob.run(hub_cache=False)
    ended = bob.store.find(address).record["ended"]
    bob.store.remember("pulled", "origins", {address: ["me/cache@1", f"before {ended}"]})
    assert bob.plan().stages["twice"].why == "cached"


def test_a_plan_lists_each_repo_once_and_a_cached_run_asks_nothing(hub: FakeHub, ann: Person, bob: Person) -> None:
    ann.run()
    hub.seen.clear()
    ann.run()
    assert not hub.seen
    bob.plan()
    assert len(hub.asked("GET .*datasets/me/cache/refs")) == len(hub.asked("GET .*models/me/cache/refs")) == 1
    assert not hub.asked("GET /get/|resolve/.*/data/"), "a plan downloads no rows"


def test_a_rename_is_found_and_a_part_of_the_work_is_enough(hub: FakeHub, ann: Person, tmp_path: Path) -> None:
    ann.run("stages.total=null", "stages.weights=null")
    text = RECIPE.replace("twice", "doubled").replace("numbers:", "digits:").replace("input: numbers", "input: digits")
    carl = Person(tmp_path / "carl", text)
    assert carl.statuses() == {"digits": "remote", "doubled": "remote", "total": "miss", "weights": "miss"}
    made = carl.run()
    assert (carl.kinds.loaded, carl.kinds.doubled.total(), carl.kinds.summed, carl.fitted) == (0, 0, 1, 1)
    assert made["total"]["address"] in tags(hub)


def test_the_instances_of_a_sweep_are_shared_too(hub: FakeHub, tmp_path: Path) -> None:
    text = "sweep: {stages.twice.factor: [2, 3]}\n" + RECIPE
    made = Person(tmp_path / "ann", text).run()
    bob = Person(tmp_path / "bob", text)
    assert set(bob.statuses().values()) == {"remote"}
    assert {n: e["digest"] for n, e in bob.run().items()} == {n: e["digest"] for n, e in made.items()}
    assert bob.executions() == 0
    paths = hub.repos["dataset", REPO].find("main").files
    assert {path.split("/")[1] for path in paths if path.startswith("data/twice")} == {
        f"twice-factor-{factor}{table}" for factor in (2, 3) for table in ("", ".bits")
    }


def test_only_what_is_needed_is_fetched(hub: FakeHub, ann: Person, bob: Person) -> None:
    ann.run()
    assert set(bob.run(only=("total",))) == {"total"}
    assert [a.partition("-")[0] for a in bob.store.addresses()] == ["sum_numbers"]


def test_a_trial_and_no_hub_cache_leave_the_hub_alone(hub: FakeHub, ann: Person, bob: Person) -> None:
    ann.run(hub_cache=False)
    assert not hub.seen
    ann.run(limit=3)
    assert not hub.repos
    assert set(bob.statuses(hub_cache=False).values()) == {"miss", "waits"}


def test_force_takes_a_sample_that_nobody_has(hub: FakeHub, ann: Person, bob: Person) -> None:
    ann.run()
    forced = ann.run(force=("twice",))["twice"]["address"]
    assert forced in tags(hub)
    assert bob.plan().stages["twice"].address == forced, "the newest take is preferred, wherever it was made"
    assert bob.plan(force=("twice",)).stages["twice"].take == 2
    assert bob.plan(force=("twice",)).stages["twice"].status == "miss"


def test_pushing_wants_a_place_and_brings_what_was_made_before_there_was_one(hub: FakeHub, ann: Person) -> None:
    made = ann.run(hub_cache=False)
    with pytest.raises(UserErrors, match=r"no runtime\.hub"):
        push_artifacts(ann.plan(hub_cache=False))
    push_artifacts(ann.plan())
    assert {e["address"] for e in made.values()} == {*tags(hub), *tags(hub, "model")}
    sent = len(hub.asked("POST .*commit/|PUT"))
    push_artifacts(ann.plan())
    assert len(hub.asked("POST .*commit/|PUT")) == sent


def test_without_permission_it_is_said_once(hub: FakeHub, ann: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token("me", write=False))
    assert len(ann.run()) == 4
    first, last = ann.notes()
    assert "no `write` permission for me" in first
    assert "4 finished artifacts are not in me/cache yet" in last


def test_a_card_that_somebody_broke_is_kept_and_the_rows_stay_here(hub: FakeHub, ann: Person) -> None:
    ann.run(only=("numbers",))
    hub.add(REPO, {"README.md": b"---\na: [1\n---\n"})
    ann.run()
    assert any("front matter of README.md in the repo is not YAML" in note for note in ann.notes())
    assert hub.repos["dataset", REPO].find("main").files["README.md"].data == b"---\na: [1\n---\n"
    assert len(tags(hub, "model")) == 1, "the adapter's repo is another one"


# ------------------------------------------------------------------------------------ what the Hub may do

WRITES = ["GET .*refs", "POST .*create", "GET .*revision/main", "GET .*tree/", "HEAD .*README", "GET .*README"]
WRITES += ["POST .*validate-yaml", "POST .*preupload", "POST .*batch", "PUT ", "POST .*commit/", "POST .*paths-info"]
WRITES += ["POST .*tag/"]


@pytest.mark.parametrize("pattern", WRITES)
def test_a_fault_once_changes_nothing(hub: FakeHub, ann: Person, pattern: str) -> None:
    hub.fault(pattern, after=pattern.startswith("POST"), status=503 if pattern.startswith("GET") else None)
    made = ann.run()
    assert hub.faults[0].times == 0, "the fault was played"
    assert {e["address"] for e in made.values()} == {*tags(hub), *tags(hub, "model")}
    assert not ann.notes()
    assert len(hub.repos["dataset", "me/cache"].commits) == 4, "nothing was committed twice"


@pytest.mark.parametrize("pattern", WRITES)
def test_a_fault_for_ever_loses_nothing_and_is_made_up_for(hub: FakeHub, ann: Person, pattern: str) -> None:
    hub.fault(pattern, times=10_000, status=500)
    made = ann.run()
    assert len(made) == 4
    assert set(ann.statuses(hub_cache=False).values()) == {"hit"}
    assert len(ann.owed()) >= 1
    assert any("`ssd push` brings them there" in note for note in ann.notes())
    hub.faults.clear()
    executed = ann.executions()
    ann.run()
    assert ann.executions() == executed
    assert {e["address"] for e in made.values()} == {*tags(hub), *tags(hub, "model")}
    assert ann.owed() == {}


@pytest.mark.parametrize(
    "pattern", ["GET .*refs", "HEAD .*manifests", "GET .*manifests", "POST .*paths-info", "HEAD .*data/", "GET /get/"]
)
def test_reading_survives_a_fault_and_says_what_to_do_when_it_lasts(
    hub: FakeHub, ann: Person, bob: Person, pattern: str
) -> None:
    made = ann.run()
    hub.fault(pattern, times=10_000, status=500)
    statuses = bob.statuses()
    if "data/" in pattern or "/get/" in pattern:
        assert set(statuses.values()) == {"remote"}
        with pytest.raises(RunError, match=r"numbers: .*to make it here instead, run with --no-hub-cache"):
            bob.run()
    else:
        planned = bob.plan().stages["numbers"]
        assert planned.status == "miss"
        assert "the Hub answered 500" in planned.why
        assert bob.run()["total"]["digest"] == made["total"]["digest"]
    hub.faults.clear()
    hub.fault(pattern, status=503)
    carl = Person(bob.folder / "carl")
    carl.run()
    assert carl.executions() == 0


@pytest.mark.parametrize(("status", "says"), [(401, "not valid"), (403, "may not see me/cache"), (410, "answered 410")])
def test_a_refusal_at_the_plan_is_a_mistake_with_its_place(hub: FakeHub, bob: Person, status: int, says: str) -> None:
    hub.fault("GET .*refs", times=10_000, status=status)
    with pytest.raises(UserErrors) as told:
        bob.plan()
    (mistake,) = told.value.mistakes
    assert says in mistake.message
    assert "--no-hub-cache" in mistake.message
    assert (mistake.key, mistake.position.line) == ("runtime.hub.repo", 9)


def test_the_hub_is_waited_for_as_it_says(hub: FakeHub, ann: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(client.time, "sleep", waits.append)
    hub.fault("GET .*refs", status=429, headers={"Retry-After": "7"})
    hub.fault("POST .*commit/", status=429, headers={"RateLimit": '"api";r=0;t=21'})
    hub.fault("POST .*tag/", status=429, headers={"Retry-After": "86400"})
    ann.run()
    assert [w for w in waits if w > 5] == [7.0, 22.0, 60]


def test_off_line_what_is_here_works_and_the_rest_says_so(
    hub: FakeHub, ann: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ann.run()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert set(ann.statuses().values()) == {"hit"}
    assert "HF_HUB_OFFLINE is set" in bob.plan().stages["numbers"].why
    assert bob.run()["total"]["digest"] == made["total"]["digest"]
    (note,) = bob.notes()
    assert "4 finished artifacts are not in me/cache yet" in note
    assert len(bob.owed()) == 4
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    bob.run()
    assert bob.owed() == {}, "the same addresses with the same content are there already"


# ----------------------------------------------------------------------------- what others may have put there


def other_rows(person: Person) -> None:
    """Somebody whose teacher said something else."""

    async def double(row: dict, params: object, ctx: object) -> Doubled:
        return dataclasses.replace(await Kinds.double(person.kinds, row, params, ctx), doubled=-1)

    person.kinds.double = double  # type: ignore[method-assign]


def test_other_rows_under_an_address_are_never_overwritten(hub: FakeHub, ann: Person, bob: Person) -> None:
    made = ann.run()
    other_rows(bob)
    theirs = bob.run(hub_cache=False)
    before = dict(tags(hub))
    with pytest.raises(RunError, match=r"1 of 4 artifacts were not published: .*with other rows") as told:
        Sharing(bob.plan(only=("numbers", "twice")), bob.events.append).push_all()
    assert made["twice"]["digest"][:16] in str(told.value)
    assert theirs["twice"]["digest"][:16] in str(told.value)
    assert "--force" in str(told.value)
    assert tags(hub)[made["twice"]["address"]] == before[made["twice"]["address"]]
    assert set(bob.statuses().values()) == {"hit"}


def change(data: bytes, **changes: object) -> bytes:
    said = json.loads(data)
    for path, value in changes.items():
        inner = said
        *above, last = path.split("__")
        for name in above:
            inner = inner[name]
        inner[last] = value
    return json.dumps(said).encode()


def files(path: str, name: str = "a") -> dict:
    return {"tables__numbers__files": {path: {"size": 1, "sha256": "0" * 64, "name": name}}}


TAMPERED = {
    "newer": ({"format": 99}, "written by a newer ssd_pipeline: upgrade"),
    "newer record": ({"record__format": 99}, "written by a newer ssd_pipeline: upgrade"),
    "another address": ({"record__address": "load_numbers-0000000000000000"}, "belongs to another address"),
    "another key": ({"record__key": "0" * 64}, "not asked for under this address"),
    "another question": ({"record__identity__params": {"limit": 6}}, "not asked for under this address"),
    "another fingerprint": ({"record__fingerprint": "0" * 64}, "not asked for under this address"),
    "a part": ({"whole": False}, "a part of an artifact"),
    "no tables": ({"tables": 3}, "not a manifest of ours"),
    "a size": (files("data/numbers/train-00000-of-00001.parquet"), "is missing in me/cache or is not what"),
    "a missing file": (files("data/numbers/nope.parquet"), "is missing in me/cache"),
    "climbing": (files("../../x"), "names a file '../../x'"),
    "absolute": (files("/etc/passwd"), "names a file"),
    "backslash": (files("a\\b"), "names a file"),
    "a place": (files("data/x", "../x"), "names a file"),
}


@pytest.mark.parametrize(("changes", "says"), TAMPERED.values(), ids=TAMPERED)
def test_a_manifest_that_is_not_right_is_no_hit_and_the_plan_says_why(
    hub: FakeHub, ann: Person, bob: Person, changes: dict, says: str
) -> None:
    address = ann.run(only=("numbers",))["numbers"]["address"]
    place = f"manifests/numbers.{address}.json"
    replaced(hub, address, {place: change(hub.repos["dataset", REPO].find(address).files[place].data, **changes)})
    planned = bob.plan().stages["numbers"]
    assert planned.status == "miss"
    assert says in planned.why
    bob.run(only=("numbers",))
    assert bob.kinds.loaded == 1


def test_files_that_are_gone_or_are_mere_pointers_are_no_hit(hub: FakeHub, ann: Person, bob: Person) -> None:
    address = ann.run(only=("numbers",))["numbers"]["address"]
    for data in (b"version https://git-lfs.github.com/spec/v1\n", None):
        replaced(hub, address, {"data/numbers/train-00000-of-00001.parquet": data})
        assert "missing in me/cache or is not what its manifest says" in bob.plan().stages["numbers"].why
    repo = hub.repos["dataset", REPO]
    del repo.commits[repo.tags[address]]
    assert "rewritten history" in bob.plan().stages["numbers"].why


def flipped(data: bytes) -> bytes:
    return data[:30] + bytes([data[30] ^ 1]) + data[31:]


def test_one_flipped_byte_is_refused_and_nothing_is_kept(hub: FakeHub, ann: Person, bob: Person) -> None:
    ann.run()
    hub.fault("GET /get/", body=flipped)
    with pytest.raises(RunError, match=r"altered in the download cache: remove .* and run again.*--no-hub-cache"):
        bob.run()
    assert list(bob.store.addresses()) == []
    assert not list((bob.store.root / "staging").glob("*"))


def test_a_body_that_ends_early_is_read_on(hub: FakeHub, ann: Person, bob: Person) -> None:
    ann.run()
    hub.fault("GET /get/", times=2, body=lambda data: data[: len(data) // 2])
    bob.run()
    assert bob.executions() == 0


def test_rows_that_the_record_does_not_name_are_refused(hub: FakeHub, ann: Person, bob: Person) -> None:
    """Somebody with the right to write puts in rows of their own, with hashes that fit."""
    address = ann.run(only=("numbers",))["numbers"]["address"]
    table = pa.table({"problem": ["x"] * 5, "number": range(5), "error": pa.nulls(5, pa.string())})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    data, place = sink.getvalue(), "data/numbers/train-00000-of-00001.parquet"
    told = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "name": "rows-00000.parquet"}
    manifest = f"manifests/numbers.{address}.json"
    old = hub.repos["dataset", REPO].find(address).files[manifest].data
    new = change(old, tables__numbers__files={place: told}, record__files=[told])
    replaced(hub, address, {place: data, manifest: new})
    assert bob.plan().stages["numbers"].status == "remote"
    with pytest.raises(RunError, match="the rows are not those that the record names"):
        bob.run()
    assert list(bob.store.addresses()) == []


def table(**columns: list) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("keys.bin", b"16 bytes a row, no less", "the row keys are not those of the rows"),
        ("rows-00000.parquet", b"PAR1 no table PAR1", "what it holds cannot be read: ArrowInvalid"),
        ("bits-00000.parquet", table(place=[0] * 11, bit=[1] * 11), "the rows of bits are not those that the record"),
        ("bits-00000.parquet", table(row=[0], place=[0], bit=[1]), "the rows of bits are not those that the record"),
    ],
)
def test_files_with_hashes_that_fit_but_of_another_form_are_refused(
    hub: FakeHub, ann: Person, bob: Person, name: str, data: bytes, says: str
) -> None:
    address = ann.run()["twice"]["address"]
    place = f"manifests/twice.{address}.json"
    said = json.loads(hub.repos["dataset", REPO].find(address).files[place].data)
    told = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "name": name}
    (path,) = (path for path, one in listed(said).items() if one["name"] == name)
    for files in (said["beside"], *(one["files"] for one in said["tables"].values())):
        files.update({path: told} if path in files else {})
    said["record"]["files"] = [told if one["name"] == name else one for one in said["record"]["files"]]
    replaced(hub, address, {path: data, place: json.dumps(said).encode()})
    with pytest.raises(RunError, match=f"twice: me/cache@.*{says}.*--no-hub-cache"):
        bob.run()
    assert not [a for a in bob.store.addresses() if a == address]


def test_an_adapter_as_a_pickle_is_refused_and_never_opened(hub: FakeHub, ann: Person, bob: Person) -> None:
    address = ann.run()["weights"]["address"]
    manifest = f"manifests/weights.{address}.json"
    said = json.loads(hub.repos["model", REPO].find(address).files[manifest].data)
    bad = {"size": 4, "sha256": hashlib.sha256(b"evil").hexdigest(), "name": "adapter_model.bin"}
    said["beside"]["adapter_model.bin"] = bad
    said["record"]["files"].append(bad)
    repo = hub.repos["model", REPO]
    blobs = {**repo.find(address).files, "adapter_model.bin": Blob(b"evil", True)}
    repo.tags[address] = repo.commit({**blobs, manifest: Blob(json.dumps(said).encode(), False)}, "evil")
    planned = bob.plan().stages["weights"]
    assert planned.status == "miss"
    assert "pickles are never loaded, save it as safetensors" in planned.why
    assert not hub.asked("adapter_model.bin")


def test_a_repo_that_became_public_gets_nothing_more(hub: FakeHub, ann: Person) -> None:
    ann.run(only=("numbers",))
    hub.repos["dataset", REPO].private = False
    before = dict(tags(hub))
    ann.run()
    assert tags(hub) == before
    assert any("me/cache is public, the recipe says private: true; nothing was uploaded" in n for n in ann.notes())
    assert set(ann.statuses(hub_cache=False).values()) == {"hit"}


@pytest.mark.filterwarnings("ignore:Not enough free disk space")
def test_a_full_disk_is_told_with_its_bytes(
    hub: FakeHub, ann: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann.run()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(RunError, match=r"1,\d\d\d bytes are needed and 10 are free: make room"):
        bob.run()
    assert not hub.asked("GET /get/")


@pytest.mark.filterwarnings("ignore:Not enough free disk space")
def test_a_disk_that_fills_up_while_an_artifact_is_kept_is_told_too(
    hub: FakeHub, ann: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann.run()
    bob.plan()
    free = iter([10**9])

    def full(file: object, data: bytes) -> None:
        cause = OSError(errno.ENOSPC, "No space left on device")
        raise durable.store_error(cause, "write it") from cause

    with monkeypatch.context() as filled:
        filled.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=next(free, 10)))
        filled.setattr(durable, "append", full)
        with pytest.raises(RunError, match=r"1,\d\d\d bytes are needed and 10 are free: make room.*, run again"):
            bob.run()
    assert not list(bob.store.addresses())
    assert not list((bob.store.root / "staging").glob("*"))
    fetched = len(hub.asked("GET /get/"))
    bob.run(only=("numbers",))
    assert len(hub.asked("GET /get/")) == fetched, "what came through is kept by the download cache"


# --------------------------------------------------------------------------------------- several at once


def test_four_publishers_at_once_lose_nothing(hub: FakeHub, tmp_path: Path) -> None:
    people = []
    for number, name in enumerate("abcd"):
        text = RECIPE.replace("limit: 5", f"limit: 5, start: {number}")
        for stage in ("numbers", "twice", "total", "weights"):
            text = text.replace(f"{stage}:", f"{stage}_{name}:").replace(f"input: {stage}", f"input: {stage}_{name}")
        people.append(Person(tmp_path / name, text))
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda person: person.run(), people))
    for person in people:  # a publisher may have lost ten times in a row: it says so, and the next run makes up for it
        person.run()
        assert person.owed() == {}
    addresses = {e["address"] for run in made for e in run.values()}
    assert addresses == {*tags(hub), *tags(hub, "model")}
    card = hub.repos["dataset", REPO].find("main").files["README.md"].data.decode()
    names = {c["config_name"] for c in yaml.safe_load(card.split("---")[1])["configs"]}
    stems = [("numbers", ""), ("twice", ""), ("twice", ".bits"), ("total", "")]
    assert names == {f"{stem}_{n}{table}" for n in "abcd" for stem, table in stems}
    for person in people:
        fresh = Person(person.folder / "fresh", person.path.read_text())
        fresh.run()
        assert fresh.executions() == 0


def test_a_death_between_commit_and_tag_is_mended_at_the_next_start(
    hub: FakeHub, ann: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr("huggingface_hub.HfApi.create_tag", die)
        with pytest.raises(KeyboardInterrupt):
            ann.run(only=("numbers",))
    assert not tags(hub)
    assert len(hub.repos["dataset", REPO].commits) == 2
    made = ann.run(only=("numbers",))
    assert tags(hub) == {made["numbers"]["address"]: hub.repos["dataset", REPO].branches["main"]}
    assert len(hub.repos["dataset", REPO].commits) == 2
    assert ann.kinds.loaded == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inputs": [3]}, "not a manifest of ours"),
        ({"inputs": 3}, "not a manifest of ours"),
        ({"files": [3]}, "not a manifest of ours"),
        ({"rows": "5"}, "not a manifest of ours"),
        ({"rows": 500}, "not those that the record names"),
        ({"digest": "0" * 64}, "not those that the record names"),
    ],
)
def test_a_record_that_lies_or_is_of_another_form_is_refused(
    hub: FakeHub, ann: Person, bob: Person, change: dict, said: str
) -> None:
    address = ann.run()["numbers"]["address"]
    path = f"manifests/numbers.{address}.json"
    manifest = json.loads(hub.repos["dataset", REPO].find(address).files[path].data)
    replaced(hub, address, {path: json.dumps({**manifest, "record": {**manifest["record"], **change}}).encode()})
    if bob.statuses()["numbers"] == "remote":
        with pytest.raises(RunError, match=f"{said}.*--no-hub-cache"):
            bob.run()
    else:
        assert said in bob.plan().stages["numbers"].why
    assert bob.run(hub_cache=False)["numbers"]["rows"] == 5


def test_a_file_under_another_name_is_refused_with_the_way_on(hub: FakeHub, ann: Person, bob: Person) -> None:
    address = ann.run()["weights"]["address"]
    (path,) = (p for p in hub.repos["model", REPO].find(address).files if p.endswith(f"{address}.json"))
    manifest = json.loads(hub.repos["model", REPO].find(address).files[path].data)
    manifest["beside"]["adapter_model.safetensors"]["name"] = "adapter_model.bin"
    replaced(hub, address, {path: json.dumps(manifest).encode()}, "model")
    with pytest.raises(RunError, match=r"adapter_model.*--no-hub-cache"):
        bob.run()
