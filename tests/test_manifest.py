"""A manifest that somebody changed in any one place: refused in one message, or harmless to whatever reads it."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from fakes.hub import FakeHub
from fakes.hub_client import at_home
from fakes.sharing import REPO, Person, replaced

from ssd_pipeline import runner
from ssd_pipeline.display import Display
from ssd_pipeline.errors import HubError, RunError
from ssd_pipeline.looking import list_artifacts, push_artifacts, show_artifact, tell_why
from ssd_pipeline.screen import Screen
from ssd_pipeline.store import hub as client
from ssd_pipeline.store.local import Store
from ssd_pipeline.store.manifest import misfit, read_manifest

LARGE = 10**400
WRONG: list[Any] = [None, 3, LARGE, float("inf"), "\ud800", "\x1b[2J", "5", [], [None], {}, {"x": None}]
Place = tuple[str | int, ...]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    with FakeHub() as served, at_home(served, tmp_path / "home", monkeypatch, served.token("me")):
        yield served


def places(value: Any, above: Place = ()) -> Iterator[Place]:
    """Every place of a JSON tree, of a list only the first entry."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*above, key)
        yield from places(one, (*above, key))


def put(tree: Any, place: Place, *value: Any) -> Any:
    """A copy with another value in one place, or with nothing there."""
    tree = inner = copy.deepcopy(tree)
    for key in place[:-1]:
        inner = inner[key]
    if value:
        inner[place[-1]] = value[0]
    else:
        del inner[place[-1]]
    return tree


def text(said: Any) -> bytes:
    return json.dumps(said).replace("Infinity", "1e999").encode()


def problem(path: Path, said: Any, address: str) -> str | None:
    """Why a manifest is refused, in one message; None when it is taken."""
    path.write_bytes(text(said))
    try:
        return misfit(read_manifest(path), address)
    except HubError as refused:
        return str(refused)


def look(hub: FakeHub, person: Person) -> None:
    """All that a person does with what somebody else has published. Raises RunError when something is refused."""
    plan = person.plan()
    shown = io.StringIO()
    display = Display(Screen(shown), plan)
    display.show_plan()
    runner.run(plan, display.listen)
    for address in Store.default().addresses():
        show_artifact(address, 1, person.all())
    list_artifacts()
    tell_why(person.plan(), "twice")
    push_artifacts(person.plan())
    assert "\x1b" not in shown.getvalue()


@pytest.mark.parametrize(("name", "kind"), [("twice", "dataset"), ("weights", "model")])
def test_any_change_of_a_manifest_is_refused_in_one_message_or_harmless(
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    kind: str,
) -> None:
    address = Person(tmp_path / "ann").run()[name]["address"]
    path = f"manifests/{name}.{address}.json"
    said = json.loads(hub.repos[kind, REPO].find(address).files[path].data)
    assert problem(tmp_path / "m.json", said, address) is None
    taken: dict[Place, list[Any]] = {}  # what the form allows: other numbers and other texts
    for at in places(said):
        problem(tmp_path / "m.json", put(said, at), address)
        for value in WRONG:
            why = problem(tmp_path / "m.json", put(said, at, value), address)
            assert why is None or len(why) < 500
            taken.setdefault(at, []).extend([value] if why is None else [])
    assert not any(None in taken.get(("record", field), ()) for field in ("spend", "summary", "recipe", "ended"))
    assert 3 in taken["record", "seconds"]
    assert "5" not in taken["record", "seconds"]
    aside = ("files", "beside", "tables", "measured", "rows")  # these are compared with what comes
    free = {at: values for at, values in taken.items() if values and not set(aside) & set(at)}
    trials = [changed(said, {at: values[turn % len(values)] for at, values in free.items()}) for turn in (0, -1)]
    checked = {at[:2]: (at, values[-1]) for at, values in taken.items() if values and at not in free}
    trials += [put(said, at, value) for at, value in checked.values()]
    for number, trial in enumerate(trials):
        replaced(hub, address, {path: text(trial)}, kind)
        person = Person(tmp_path / f"p{number}")
        monkeypatch.setenv("SSD_HOME", str(person.store.root))
        with suppress(RunError) if number > 1 else nullcontext():
            look(hub, person)
        assert "\x1b" not in capsys.readouterr().out


def changed(said: Any, values: dict[Place, Any]) -> Any:
    """All of these places changed, of two within one another the inner one."""
    for at, value in values.items():
        if not any(other[: len(at)] == at for other in values if len(other) > len(at)):
            said = put(said, at, value)
    return said
