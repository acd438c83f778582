"""Whole runs against endpoints that fail: rows come out as if nothing had happened, or the run says how to go on.

The command's own parts do everything (plan, driver, journal, replies, sampler, sockets); the teacher is the toy model
of fakes/endpoints.py, and what it answered well is compared with what the run kept.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fakes import endpoints
from fakes.endpoints import Fault, Server, llamacpp, serve, tgi, vllm
from test_endpoint_faults import TABLE

from ssd_pipeline import planner, runner
from ssd_pipeline.errors import EndpointError, RunError
from ssd_pipeline.models import retry
from ssd_pipeline.stages import KINDS
from ssd_pipeline.store.local import Store

TOKEN = "a-token-of-this-recipe"
PROBLEMS = 24
RECIPE = """\
name: endpoints
seed: 7
models: {{teacher: {{path: teacher}}}}
stages:
  problems: {{uses: load_problems, file: problems.jsonl}}
  sampled:
    uses: sample_branches
    input: problems
    teacher: teacher
    branches: 3
    chunk: {{max_tokens: 8, stop: [" plus"]}}
    max_tokens: 24
    select: {{criterion: random}}
runtime:
  models:
    teacher: {{api: {api}, endpoints: {urls}, token: "${{TOKEN}}", served_name: org/teacher, concurrency: 8, {more}}}
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    endpoints.tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


@pytest.fixture(autouse=True, scope="module")
def fast() -> Iterator[None]:
    pace = {"first_s": 0.01, "most_s": 0.05, "rest_s": 0.2, "minute_s": 60.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retry.Pace, "__init__", lambda self: vars(self).update(pace))
        patch.setenv("TOKEN", TOKEN)
        yield


class Runs:
    """A folder with a recipe and a store; every event of every run in it."""

    def __init__(self, folder: Path, toy: Path, api: str, *urls: str, more: str = "patience_s: 20") -> None:
        self.folder, self.events = folder, []
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "teacher").symlink_to(toy)
        problems = [{"problem": f"what is {i} + {i}?", "answer": str(2 * i)} for i in range(PROBLEMS)]
        (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, problems)))
        text = RECIPE.format(api=api, urls=json.dumps(urls), more=more)
        (folder / "recipe.yaml").write_text(text)

    def run(self, listen: Callable[[dict], None] = lambda event: None) -> dict[str, Any]:
        """One run; what it says of the stage that samples."""

        def told(event: dict) -> None:
            self.events.append(event)
            listen(event)

        runner.run(planner.plan(self.folder / "recipe.yaml", KINDS, store=Store(self.folder / "store")), told)
        return next(e for e in reversed(self.events) if e["event"] == "stage_finished" and e["stage"] == "sampled")

    def until_done(self) -> dict[str, Any]:
        """The same command until it succeeds. What each failure says is kept as an event."""
        for _ in range(50):
            try:
                return self.run()
            except RunError as error:
                self.events.append({"event": "error", "message": str(error)})
        raise AssertionError("it never succeeded")

    def record(self) -> dict[str, Any]:
        (path,) = (self.folder / "store" / "artifacts").glob("sample_branches-*/record.json")
        return json.loads(path.read_text())

    def leaks(self) -> list[str]:
        """Where the token can be read, outside the recipe."""
        files = [path for path in (self.folder / "store").rglob("*") if path.is_file()]
        found = [str(path) for path in files if TOKEN.encode() in path.read_bytes()]
        return found + [str(event) for event in self.events if TOKEN in str(event)]


@pytest.fixture(scope="module")
def golden(toy: Path, fast: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    digests = set()
    for api, kind in (("tgi", tgi), ("completions", vllm), ("completions", llamacpp)):
        with serve(kind) as server:
            runs = Runs(tmp_path_factory.mktemp("golden"), toy, api, server.url)
            digests.add(runs.run()["digest"])
            assert asked_twice(server) == []
            served = runs.record()["served"]["teacher"]
            assert served["check"] == "unverifiable"
            assert PROBLEMS * 3 <= served["joins"] > served["changed_joins"] > 0
            assert not runs.leaks()
    assert len(digests) == 1, "the artifact depends on the format that bought it"
    return digests.pop()


def asked_twice(*servers: Server) -> list[str]:
    """Requests that were answered well more than once. What a dying server sends may or may not arrive."""
    given = Counter(json.dumps(body, sort_keys=True) for server in servers for body in server.given)
    return [body for body, times in given.items() if times > 1]


def passing(kind: Callable) -> list[Fault]:
    """Every way of the table in which a request can fail and be answered the next time."""
    slow = {"81 a byte now and then", "81 never"}
    return [fault for name, of, fault, passes, _ in TABLE if of is kind and passes == "same" and name not in slow]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("api", "kind"), [("tgi", tgi), ("completions", vllm)])
def test_three_of_ten_requests_fail(seed: int, api: str, kind, tmp_path: Path, toy: Path, golden: str) -> None:
    draw = random.Random(seed)
    ways = [*passing(kind), Fault(cut=0), Fault(hang_s=2.2, spoil=lambda reply: reply)]
    print(f"seed {seed}: {len(ways)} ways")
    with serve(kind) as server:
        server.faults = [draw.choice(ways) if draw.random() < 0.3 else None for _ in range(5000)]
        runs = Runs(tmp_path, toy, api, server.url, more="patience_s: 20, timeout_s: 2")
        done = runs.until_done()
        requests = len(server.posts())
    assert done["digest"] == golden
    assert asked_twice(server) == [], "an answered request was asked again"
    assert requests - len(server.given) > 0.15 * requests  # three of ten, as the dice fall
    assert not runs.leaks()


def apart(runs: Runs) -> Future[dict[str, Any]]:
    """A run in a thread of its own."""
    future: Future[dict[str, Any]] = Future()

    def work() -> None:
        try:
            future.set_result(runs.run())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is taken
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def reached(server: Server, count: int) -> None:
    """Wait until so many requests were answered."""
    deadline = time.monotonic() + 60
    while len(server.given) < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def port_of(server: Server) -> int:
    return int(server.url.rpartition(":")[2])


def test_an_endpoint_killed_in_mid_run_and_started_again(tmp_path: Path, toy: Path, golden: str) -> None:
    with serve(vllm, slow_s=0.02) as server:
        runs = Runs(tmp_path, toy, "completions", server.url)
        future = apart(runs)
        reached(server, 10)
    time.sleep(0.7)
    assert not future.done()
    with serve(vllm, port=port_of(server)) as again:
        assert future.result(60)["digest"] == golden
        assert asked_twice(server, again) == []
        assert len(again.posts()) > 5
    notes = [event["note"] for event in runs.events if event.get("note")]
    assert any("waiting, 20 s at most" in note for note in notes)
    assert any("answers again" in note for note in notes)


def test_an_endpoint_killed_for_good(tmp_path: Path, toy: Path, golden: str) -> None:
    with serve(vllm, slow_s=0.02) as server:
        runs = Runs(tmp_path, toy, "completions", server.url, more="patience_s: 0.5")
        future = apart(runs)
        reached(server, 30)
    with pytest.raises(
        EndpointError, match=r"no good answer for 0\.5 s. What is done is kept: the same command goes on"
    ):
        future.result(60)
    with serve(vllm, port=port_of(server)) as again:
        assert runs.run()["digest"] == golden
        assert asked_twice(server, again) == []


def test_one_of_two_endpoints_killed_for_good(tmp_path: Path, toy: Path, golden: str) -> None:
    with serve(tgi) as other:
        with serve(tgi, slow_s=0.02) as server:
            runs = Runs(tmp_path, toy, "tgi", server.url, other.url, more="patience_s: 0.5")
            future = apart(runs)
            reached(server, 20)
        assert future.result(60)["digest"] == golden
        assert len(other.given) > 20
        assert asked_twice(server, other) == []


@pytest.mark.parametrize("quietly", [True, False])
def test_an_endpoint_that_changes_its_model_in_mid_run(quietly: bool, tmp_path: Path, toy: Path, golden: str) -> None:
    """By a restart, or by an update that no request fails of: the new server is there when the old one goes."""
    with ExitStack() as stack:
        with serve(tgi, slow_s=0.02) as server:
            runs = Runs(tmp_path, toy, "tgi", server.url)
            future = apart(runs)
            reached(server, 40)
            if quietly:
                server.lock.acquire()  # nothing new is begun until the new server is there
        time.sleep(0 if quietly else 0.3)
        new = stack.enter_context(serve(tgi, port=port_of(server), sha="updated"))
        if quietly:
            server.lock.release()
        with pytest.raises(EndpointError, match="it serves org/teacher updated, but org/teacher c0ffee was served"):
            future.result(60)
        assert new.posts() == [], "a row of the new model is among those of the old one"
    with serve(tgi, port=port_of(server)) as again:
        assert runs.run()["digest"] == golden
        assert asked_twice(server, again) == []


def test_the_log_at_its_most_talkative_holds_no_token(
    tmp_path: Path, toy: Path, caplog: pytest.LogCaptureFixture, golden: str
) -> None:
    caplog.set_level(logging.DEBUG)
    said = Fault(500, json.dumps({"error": f"no: {TOKEN}"}), {"x-token": TOKEN})
    with serve(vllm) as server:
        server.faults = [said, None, said]
        runs = Runs(tmp_path, toy, "completions", server.url)
        assert runs.run()["digest"] == golden
    assert not runs.leaks()
    messages = [record.getMessage() for record in caplog.records]
    assert messages
    assert not any(TOKEN in message for message in messages)
