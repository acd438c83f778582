"""push_dataset against a Hub on loopback, read back by `datasets.load_dataset` in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.context import Context, finished
from fakes.hub import FakeHub
from fakes.hub_client import at_home, client_environment

from ssd_pipeline.errors import HubError, RunError
from ssd_pipeline.stage import Input
from ssd_pipeline.stages.push_dataset import STAGE, PushDataset
from ssd_pipeline.store import hub as client

ADDRESS = "load_problems-0123456789abcdef"  # names a shared artifact, and so no version


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    with FakeHub() as served, at_home(served, tmp_path / "home", monkeypatch, served.token("me")):
        yield served


def rows(n: int, shift: int = 0) -> list[dict]:
    return [
        {
            "uuid": f"u{i}",
            "problem": f"What is {i} + {shift}?",
            "solution": f"\\boxed{{{i + shift}}}",
            "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}],
            "verdict": "correct" if i % 2 == 0 else "incorrect",
            "perplexity": None if i == 1 else i / 7,
        }
        for i in range(n)
    ]


def branches(n: int) -> list[dict]:
    return [{"row": i, "uuid": f"u{i}", "chunk": 0, "branch": b, "text": f"{i}.{b}"} for i in range(n) for b in (0, 1)]


def push(tmp_path: Path, *inputs: Input, **params: Any) -> dict:
    said = PushDataset.model_validate({"repo": "me/math", "version": "v1", **params})
    context = Context(tmp_path / f"push{len(list(tmp_path.iterdir()))}", inputs=inputs)
    try:
        return dict(STAGE.run(said, context))
    finally:
        assert not list(context.work.iterdir()), "what was staged for the upload is left"


def done(*inputs: Input, version: str = "v1") -> bool:
    return STAGE.done(PushDataset(repo="me/math", version=version), [i.digest for i in inputs])


LOAD = """
import datasets, json, sys
loaded = [datasets.load_dataset(*args, revision=revision, split="train") for args, revision in json.loads(sys.argv[1])]
print(json.dumps([list(rows) for rows in loaded]))
"""


def loaded(hub: FakeHub, home: Path, *asked: tuple[list[str], str]) -> list[list[dict]]:
    environment = {**os.environ, **client_environment(hub, home, hub.token("me"))}
    told = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(asked)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def test_load_dataset_reads_every_version_back(hub: FakeHub, tmp_path: Path) -> None:
    first = finished(tmp_path / "a1", "verified", rows(4), branches=branches(4))
    second = finished(tmp_path / "a2", "verified", rows(6, 1))
    push(tmp_path, first, license="apache-2.0")
    push(tmp_path, second, version="v2")
    name = "me/math"
    found = loaded(
        hub,
        tmp_path / "reader",
        ([name, "verified"], "v1"),
        ([name, "verified"], "v2"),
        ([name, "verified"], "v1"),
        ([name], "v1"),
        ([name, "branches"], "v1"),
    )
    assert found == [rows(4), rows(6, 1), rows(4), rows(4), branches(4)]


def test_a_manifest_names_every_file_with_its_hash_and_no_private_place(hub: FakeHub, tmp_path: Path) -> None:
    given = finished(tmp_path / "a", "verified", rows(4), branches=branches(4))
    told = push(tmp_path, given)
    files = hub.repos["dataset", "me/math"].find("v1").files
    manifest = json.loads(files["manifests/verified.json"].data)
    assert manifest["digest"] == given.digest
    assert manifest["record"]["inputs"] == given.record["inputs"]
    listed = {path: said for table in manifest["tables"].values() for path, said in table["files"].items()}
    assert set(listed) == {
        "data/verified/train-00000-of-00001.parquet",
        "data/branches/train-00000-of-00001.parquet",
    }
    for path, said in listed.items():
        assert said["sha256"] == hashlib.sha256(files[path].data).hexdigest()
        assert said["size"] == len(files[path].data)
    everything = b"".join(blob.data for blob in files.values())
    assert b"10.0.0.1" not in everything
    assert str(tmp_path).encode() not in everything
    assert b"hf_test" not in everything
    assert told == {
        "repo": "me/math",
        "version": "v1",
        "commit": hub.repos["dataset", "me/math"].tags["v1"],
        "rows": 12,
    }


def test_several_inputs_go_in_one_commit(hub: FakeHub, tmp_path: Path) -> None:
    one = finished(tmp_path / "a", "one", rows(2), branches=branches(2))
    two = finished(tmp_path / "b", "two", rows(3, 5), branches=branches(3))
    push(tmp_path, one, two)
    repo = hub.repos["dataset", "me/math"]
    assert len(repo.commits) == 2
    folders = {path.split("/")[1] for path in repo.find("v1").files if path.startswith("data/")}
    assert folders == {"one", "one_branches", "two", "two_branches"}
    assert done(one, two)


def test_where_decides_what_is_published_also_in_side_tables(hub: FakeHub, tmp_path: Path) -> None:
    given = finished(tmp_path / "a", "verified", rows(5), where={"verdict": ("correct",)}, branches=branches(5))
    push(tmp_path, given)
    found = loaded(hub, tmp_path / "reader", (["me/math", "verified"], "v1"), (["me/math", "branches"], "v1"))
    assert [row["uuid"] for row in found[0]] == ["u0", "u2", "u4"]
    assert [row["uuid"] for row in found[1]] == ["u0", "u0", "u2", "u2", "u4", "u4"]


def test_done_means_these_rows_under_this_version(hub: FakeHub, tmp_path: Path) -> None:
    given = finished(tmp_path / "a", "verified", rows(4))
    other = finished(tmp_path / "b", "verified", rows(4, 1))
    filtered = finished(tmp_path / "c", "verified", rows(4), where={"verdict": ("correct",)})
    assert not done(given)  # no repo
    push(tmp_path, given)
    assert done(given)
    assert not done(other)
    assert not done(filtered)
    assert not done(given, version="v2")
    assert not done(given, other)
    del hub.repos["dataset", "me/math"]
    assert not done(given)


def test_other_rows_never_get_a_version_that_exists(hub: FakeHub, tmp_path: Path) -> None:
    push(tmp_path, finished(tmp_path / "a", "verified", rows(4)))
    before = hub.repos["dataset", "me/math"].branches["main"]
    with pytest.raises(HubError, match="v1 with other content"):
        push(tmp_path, finished(tmp_path / "b", "verified", rows(4, 1)))
    assert hub.repos["dataset", "me/math"].branches["main"] == before


def test_pushing_again_sends_nothing(hub: FakeHub, tmp_path: Path) -> None:
    given = finished(tmp_path / "a", "verified", rows(4))
    commit = push(tmp_path, given)["commit"]
    sent = len(hub.asked("POST .*commit|PUT"))
    assert push(tmp_path, given)["commit"] == commit
    assert len(hub.asked("POST .*commit|PUT")) == sent


def test_a_card_edited_by_hand_keeps_the_edits(hub: FakeHub, tmp_path: Path) -> None:
    push(tmp_path, finished(tmp_path / "a", "verified", rows(4)))
    repo = hub.repos["dataset", "me/math"]
    files = {path: blob.data for path, blob in repo.find("main").files.items()}
    hub.add("me/math", {**files, "README.md": files["README.md"].replace(b"# math", b"# Mine\n\nBy hand.")})
    push(tmp_path, finished(tmp_path / "b", "verified", rows(2)), version="v2")
    text = repo.find("v2").files["README.md"].data
    assert b"# Mine\n\nBy hand." in text
    assert b'revision="v2"' in text
    assert b'revision="v1"' not in text


@pytest.mark.parametrize("text", [b"---\na: [1\n---\n", b"\xff\xfe"])
def test_a_card_that_cannot_be_read_is_not_destroyed(hub: FakeHub, tmp_path: Path, text: bytes) -> None:
    hub.add("me/math", {"README.md": text}, private=True)
    with pytest.raises(RunError, match=r"README\.md"):
        push(tmp_path, finished(tmp_path / "a", "verified", rows(4)))
    assert hub.repos["dataset", "me/math"].find("main").files["README.md"].data == text
    assert not hub.asked("PUT")


def test_a_public_repo_gets_nothing_private(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("me/math", {"a": b"1"})
    with pytest.raises(HubError, match="is public"):
        push(tmp_path, finished(tmp_path / "a", "verified", rows(4)))
    assert not hub.asked("preupload|PUT|POST .*commit")


def test_nothing_to_publish_is_said(hub: FakeHub, tmp_path: Path) -> None:
    given = finished(tmp_path / "a", "verified", rows(4), where={"verdict": ("no_answer",)})
    with pytest.raises(RunError, match="verified gives no rows to publish: `where` leaves none"):
        push(tmp_path, given)
    assert not hub.seen


@pytest.mark.parametrize(
    ("change", "key"),
    [
        *(({"repo": r}, "repo") for r in ("name", "a/b/c", "me/a b", "me/-a", "me/a--b", "me/" + "a" * 97, "me/a.git")),
        *(({"repo": r}, "repo") for r in ("https://hf.co/me/a", "../a", "me/..", "me/a\n")),
        *(({"version": v}, "version") for v in ("", "main", "a/b", "v 1", "-v", "0" * 40, "v1\n", "../v", ADDRESS)),
    ],
)
def test_names_that_the_hub_refuses_are_mistakes(change: dict, key: str) -> None:
    params = PushDataset.model_validate({"repo": "me/math", "version": "v1", **change})
    assert [path for path, _ in params.mistakes()] == [(key,)]


def test_ordinary_names_are_none() -> None:
    for repo in ("me/math", "Me-2/gen_ssd.v1-x"):
        for version in ("v1", "2026-11-24", "verified-v2.1"):
            assert not list(PushDataset(repo=repo, version=version).mistakes())
