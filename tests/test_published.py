"""A published version gives the rows that were published, byte for byte, or nothing; what was pulled is a hit."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fakes.command import SSD, SSD_RUN, call
from fakes.hub import FakeHub
from fakes.hub_client import at_home, client_environment

import ssd_pipeline
from ssd_pipeline.errors import HubError, Unanswered, UserErrors
from ssd_pipeline.published import keep, listing, pull
from ssd_pipeline.store.local import Artifact, Store

RECIPE = """\
name: small
stages:
  problems: {uses: load_problems, file: problems.jsonl}
  traces: {uses: load_trajectories, file: traces.jsonl, columns: {solution: solution}}
  verified: {uses: verify_answers, input: traces}
  out: {uses: push_dataset, input: [problems], repo: me/data, version: v1}
  checked: {uses: push_dataset, input: [verified], repo: me/checked, version: v1, license: mit}
"""
ONE, TWO = '{"problem": "1+1?", "answer": "2"}\n', '{"problem": "3?", "answer": "3"}\n'
TRACES = '{"problem": "1+1?", "answer": "2", "solution": "so \\\\boxed{2}"}\n'
SHARED = "runtime:\n  hub: {repo: me/cache}\n"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as server, at_home(server, tmp_path / "hf", monkeypatch, server.token("me")):
        monkeypatch.setenv("SSD_HOME", str(tmp_path / "store"))
        (tmp_path / "recipe.yaml").write_text(RECIPE)
        (tmp_path / "problems.jsonl").write_text(ONE)
        (tmp_path / "traces.jsonl").write_text(TRACES)
        yield server


def publish(folder: Path, *sets: str, only: tuple[str, ...] = ()) -> dict:
    return ssd_pipeline.run(ssd_pipeline.plan(folder / "recipe.yaml", sets=sets, only=only))


def statuses(folder: Path) -> dict[str, str]:
    return {name: stage.status for name, stage in ssd_pipeline.plan(folder / "recipe.yaml").stages.items()}


def test_versions_are_read_back_also_from_a_warm_cache(hub: FakeHub, tmp_path: Path) -> None:
    first = publish(tmp_path, only=("out",))["problems"].found
    (tmp_path / "problems.jsonl").write_text(ONE + TWO)
    publish(tmp_path, "stages.out.version=v2", only=("out",))
    for _ in range(2):
        one, two = (ssd_pipeline.load("me/data", "problems", version=v) for v in ("v1", "v2"))
        assert one["problem"] == ["1+1?"]
        assert two["problem"] == ["1+1?", "3?"]
    assert pull("me/data", version=pull("me/data", version="v1").commit).rows == 1
    (kept,) = keep(pull("me/data", version="v1"), Store(tmp_path / "other"))
    assert (kept.record["digest"], kept.address) == (first.record["digest"], first.address)
    shown = {line[:3] for line in listing("me/data")}
    assert shown == {("v1", "problems", "1"), ("v2", "problems", "2")}


def test_a_version_that_cannot_be_read_does_not_hide_the_others(hub: FakeHub, tmp_path: Path) -> None:
    publish(tmp_path, only=("out",))
    hub.repos["dataset", "me/data"].tags["v0"] = hub.add("me/data", {"manifests/problems.json": b"{}"})
    first, second = listing("me/data")
    assert first[:3] == ("v1", "problems", "1")
    assert second[0] == "v0"
    assert "problems.json is not a manifest of ours (KeyError: 'format'); it is not used: ask whoever" in second[1]


def test_a_version_never_moves_to_other_rows(hub: FakeHub, tmp_path: Path) -> None:
    publish(tmp_path, only=("out",))
    (tmp_path / "problems.jsonl").write_text(ONE + TWO)
    with pytest.raises(HubError, match="version v1 with other content"):
        publish(tmp_path, only=("out",))
    assert ssd_pipeline.load("me/data", "problems", version="v1")["problem"] == ["1+1?"]


def test_a_push_that_was_made_is_not_made_again(hub: FakeHub, tmp_path: Path) -> None:
    publish(tmp_path)
    events: list[dict] = []
    ssd_pipeline.run(ssd_pipeline.plan(tmp_path / "recipe.yaml"), events.append)
    (out,) = [e for e in events if e["event"] == "stage_finished" and e["stage"] == "out"]
    assert (out["computed"], out["reused"]) == (0, 1)


def test_a_pulled_stage_is_a_hit_and_what_it_stands_on_is_not_made(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = publish(tmp_path)
    monkeypatch.setenv("SSD_HOME", str(tmp_path / "fresh"))
    assert statuses(tmp_path)["verified"] == "waits"
    (kept,) = keep(pull("me/checked", version="v1"), Store.default())
    assert kept.address == made["verified"].address
    now = ssd_pipeline.plan(tmp_path / "recipe.yaml")
    assert (now.stages["verified"].status, now.stages["traces"].status) == ("hit", "miss")
    assert "known from what was pulled" in now.stages["traces"].why
    done = ssd_pipeline.run(now)
    assert done["traces"].found is None, "nothing needed its rows"
    assert isinstance(publish(tmp_path, only=("traces",))["traces"].found, Artifact)


def test_pulling_from_a_shared_repo_brings_what_it_was_made_from(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE + SHARED)
    address = publish(tmp_path, only=("verified",))["verified"].address
    monkeypatch.setenv("SSD_HOME", str(tmp_path / "fresh"))
    kept = keep(pull("me/cache", version=address), Store.default())
    assert [a.address.partition("-")[0] for a in kept] == ["verify_answers", "load_trajectories"]
    hub.seen.clear()
    done = publish(tmp_path, only=("verified", "traces"))
    assert {n: s.status for n, s in done.items()}["verified"] == "hit"
    assert not hub.asked("POST|PUT")


def test_what_was_pulled_once_is_had_off_line(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path)
    ssd_pipeline.load("me/data", "problems", version="v1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert ssd_pipeline.load("me/data", "problems", version="v1")["problem"] == ["1+1?"]
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        ssd_pipeline.load("me/data", "problems", version="v2")


def test_off_line_a_refresh_takes_the_newest_known_commit_and_says_so(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add("them/set", {"train.jsonl": ONE.encode()})
    text = "stages:\n  p: {uses: load_problems, dataset: them/set, revision: main}\n"
    (tmp_path / "r.yaml").write_text(text)
    ssd_pipeline.plan(tmp_path / "r.yaml")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    planned = ssd_pipeline.plan(tmp_path / "r.yaml", refresh=True).stages["p"]
    assert f"the newest known commit of them/set@main is taken, {commit[:8]}" in planned.why
    (tmp_path / "r2.yaml").write_text(text)
    with pytest.raises(Unanswered) as told:
        ssd_pipeline.plan(tmp_path / "r2.yaml")
    (one,) = told.value.mistakes
    assert f"HF_HUB_OFFLINE is set; a full commit as `revision` (another recipe here took {commit})" in one.message
    assert (one.key, one.position.line) == ("stages.p.dataset", 2)
    (tmp_path / "r2.yaml").write_text(text.replace("main", commit))
    assert ssd_pipeline.plan(tmp_path / "r2.yaml").stages["p"].status == "miss"


def test_a_hub_that_does_not_answer_is_nobody_s_mistake(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("them/set", {"train.jsonl": ONE.encode()})
    (tmp_path / "recipe.yaml").write_text("stages:\n  p: {uses: load_problems, dataset: them/set}\n")
    environ = {**client_environment(hub, tmp_path / "other", None), "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = call(tmp_path, "recipe.yaml", **environ)
    assert done.returncode == 2, "nothing was run"
    place, last = done.stderr.splitlines()
    assert place.startswith(
        "recipe.yaml:2:37  stages.p.dataset: cannot look up them/set@main: the Hub cannot be reached"
    )
    assert "a full commit as `revision`, or a local file or path, needs no Hub" in place
    assert last == "Nothing was run."


@pytest.mark.parametrize("revision", ["main", None])
def test_a_commit_that_was_rewritten_away_is_a_mistake_at_the_plan(
    hub: FakeHub, tmp_path: Path, revision: str | None
) -> None:
    commit = hub.add("them/set", {"train.jsonl": ONE.encode()})
    text = f"stages:\n  p: {{uses: load_problems, dataset: them/set, revision: {revision or commit}}}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    ssd_pipeline.plan(tmp_path / "recipe.yaml")
    repo = hub.repos["dataset", "them/set"]
    repo.commits.clear()
    new = hub.add("them/set", {"train.jsonl": (ONE + TWO).encode()})
    hub.seen.clear()
    with pytest.raises(UserErrors) as told:
        ssd_pipeline.plan(tmp_path / "recipe.yaml")
    (one,) = told.value.mistakes
    assert f"them/set has no commit {commit} any more" in one.message
    assert ("which main was when this recipe was first planned" in one.message) == (revision is not None)
    assert (one.key, one.position.line) == ("stages.p.dataset", 2)
    assert len(hub.seen) == 1
    if revision:
        assert "--refresh takes what it is now" in one.message
        made = ssd_pipeline.run(ssd_pipeline.plan(tmp_path / "recipe.yaml", refresh=True))["p"]
        assert made.identity["params"]["dataset"]["revision"] == new
        repo.commits.clear()
        assert ssd_pipeline.plan(tmp_path / "recipe.yaml").stages["p"].status == "hit", "what is here needs no Hub"


def test_a_recipe_is_no_repo(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(UserErrors, match="is a file here; a repo is owner/name"):
        pull(f"{tmp_path.name}/recipe.yaml")
    assert not hub.seen


@pytest.mark.parametrize("repo", ["data", "", "../x", "me/data/more", "https://huggingface.co/me/data", "me/da ta"])
def test_what_names_no_repo_is_a_mistake_and_nobody_is_asked(hub: FakeHub, repo: str) -> None:
    with pytest.raises(UserErrors, match="not the name of a repo: owner/name"):
        ssd_pipeline.load(repo, "problems", version="v1")
    assert not hub.seen


@pytest.mark.parametrize(
    ("output", "version", "says"),
    [
        ("problems", None, "which version\\? Versions of me/data: v1"),
        ("problems", "v9", "no version v9; versions of me/data: v1"),
        ("nope", "v1", "no output nope; there are problems"),
        ("problems", "0" * 40, f"there is no commit {'0' * 40}; versions of me/data: v1"),
    ],
)
def test_what_is_missing_is_a_mistake_that_names_what_there_is(
    hub: FakeHub, tmp_path: Path, output: str, version: str | None, says: str
) -> None:
    publish(tmp_path, only=("out",))
    with pytest.raises(UserErrors, match=says):
        ssd_pipeline.load("me/data", output, version=version)


def test_a_changed_byte_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    publish(tmp_path, only=("out",))
    path = pull("me/data", version="v1").files[0].resolve()
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    with pytest.raises(HubError, match=r"altered|not the file"):
        pull("me/data", version="v1")


def test_the_commands_work_without_any_recipe(hub: FakeHub, tmp_path: Path) -> None:
    publish(tmp_path, only=("checked",))
    environ = client_environment(hub, tmp_path / "other", hub.token("me"))
    place = tmp_path / "place"
    place.mkdir()
    done = call(place, "pull", "me/checked@v1", command=SSD, **environ)
    assert done.returncode == 0, done.stderr
    assert "1 rows, every byte verified" in done.stdout
    assert re.search(r"in the store as verify_answers-[0-9a-f]{16}: a hit", done.stdout)
    assert Path(done.stdout.splitlines()[-1]).is_file()
    done = call(place, "ls", "me/checked", command=SSD, **environ)
    assert done.stdout.splitlines()[0].split() == ["version", "output", "rows", "student", "teacher", "made"]
    assert done.stdout.splitlines()[1].split()[:3] == ["v1", "verified", "1"]
    for words in (["me/data"], ["me/checked@v7"], ["me/nothing@v1"], ["me/checked@v1", "nope"]):
        wrong = call(place, "pull", *words, command=SSD, **environ)
        assert wrong.returncode == 2, wrong.stderr
        assert "Traceback" not in wrong.stderr


LOAD = """
import json, sys, warnings
loaded = []
for code in json.loads(sys.argv[1]):
    place = {}
    exec(code, place)
    loaded.append(list(place["rows"]["problem"]))
print(json.dumps(loaded))
"""


def test_the_command_of_the_card_loads_the_rows_also_at_each_address(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE + SHARED)
    codes = []
    for number, problems in enumerate((ONE, ONE + TWO)):
        (tmp_path / "problems.jsonl").write_text(problems)
        publish(tmp_path, f"stages.out.version=v{number + 1}", only=("out",))
        for repo in ("me/data", "me/cache"):
            text = hub.repos["dataset", repo].find("main").files["README.md"].data.decode()
            assert [c["config_name"] for c in yaml.safe_load(text.split("---")[1])["configs"]] == ["problems"]
            codes += re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    environ = {**os.environ, **client_environment(hub, tmp_path / "reader", hub.token("me"))}
    told = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(codes * 2)], env=environ, capture_output=True, text=True, timeout=120
    )
    assert told.returncode == 0, told.stderr
    one, two = ["1+1?"], ["1+1?", "3?"]
    assert json.loads(told.stdout) == [one, one, two, two] * 2


SECRETS = {"HF_TOKEN": "", "TEACHER_TOKEN": "sk-plantedplantedplanted", "TEACHER_URL": "https://planted.example.org"}


def test_a_token_is_found_nowhere(hub: FakeHub, tmp_path: Path) -> None:
    """The whole of a run with every secret that there can be, the client's own debugging switched on."""
    (tmp_path / "recipe.yaml").write_text(
        RECIPE.replace("me/data", "me/pushed")
        + "models: {teacher: {repo: some/teacher, revision: '"
        + "a" * 40
        + "'}}\n"
        + SHARED
        + '  models: {teacher: {api: tgi, endpoints: ["${TEACHER_URL}"], token: "${TEACHER_TOKEN}"}}\n'
    )
    token = hub.token("me")
    secrets = {**SECRETS, "HF_TOKEN": token, "HF_HUB_VERBOSITY": "debug", "HF_DEBUG": "1"}
    environ = {**client_environment(hub, tmp_path / "hf2", token), **secrets}
    hub.fault("POST .*datasets/me/cache/tag", times=2, status=500)
    told = []
    for words in (["recipe.yaml"], ["recipe.yaml", "--set", "stages.out.version=v2"]):
        done = call(tmp_path, *words, **environ)
        assert done.returncode == 0, done.stderr
        told.append(done.stdout + done.stderr)
    hub.fault("POST .*commit", times=99, status=400, error=f"no: Authorization: Bearer {token}, that is {token}!")
    (tmp_path / "hf2" / "token").write_text(token)
    del environ["HF_TOKEN"]  # it is found in the file
    failed = call(tmp_path, "recipe.yaml", "--set", "stages.out.version=v3", **environ)
    assert failed.returncode == 1
    assert "the Hub answered 400 (no: Authorization: Bearer ***, that is ***!)" in failed.stderr
    told.append(failed.stdout + failed.stderr)
    assert "<TOKEN>" in "".join(told), "the client was debugging"
    (tmp_path / "hf2" / "token").unlink()
    published = [
        blob.data for repo in hub.repos.values() for commit in repo.commits.values() for blob in commit.files.values()
    ]
    kept = [p.read_bytes() for folder in ("store", "hf2") for p in (tmp_path / folder).rglob("*") if p.is_file()]
    for secret in (token, SECRETS["TEACHER_TOKEN"], "planted.example.org"):
        for text in (*published, *kept, *(t.encode() for t in told)):
            assert secret.encode() not in text, text[:200]
    assert str(tmp_path).encode() not in b"".join(published)
    assert all(s.token is None for s in hub.seen if s.port == "cdn")
    assert {s.token for s in hub.seen if s.port == "api"} <= {token, None}


def test_the_commands_of_the_docs_run(hub: FakeHub, tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "hub.md").read_text()
    place = tmp_path / "place"
    place.mkdir()
    (place / "recipe.yaml").write_text(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0])
    (place / "problems.jsonl").write_text(ONE)
    environ = client_environment(hub, tmp_path / "reader", hub.token("your-name"))
    commands = re.findall(r"^\$ (.*)$", text, re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        name, *words = shlex.split(command)
        done = call(place, *words, command=SSD if name == "ssd" else SSD_RUN, **environ)
        assert done.returncode == 0, done.stderr
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    told = subprocess.run(
        [sys.executable, "-c", f"{code}\nassert rows['problem'][0] == '1+1?'"],
        cwd=place,
        text=True,
        env={**os.environ, **environ, "SSD_HOME": str(place / "store")},
        capture_output=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stderr
