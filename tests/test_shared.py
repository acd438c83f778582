"""Sharing finished stages over a Hub on loopback: found by plans, fetched, published, and what can go wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.hub import FakeHub
from fakes.hub_client import at_home
from fakes.sharing import Person, tags

from ssd_pipeline.store import hub as client


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
