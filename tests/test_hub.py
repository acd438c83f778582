"""store/hub.py against a Hub on loopback: commits, versions that never move, conflicts, errors with their way out."""

from __future__ import annotations

import errno
import importlib.util
import os
import threading
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.hub import FakeHub
from fakes.hub_client import at_home
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http as http

from ssd_pipeline.errors import HubError, RunError
from ssd_pipeline.store import hub as client
from ssd_pipeline.store import pace, splits


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    with FakeHub() as served, at_home(served, tmp_path / "home", monkeypatch, served.token("me")):
        yield served


def publish(files: dict, version: str = "v1", *, delete: tuple = (), private: bool = True) -> str:
    return client.publish(
        "me/data", "dataset", files, delete=delete, message=f"publish {version}", private=private, version=version
    )


def held(hub: FakeHub, version: str) -> dict[str, bytes]:
    files = hub.repos["dataset", "me/data"].find(version).files
    return {path: blob.data for path, blob in files.items() if path != ".gitattributes"}


# -------------------------------------------------------------------------------------------------- reading


def test_a_revision_is_resolved_by_one_request_and_a_commit_by_none(hub: FakeHub) -> None:
    commit = hub.add("them/set", {"a.txt": b"1"})
    assert client.resolve_revision("them/set", "dataset", "main") == commit
    assert len(hub.seen) == 1
    assert client.resolve_revision("them/set", "dataset", commit) == commit
    assert len(hub.seen) == 1


@pytest.mark.parametrize("name", ["feature/x", "v1"])
def test_branches_with_slashes_and_tags_resolve(hub: FakeHub, name: str) -> None:
    commit = hub.add("them/set", {"a.txt": b"1"})
    hub.repos["dataset", "them/set"].tags[name] = commit
    assert client.resolve_revision("them/set", "dataset", name) == commit


def test_errors_name_the_permission_and_never_a_token(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("them/secret", {"a": b"1"}, private=True)
    hub.add("them/gated", {"a": b"1"})
    hub.repos["dataset", "them/gated"].gated = True
    hub.add("them/open", {"a": b"1"})
    cases = [
        ("them/nothing", "main", "read` permission"),
        ("them/secret", "main", "read` permission"),
        ("them/gated", "main", "accept its terms"),
        ("them/open", "v9", "no such revision"),
        ("no repo name", "main", "owner/name"),
    ]
    for repo, revision, expected in cases:
        with pytest.raises(HubError, match=expected) as told:
            client.resolve_revision(repo, "dataset", revision)
        assert "hf_test" not in str(told.value)
    monkeypatch.setenv("HF_TOKEN", "hf_wrongtoken")
    with pytest.raises(HubError, match="not valid") as told:
        client.resolve_revision("them/open", "dataset", "main")
    assert "hf_wrong" not in str(told.value)


def test_a_hub_that_is_down_is_a_hub_error(hub: FakeHub) -> None:
    hub.add("them/open", {"a": b"1"})
    hub.fault("GET .*them/open", times=99)
    with pytest.raises(HubError, match="cannot be reached"):
        client.resolve_revision("them/open", "dataset", "main")


def test_a_silent_hub_does_not_hang_for_ever(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("me/data", {"a": b"1"})
    release = threading.Event()
    hub.fault("GET .*refs", times=99, before=lambda: release.wait(20) and None)
    pace.patient_clients.cache_clear()
    monkeypatch.setattr(pace, "ANSWER_S", 0.3)
    began = time.monotonic()
    try:
        with pytest.raises(HubError, match="cannot be reached"):
            client.version_commit("me/data", "dataset", "v1")
    finally:
        release.set()
        pace.patient_clients.cache_clear()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("path", ["GET .*refs", "GET .*tree/", "GET .*README.md", "GET /get/"])
def test_a_hub_that_sends_byte_by_byte_is_given_up(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """No single read is late here: only the sum of them says that this will take a day."""
    commit = hub.add("me/data", {"README.md": b"r" * 400, "a.parquet": b"1" * 400})
    hub.fault(path, times=99, slow=0.02)
    monkeypatch.setattr(pace, "WINDOW_S", 0.2)
    call = (client.versions, "me/data", "dataset")
    if "refs" not in path:
        call = (client.snapshot, "me/data", "dataset", commit, ["*"])
    with pytest.raises(HubError, match=r"almost nothing comes through .* \(\d+ bytes in 0 s\); what was done so far"):
        call[0](*call[1:])
    assert len(hub.asked(path)) == 2, "it is tried once more, and not for ever"


def test_a_hub_that_takes_an_upload_drop_by_drop_is_given_up(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fault("PUT", times=99, slow=0.1)
    monkeypatch.setattr(pace, "WINDOW_S", 0.15)
    monkeypatch.setattr(pace, "SLOWEST", 10**7)
    with pytest.raises(HubError, match=r"almost nothing comes through"):
        publish({"a.parquet": b"1" * (16 << 20)})
    assert not hub.asked("POST .*commit")


def test_a_slow_line_is_waited_for(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.add("me/data", {"a.txt": b"1" * 40})
    hub.fault("GET .*a.txt", times=99, slow=0.01)
    monkeypatch.setattr(pace, "WINDOW_S", 0.1)
    monkeypatch.setattr(pace, "SLOWEST", 1)
    assert (client.snapshot("me/data", "dataset", commit, ["*"]) / "a.txt").read_bytes() == b"1" * 40


def test_a_repo_that_others_are_making_for_ever_is_waited_for_and_then_given_up(hub: FakeHub) -> None:
    """huggingface_hub itself asks again at once, without a pause or an end."""
    hub.fault("POST /api/repos/create", times=10_000, status=409, error=f"Cannot create repo: {pace.BUSY}")
    with pytest.raises(HubError, match="others changed me/data at the same time, many times in a row"):
        publish({"m.json": b"1"})
    assert len(hub.asked("POST /api/repos/create")) == client.CONFLICTS
    hub.faults.clear()
    hub.fault("POST /api/repos/create", times=2, status=409, error=f"Cannot create repo: {pace.BUSY}")
    assert publish({"m.json": b"1"})


def test_a_wait_that_the_hub_tells_the_client_itself_is_bounded(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(type(http.time), "sleep", staticmethod(waits.append))
    hub.fault("POST .*preupload", status=429, headers={"Retry-After": "86400"})
    hub.fault("POST .*preupload", status=429, headers={"RateLimit": '"api";r=0;t=7200'})
    hub.fault("POST .*preupload", status=429, headers={"RateLimit": '"api";r=0;t=20'})
    assert publish({"m.json": b"1"})
    assert waits == [pace.LONGEST_WAIT_S + 1, pace.LONGEST_WAIT_S + 1, 21.0]


def test_a_wait_that_is_no_number_is_none(hub: FakeHub) -> None:
    commit = hub.add("them/set", {"a": b"1"})
    hub.fault("/revision/", status=503, headers={"Retry-After": "\u00b2"})
    assert client.resolve_revision("them/set", "dataset", "main") == commit
    assert len(hub.asked("/revision/")) == 2


def test_a_snapshot_holds_what_matches_and_large_files_see_no_token(hub: FakeHub) -> None:
    commit = hub.add("them/set", {"a.parquet": b"P" * 5000, "b [1].txt": b"b", "c.txt": b"c"})
    folder = client.snapshot("them/set", "dataset", commit, client.exactly(["a.parquet", "b [1].txt"]))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {"a.parquet": b"P" * 5000, "b [1].txt": b"b"}
    fetched = [s for s in hub.seen if s.port == "cdn"]
    assert fetched
    assert all(s.token is None for s in fetched)


def test_a_snapshot_wants_a_commit_and_is_warm_without_a_request(hub: FakeHub) -> None:
    commit = hub.add("them/set", {"a.parquet": b"1" * 100})
    with pytest.raises(HubError, match="not a commit"):
        client.snapshot("them/set", "dataset", "main", ["*"])
    client.snapshot("them/set", "dataset", commit, ["*"])
    before = len(hub.seen)
    client.snapshot("them/set", "dataset", commit, ["*"])
    assert len(hub.seen) == before


def test_a_cut_download_goes_on_and_is_whole(hub: FakeHub) -> None:
    commit = hub.add("them/set", {"a.parquet": b"0123456789" * 1000})
    hub.fault("GET /get/", times=1)
    folder = client.snapshot("them/set", "dataset", commit, ["*"])
    assert (folder / "a.parquet").read_bytes() == b"0123456789" * 1000


def test_a_disk_that_fills_up_on_the_way_is_told_with_its_bytes_and_what_has_come_is_kept(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add("them/set", {f"{name}.parquet": name.encode() * 1234 for name in "abc"})
    fetch = file_download.http_get

    def full(url: str, *args: object, **kwargs: object) -> None:
        if "name=b.parquet" in url:
            raise OSError(errno.ENOSPC, "No space left on device")
        fetch(url, *args, **kwargs)

    with monkeypatch.context() as filled:
        filled.setattr(file_download, "http_get", full)
        with pytest.raises(
            HubError, match=r": 1,234 bytes are still needed in .* \(HF_HOME\) and [\d,]+ are free: make"
        ):
            client.snapshot("them/set", "dataset", commit, ["*"])
    sent = len(hub.asked("GET /get/"))
    client.snapshot("them/set", "dataset", commit, ["*"])
    assert len(hub.asked("GET /get/")) == sent + 1


@pytest.mark.parametrize("name", ["a.parquet", "a.txt"])
def test_a_file_altered_in_the_download_cache_is_never_used(hub: FakeHub, name: str) -> None:
    commit = hub.add("them/set", {name: b"0123456789"})
    path = client.snapshot("them/set", "dataset", commit, ["*"]) / name
    path.resolve().write_bytes(b"012345678X")
    with pytest.raises(HubError, match="altered"):
        client.snapshot("them/set", "dataset", commit, ["*"])


def test_where_the_hub_announces_xet_files_still_go_by_http_and_no_token_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hf_xet is a client of its own, without our ends; this Hub would not answer it, and count that as a failure."""
    assert importlib.util.find_spec("hf_xet"), "else huggingface_hub has nothing to choose"
    constants.HF_HUB_DISABLE_XET = False  # for good: whoever needs a client has to set it again
    pace.patient_clients.cache_clear()
    with FakeHub(xet=True) as hub, at_home(hub, tmp_path / "home", monkeypatch, hub.token("me")):
        commit = publish({"a.parquet": b"P" * 5000, "m.json": b"{}"})
        folder = client.snapshot("me/data", "dataset", commit, ["*.parquet"])
        assert (folder / "a.parquet").read_bytes() == b"P" * 5000
        assert {s.method for s in hub.seen if s.port == "cdn"} == {"PUT", "GET"}
        assert all(s.token is None for s in hub.seen if s.port == "cdn")


def test_a_blob_that_clients_with_xet_share_is_taken_for_what_it_is(hub: FakeHub, tmp_path: Path) -> None:
    """They keep it once for all repos, under a name of their own, and a repo's blob is a link to it."""
    commit = hub.add("them/set", {"a.parquet": b"0123456789"})
    blob = Path(os.path.realpath(client.snapshot("them/set", "dataset", commit, ["*"]) / "a.parquet"))
    shared = tmp_path / "home" / "hub" / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(shared)
    assert (client.snapshot("them/set", "dataset", commit, ["*"]) / "a.parquet").read_bytes() == b"0123456789"
    shared.write_bytes(b"012345678X")
    with pytest.raises(HubError, match=f"altered in the download cache: remove {blob.name} there"):
        client.snapshot("them/set", "dataset", commit, ["*"])


def test_a_long_listing_is_read_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub(page=7) as hub, at_home(hub, tmp_path / "home", monkeypatch, None):
        commit = hub.add("them/set", {f"d/{i:03d}.txt": b"%d" % i for i in range(40)})
        folder = client.snapshot("them/set", "dataset", commit, ["d/*"])
        assert len(list((folder / "d").iterdir())) == 40
        assert len(hub.asked("GET .*tree")) == 6


# ------------------------------------------------------------------------------------------------ the split


CARD = """---
configs:
- config_name: main
  data_files: [{split: train, path: main/tr*.jsonl}, {split: test, path: [main/te.jsonl, main/te2.jsonl]}]
- config_name: other
  data_dir: other
---
"""


def test_files_of_a_split_come_from_the_card(hub: FakeHub) -> None:
    names = ["main/tr1.jsonl", "main/tr2.jsonl", "main/te.jsonl", "main/te2.jsonl", "other/train.csv", "other/test.csv"]
    commit = hub.add("them/set", {**dict.fromkeys(names, b"{}"), "README.md": CARD.encode()})
    assert splits.split_files("them/set", commit, "main", "train") == names[:2]
    assert splits.split_files("them/set", commit, "main", "test") == names[2:4]
    assert splits.split_files("them/set", commit, "other", "test") == ["other/test.csv"]
    with pytest.raises(HubError, match="choose one; configs are: main, other"):
        splits.split_files("them/set", commit, None, "train")
    with pytest.raises(HubError, match="no config nope; configs are: main, other"):
        splits.split_files("them/set", commit, "nope", "train")
    with pytest.raises(HubError, match="no split dev; splits are: train, test"):
        splits.split_files("them/set", commit, "main", "dev")


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"], "test", [1]),
        (["train.jsonl", "validation.jsonl"], "validation", [1]),
        (["train/a.csv", "train/b.csv", "test/a.csv"], "train", [0, 1]),
        (["problems.jsonl"], "train", [0]),
    ],
)
def test_files_of_a_split_without_a_card_follow_their_names(
    hub: FakeHub, names: list[str], split: str, expected: list[int]
) -> None:
    commit = hub.add("them/set", dict.fromkeys(names, b"x"))
    assert splits.split_files("them/set", commit, None, split) == [names[i] for i in expected]


FORMS = [unicodedata.normalize(form, "données/train é.jsonl") for form in ("NFC", "NFD")]


@pytest.mark.parametrize("names", [*([name] for name in FORMS), FORMS], ids=["composed", "decomposed", "both"])
def test_names_in_either_form_of_unicode_are_taken_as_they_are(hub: FakeHub, names: list[str]) -> None:
    commit = hub.add("them/set", {name: b"%d" % place for place, name in enumerate(names)})
    found = splits.split_files("them/set", commit, None, "train")
    assert sorted(found) == sorted(names)
    folder = client.snapshot("them/set", "dataset", commit, client.exactly(found))
    assert [(folder / name).read_bytes() for name in names] == [b"%d" % place for place in range(len(names))]


@pytest.mark.parametrize(
    "name", ["../../evil", "a/../../../../evil", "a\\..\\evil", "/evil", "C:/evil", "C:evil", "a:b/evil", "\0evil"]
)
def test_names_that_lead_out_of_a_folder_are_refused(hub: FakeHub, tmp_path: Path, name: str) -> None:
    commit = hub.add("them/set", {name: b"evil"})
    with pytest.raises(HubError, match="download them/set@"):
        client.snapshot("them/set", "dataset", commit, client.exactly([name]))
    small = (path for path in tmp_path.parent.rglob("*") if path.is_file() and path.stat().st_size == 4)
    blobs = tmp_path / "home" / "hub" / "datasets--them--set" / "blobs"
    assert all(path.is_relative_to(blobs) for path in small if path.read_bytes() == b"evil")


def test_ten_thousand_files_are_listed_and_only_what_is_wanted_comes(hub: FakeHub) -> None:
    files = {f"data/x/part-{i:05d}.jsonl": b"%d" % i for i in range(10_000)}
    commit = hub.add("me/data", files, private=True)
    folder = client.snapshot("me/data", "dataset", commit, ["data/x/part-0999?.jsonl"])
    assert len(list((folder / "data" / "x").iterdir())) == 10
    publish({"data/x/part-00000.jsonl": b"new"}, delete=("data/x/*",))
    assert set(held(hub, "v1")) == {"data/x/part-00000.jsonl"}


def test_loading_scripts_are_refused(hub: FakeHub) -> None:
    commit = hub.add("them/set", {"set.py": b"raise SystemExit", "data.csv": b"a\n1\n"})
    with pytest.raises(HubError, match="never run"):
        splits.split_files("them/set", commit, None, "train")


# ----------------------------------------------------------------------------------------------- publishing


def test_a_publication_is_one_commit_with_a_tag(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1" * 50)
    files = {"data/x/train-00000.parquet": tmp_path / "rows.parquet", "m.json": b"{}", "README.md": lambda old: b"card"}
    commit = publish(files)
    repo = hub.repos["dataset", "me/data"]
    assert repo.private
    assert repo.tags == {"v1": commit}
    assert len(repo.commits) == 2  # the Hub's first one, and ours
    assert held(hub, "v1") == {"data/x/train-00000.parquet": b"PAR1" * 50, "m.json": b"{}", "README.md": b"card"}
    assert client.version_commit("me/data", "dataset", "v1") == commit


def test_old_shards_go_in_the_same_commit_and_others_stay(hub: FakeHub) -> None:
    publish({"data/a/1.parquet": b"1", "data/a/2.parquet": b"2", "data/b/1.parquet": b"b"})
    publish({"data/a/1.parquet": b"new"}, "v2", delete=("data/a/*",))
    assert held(hub, "v2") == {"data/a/1.parquet": b"new", "data/b/1.parquet": b"b"}
    assert held(hub, "v1")["data/a/2.parquet"] == b"2"
    assert len(hub.repos["dataset", "me/data"].commits) == 3


def test_a_version_never_moves(hub: FakeHub) -> None:
    commit = publish({"m.json": b"1"})
    publish({"m.json": b"2"}, "v2")
    before = len(hub.asked("POST"))
    assert publish({"m.json": b"1"}) == commit  # the same content: nothing to do
    with pytest.raises(HubError, match="version v1 with other content"):
        publish({"m.json": b"2"})
    assert hub.repos["dataset", "me/data"].tags["v1"] == commit
    assert len(hub.asked("POST .*commit/main")) == 2
    assert all("paths-info" in s.path for s in hub.asked("POST")[before:])


@pytest.mark.parametrize("public", [True, False])
def test_another_visibility_is_refused_before_anything_is_uploaded(hub: FakeHub, public: bool) -> None:
    hub.add("me/data", {"a": b"1"}, private=not public)
    with pytest.raises(HubError, match=rf"is {'public' if public else 'private'}.*nothing was uploaded"):
        publish({"m.parquet": b"1"}, private=public)
    assert not hub.asked("commit|preupload|lfs|PUT")


def test_a_repo_made_public_is_so_when_asked(hub: FakeHub) -> None:
    publish({"m.json": b"1"}, private=False)
    assert not hub.repos["dataset", "me/data"].private


def test_permissions_are_named(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token("me", write=False))
    with pytest.raises(HubError, match="no `write` permission for me"):
        publish({"m.json": b"1"})
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="token is missing"):
        publish({"m.json": b"1"})
    assert not hub.repos


def test_a_file_made_from_its_present_text_is_made_again_after_a_conflict(hub: FakeHub) -> None:
    hub.add("me/data", {"README.md": b"one "}, private=True)
    interloper = iter(range(1))
    files = {"README.md": lambda old: (old or b"") + b"ours", "m.json": b"{}"}

    def other() -> None:
        for _ in interloper:
            hub.add("me/data", {"README.md": b"one two ", "theirs": b"t"}, private=True)

    hub.fault("POST .*commit/main", before=other)
    commit = publish(files)
    assert len(hub.asked("POST .*commit/main")) == 2
    assert held(hub, commit) == {"README.md": b"one two ours", "theirs": b"t", "m.json": b"{}"}


@pytest.mark.parametrize("status", [409, 412])
def test_endless_conflicts_end(hub: FakeHub, status: int) -> None:
    hub.fault("POST .*commit/main", times=10_000, status=status)
    with pytest.raises(HubError, match="others changed"):
        publish({"m.json": b"1"})
    assert len(hub.asked("POST .*commit/main")) == client.CONFLICTS
    assert not hub.repos["dataset", "me/data"].tags


@pytest.mark.parametrize("status", [500, 503, None])
def test_a_commit_that_landed_without_an_answer_is_not_made_twice(hub: FakeHub, status: int | None) -> None:
    hub.fault("POST .*commit/main", status=status, after=True)
    publish({"data/x.parquet": b"rows", "m.json": b"{}", "README.md": lambda old: b"card"})
    assert len(hub.asked("POST .*commit/main")) == 1
    assert len(hub.repos["dataset", "me/data"].commits) == 2
    assert held(hub, "v1") == {"data/x.parquet": b"rows", "m.json": b"{}", "README.md": b"card"}


def test_a_commit_that_never_lands_ends_and_leaves_no_version(hub: FakeHub) -> None:
    hub.fault("POST .*commit/main", times=10_000, status=500)
    with pytest.raises(HubError, match="500"):
        publish({"m.json": b"1"})
    assert len(hub.asked("POST .*commit/main")) == client.FAILURES
    assert not hub.repos["dataset", "me/data"].tags


def test_a_death_between_commit_and_tag_is_mended_without_a_second_commit(hub: FakeHub) -> None:
    hub.fault("POST .*tag/", times=99, status=500)
    with pytest.raises(HubError):
        publish({"m.json": b"1", "d.parquet": b"2"})
    hub.faults.clear()
    assert not hub.repos["dataset", "me/data"].tags
    commit = publish({"m.json": b"1", "d.parquet": b"2"})
    assert hub.repos["dataset", "me/data"].tags == {"v1": commit}
    assert len(hub.repos["dataset", "me/data"].commits) == 2


def test_a_version_given_away_meanwhile_is_an_error(hub: FakeHub) -> None:
    repo = hub.add("me/data", {"a": b"1"}, private=True)
    hub.fault("POST .*tag/", before=lambda: hub.repos["dataset", "me/data"].tags.update(v1=repo))
    with pytest.raises(HubError, match="given to commit"):
        publish({"m.json": b"1"})
    assert hub.repos["dataset", "me/data"].tags == {"v1": repo}


def test_an_interrupted_upload_shows_nothing_and_its_blobs_are_not_sent_again(hub: FakeHub) -> None:
    files = {f"data/{i}.parquet": b"%d" % i * 100 for i in range(4)}
    hub.fault("PUT", times=10_000, status=400)
    hub.faults[-1].pattern = f"PUT /put/{client._described(files['data/3.parquet'])['sha256']}"
    with pytest.raises(RunError):
        publish(files)
    assert not hub.asked("POST .*commit")
    sent = len(hub.asked("PUT"))
    hub.faults.clear()
    publish(files)
    assert len(hub.asked("PUT")) == sent + 1
    assert held(hub, "v1") == files


def test_many_at_once_lose_nothing(hub: FakeHub) -> None:
    hub.add("me/data", {"README.md": b""}, private=True)
    failed: list[BaseException] = []

    def one(number: int) -> None:
        def listed(old: bytes | None) -> bytes:
            return b"".join(sorted({*(old or b"").splitlines(keepends=True), b"%d\n" % number}))

        try:
            publish({f"data/{number}.json": b"%d" % number, "README.md": listed}, f"v{number}")
        except HubError as cause:
            failed.append(cause)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert held(hub, "main")["README.md"] == b"0\n1\n2\n3\n"
    assert {path for path in held(hub, "main") if path != "README.md"} == {f"data/{n}.json" for n in range(4)}
