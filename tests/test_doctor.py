"""ssd doctor with real parts that work or do not: servers on loopback, tiny models, files, a Hub; its exit status."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import endpoints
from fakes.command import SSD, call
from fakes.hub import FakeHub
from fakes.hub_client import at_home
from fakes.shipped import ROOT

from ssd_pipeline import looking
from ssd_pipeline.doctor import Check, examine
from ssd_pipeline.errors import UserErrors
from ssd_pipeline.stages import KINDS

RECIPE = """\
models:
  teacher: {{path: {model}}}
  student: {{path: {model}}}
  learned: {{base: student, adapter: {{stage: adapter}}}}
stages:
  problems: {{uses: load_problems, file: problems.jsonl}}
  trajectories: {{uses: sample_branches, input: problems, teacher: teacher, student: student, branches: 4}}
  adapter: {{uses: train_sft, input: trajectories, model: student}}
  scores: {{uses: evaluate, input: problems, model: learned}}
runtime:
  models:
    teacher: {{api: completions, endpoints: ["{url}"], token: "${{T:-no-token}}", timeout_s: 5}}
"""
Doctor = Callable[..., dict[str, Check]]


@pytest.fixture
def doctor(home: Path, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Examine the recipe with a server at `url`; the checks by what they are about."""
    monkeypatch.setenv("SSD_HOME", str(home / "store"))

    def examined(url: str, *sets: str, recipe: str = RECIPE) -> dict[str, Check]:
        path = home / "asked.yaml"
        path.write_text(recipe.format(model=tiny_model(), url=url))
        return {check.about: check for check in examine(str(path), KINDS, sets)}

    return examined


def failing(checks: dict[str, Check]) -> dict[str, str]:
    return {about: check.says for about, check in checks.items() if not check.works}


def test_everything_is_there(doctor: Doctor, home: Path) -> None:
    with endpoints.serve(endpoints.vllm) as server:
        checks = doctor(server.url)
    assert failing(checks) == {}
    asked = server.posts()
    assert len(asked) <= 2, "a chunk for each of two branches at most"
    assert {post["max_tokens"] for post in asked} == {32}
    assert all("1+1?" in post["prompt"] for post in asked), "the first problem of the recipe"
    assert checks[f"model teacher at {server.url}"].says.startswith("serves org/teacher (unverifiable); wrote ")
    assert checks["model student, learned, sampling"].says.startswith("runs here; wrote ")
    scoring = checks["model student, learned, scoring"].says
    assert "perplexity" in scoring
    assert scoring.endswith("(without what adapter will train)")
    assert checks["stage problems"].says == "2 of the first 2 rows can be used"
    assert not (home / "store").exists()


def test_one_dead_endpoint_of_two_is_the_one_that_is_told(doctor: Doctor) -> None:
    with endpoints.serve(endpoints.vllm) as dead:
        pass
    with endpoints.serve(endpoints.vllm) as server:
        both = f'runtime.models.teacher.endpoints=["{server.url}", "{dead.url}"]'
        checks = doctor(server.url, both)
    assert list(failing(checks)) == [f"model teacher at {dead.url}"]


def test_another_model_than_the_recipes(doctor: Doctor) -> None:
    with endpoints.serve(endpoints.vllm) as server:
        failed = failing(doctor(server.url, "runtime.models.teacher.served_name=org/other"))
    (says,) = failed.values()
    assert "'org/teacher'" in says
    assert "'org/other'" in says
    assert not server.posts(), "nothing is sampled from another model"


@pytest.mark.parametrize("status", [401, 404, 500])
def test_what_an_endpoint_refuses_is_told_and_its_token_is_not(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("T", "planted-0123")
    with endpoints.serve(endpoints.vllm) as server:
        server.every = endpoints.Fault(status, json.dumps({"error": {"message": "no planted-0123 \x1b[2J"}}))
        checks = doctor(server.url)
    assert server.requests[0][3]["authorization"] == "Bearer planted-0123"
    assert list(failing(checks)) == [f"model teacher at {server.url}"]
    assert "planted" not in repr(checks)


def test_problems_that_cannot_be_used_and_a_model_that_cannot_be_loaded(doctor: Doctor, home: Path) -> None:
    (home / "problems.jsonl").write_text('{"problem": "", "answer": "1"}\n')
    (home / "empty").mkdir()
    (home / "empty" / "config.json").write_text("{}")
    with endpoints.serve(endpoints.vllm) as server:
        checks = doctor(server.url, f"models.student.path={home}/empty")
    failed = failing(checks)
    assert "none of 1 rows can be used" in failed["stage problems"]
    assert "model student, learned, scoring" in failed
    assert checks[f"model teacher at {server.url}"].works, "one that fails stops no other one"


def test_a_store_that_cannot_be_written(doctor: Doctor, home: Path) -> None:
    (home / "store").write_text("")
    with endpoints.serve(endpoints.vllm) as server:
        failed = failing(doctor(server.url))
    assert "SSD_HOME" in failed[f"store {home / 'store'}"]


def test_mistakes_of_the_recipe_are_its_authors(doctor: Doctor) -> None:
    with pytest.raises(UserErrors, match=r"asked\.yaml:12"):
        doctor("ftp://nowhere")


# ---------------------------------------------------------------------------------------------------- the Hub

ON_THE_HUB = """\
models:
  far: {{repo: them/model, revision: main}}
  student: {{path: {model}}}
stages:
  problems: {{uses: load_problems, dataset: them/set, revision: main}}
  mine: {{uses: load_problems, file: problems.jsonl}}
  published: {{uses: push_dataset, input: mine, repo: me/out, version: v1}}
runtime: {{hub: {{repo: me/cache}}, models: {{}}}}
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as served, at_home(served, tmp_path / "hf", monkeypatch, served.token("me")):
        yield served


def test_every_repo_is_reached(doctor: Doctor, hub: FakeHub) -> None:
    commit = hub.add("them/set", {"train.jsonl": b'{"problem": "1+1?", "answer": "2"}\n'})
    hub.add("them/model", {"config.json": b"{}"}, kind="model")
    checks = doctor("", recipe=ON_THE_HUB)
    assert failing(checks) == {}
    assert checks["dataset them/set@main"].says == commit
    assert checks["stage problems"].says == "1 of the first 1 rows can be used"
    assert checks["stage published"].says == "pushes as me"


def test_a_repo_that_is_not_there_and_a_token_that_is_missing(
    doctor: Doctor, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("them/model", {"config.json": b"{}"}, kind="model")
    monkeypatch.delenv("HF_TOKEN")
    checks = doctor("", recipe=ON_THE_HUB)
    assert "does not exist, or it is private" in failing(checks)["dataset them/set@main"]
    assert "HF_TOKEN" in failing(checks)["stage published"]
    assert checks["model them/model@main"].works
    assert checks["stage mine"].works
    monkeypatch.setenv("HF_TOKEN", hub.token("me", write=False))
    assert "`write` permission" in failing(doctor("", recipe=ON_THE_HUB))["stage published"]


# ------------------------------------------------------------------------------------------------ the command


def test_the_command_has_a_line_a_check_and_a_status(home: Path) -> None:
    done = call(home, "doctor", "recipe.yaml", command=SSD)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ok", "ok"]
    (home / "problems.jsonl").write_text('{"problem": "\\u202e", "answer": {}}\n' * 3)
    done = call(home, "doctor", "recipe.yaml", command=SSD)
    assert done.returncode == 1, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ok", "FAILS"]
    assert "Traceback" not in done.stderr
    assert "1 of 2 checks" in done.stderr
    assert call(home, "doctor", "nowhere.yaml", command=SSD).returncode == 2


def test_the_quickstart_is_healthy_without_any_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setenv("SSD_HOME", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    looking.tell_health(str(ROOT / "recipes" / "quickstart.yaml"), KINDS, ())
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    assert any("model teacher, sampling" in line for line in lines)
    assert "perplexity" in lines[-1]
    assert list(tmp_path.iterdir()) == []
