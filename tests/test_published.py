"""A published version gives the rows that were published, byte for byte, or nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.command import SSD, call
from fakes.hub import FakeHub
from fakes.hub_client import at_home, client_environment

import ssd_pipeline
from ssd_pipeline.errors import HubError, UserErrors
from ssd_pipeline.published import pull

RECIPE = """\
name: small
stages:
  problems: {uses: load_problems, file: problems.jsonl}
  out: {uses: push_dataset, input: problems, repo: me/data, version: v1}
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as server, at_home(server, tmp_path / "hf", monkeypatch, server.token("me")):
        monkeypatch.setenv("SSD_HOME", str(tmp_path / "store"))
        (tmp_path / "recipe.yaml").write_text(RECIPE)
        (tmp_path / "problems.jsonl").write_text('{"problem": "1+1?", "answer": "2"}\n')
        yield server


def publish(folder: Path, *sets: str) -> None:
    ssd_pipeline.run(ssd_pipeline.plan(folder / "recipe.yaml", sets=sets))


def test_versions_are_read_back_also_from_a_warm_cache(hub: FakeHub, tmp_path: Path) -> None:
    publish(tmp_path)
    (tmp_path / "problems.jsonl").write_text('{"problem": "1+1?", "answer": "2"}\n{"problem": "3?", "answer": "3"}\n')
    publish(tmp_path, "stages.out.version=v2")
    for _ in range(2):
        one, two = (ssd_pipeline.load("me/data", "problems", version=v) for v in ("v1", "v2"))
        assert one["problem"] == ["1+1?"]
        assert two["problem"] == ["1+1?", "3?"]
    assert pull("me/data", version=pull("me/data", version="v1").commit).rows == 1


def test_a_push_that_was_made_is_not_made_again(hub: FakeHub, tmp_path: Path) -> None:
    publish(tmp_path)
    events: list[dict] = []
    ssd_pipeline.run(ssd_pipeline.plan(tmp_path / "recipe.yaml"), events.append)
    (out,) = [e for e in events if e["event"] == "stage_finished" and e["stage"] == "out"]
    assert (out["computed"], out["reused"]) == (0, 1)


@pytest.mark.parametrize(
    ("output", "version", "says"),
    [
        ("problems", None, "which version\\? Versions of me/data: v1"),
        ("problems", "v9", "no version v9; versions of me/data: v1"),
        ("nope", "v1", "no output nope; there are problems"),
    ],
)
def test_what_is_missing_is_a_mistake_that_names_what_there_is(
    hub: FakeHub, tmp_path: Path, output: str, version: str | None, says: str
) -> None:
    publish(tmp_path)
    with pytest.raises(UserErrors, match=says):
        ssd_pipeline.load("me/data", output, version=version)


def test_a_changed_byte_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    publish(tmp_path)
    path = pull("me/data", version="v1").files[0].resolve()
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    with pytest.raises(HubError, match=r"altered|not the file"):
        pull("me/data", version="v1")


def test_the_command_pulls_without_any_recipe(hub: FakeHub, tmp_path: Path) -> None:
    publish(tmp_path)
    environ = client_environment(hub, tmp_path / "other", hub.token("me"))
    done = call(tmp_path, "pull", "me/data@v1", command=SSD, **environ)
    assert done.returncode == 0, done.stderr
    assert "1 rows, every byte verified" in done.stdout
    assert Path(done.stdout.splitlines()[-1]).is_file()
    for words in (["me/data"], ["me/data@v7"], ["me/nothing@v1"], ["me/data@v1", "nope"]):
        wrong = call(tmp_path, "pull", *words, command=SSD, **environ)
        assert wrong.returncode == 2, wrong.stderr
        assert "Traceback" not in wrong.stderr
