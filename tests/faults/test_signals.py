"""Asked to stop: first, rows in flight may finish; again, it leaves at once. Status 130, a message, no traceback."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from fakes.asking import RECIPE, RECORDED, Endpoint
from fakes.trials import SLOW_MACHINE, Bench, Child, Outcome

STOPPING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def slow(endpoint: Endpoint) -> Iterator[Endpoint]:
    """The endpoint takes its time."""
    endpoint.slow_s = 0.04
    yield endpoint
    endpoint.slow_s = 0.0


def stopped(outcome: Outcome) -> None:
    assert outcome.status == 130, (outcome.status, outcome.message())
    assert "the same command" in outcome.message(), outcome.message()
    assert "Traceback" not in outcome.error, outcome.error


def asking(bench: Bench, child: Child, questions: int = 6) -> Child:
    return child.until(lambda: len(bench.questions()) >= questions)


@pytest.mark.parametrize("sign", STOPPING)
@pytest.mark.parametrize("text", [RECIPE, RECORDED], ids=["asked", "recorded"])
def test_the_first_lets_rows_in_flight_finish(
    room: Path, slow: Endpoint, golden: dict, text: str, sign: signal.Signals
) -> None:
    bench = Bench(room / "first", slow, text, group_rows=64)
    child = asking(bench, bench.start())
    child.kill(sign)
    outcome = child.wait()
    stopped(outcome)
    bench.account(outcome)
    begun = {row for row in bench.executions() if row.startswith("ask")}
    assert begun <= bench.durable, "a row in flight was not waited for"
    assert len(begun) < 24
    assert f"{len(begun)} of 24 rows are kept" in outcome.message()
    slow.slow_s = 0.0
    bench.recover(golden[text])


@pytest.mark.parametrize("sign", STOPPING)
@pytest.mark.parametrize("times", [2, 3])
def test_the_second_leaves_at_once(room: Path, slow: Endpoint, golden: dict, sign: signal.Signals, times: int) -> None:
    bench = Bench(room / "second", slow, RECORDED, group_rows=64)
    child = asking(bench, bench.start(), 10)
    slow.slow_s = 30.0
    child.until(lambda: len(bench.questions()) >= 18)
    began = time.monotonic()
    for _ in range(times):
        child.kill(sign)
        time.sleep(0.1)
    outcome = child.wait(20)
    assert time.monotonic() - began < 1.0 * SLOW_MACHINE
    assert outcome.status == 130, (outcome.status, outcome.message())
    assert "Traceback" not in outcome.error, outcome.error
    bench.account(outcome)
    assert len(bench.durable) > 4, "what was finished is not durable"
    slow.slow_s = 0.0
    bench.recover(golden[RECORDED])


def test_the_second_does_not_wait_for_a_thread(room: Path, endpoint: Endpoint, golden: dict) -> None:
    """A local model that writes cannot be interrupted."""
    bench = Bench(room / "thread", endpoint, thinks_s=30)
    child = bench.start().until(lambda: len(bench.executions()) > 4)
    for _ in range(2):
        child.kill(signal.SIGINT)
        time.sleep(0.1)
    assert child.wait(10).status == 130
    bench.thinks_s = 0
    bench.recover(golden[RECIPE])


@pytest.mark.parametrize("sign", STOPPING)
def test_in_a_whole_stage(room: Path, endpoint: Endpoint, golden: dict, sign: signal.Signals) -> None:
    bench = Bench(room / "whole", endpoint, adds_s=20)
    child = bench.start().until(lambda: "add" in bench.executions())
    child.kill(sign)
    outcome = child.wait(10)
    stopped(outcome)
    assert not list((bench.store / "staging").iterdir())
    assert list((bench.store / "work").iterdir()), "checkpoints are kept"
    bench.adds_s = 0
    bench.recover(golden[RECIPE])


@pytest.mark.parametrize("sign", STOPPING)
def test_while_another_run_is_waited_for(room: Path, slow: Endpoint, golden: dict, sign: signal.Signals) -> None:
    bench = Bench(room / "waiting", slow)
    first = asking(bench, bench.start())
    first.kill(signal.SIGSTOP)
    second = bench.start()
    second.until(lambda: '"waiting"' in second.read("out"))
    second.kill(sign)
    stopped(second.wait(10))
    first.kill(signal.SIGCONT)
    assert first.wait().digests() == golden[RECIPE]
    bench.recover(golden[RECIPE])


def test_who_said_nohup_is_not_stopped(room: Path, slow: Endpoint, golden: dict) -> None:
    bench = Bench(room / "nohup", slow)
    child = asking(bench, bench.start(first=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)))
    child.kill(signal.SIGHUP)
    outcome = child.wait()
    assert (outcome.status, outcome.digests()) == (0, golden[RECIPE])


def test_held_and_let_go(room: Path, slow: Endpoint, golden: dict, long: bool) -> None:
    bench = Bench(room / "held", slow, RECORDED)
    child = asking(bench, bench.start())
    child.kill(signal.SIGSTOP)
    time.sleep(10 if long else 0.5)
    child.kill(signal.SIGCONT)
    outcome = child.wait()
    assert (outcome.status, outcome.digests()) == (0, golden[RECORDED])
    bench.recover(golden[RECORDED])


def test_nobody_reads_on(room: Path, endpoint: Endpoint, golden: dict) -> None:
    """`ssd-run --json | head -1`."""
    bench = Bench(room / "head", endpoint)
    reading, writing = os.pipe()
    os.close(reading)
    outcome = bench.run(first=lambda: os.dup2(writing, 1))
    os.close(writing)
    assert outcome.status == 0, outcome.error
    assert "Traceback" not in outcome.error
    bench.recover(golden[RECIPE])


def test_at_any_moment(room: Path, endpoint: Endpoint, golden: dict, long: bool, draw: random.Random) -> None:
    lasts = min(Bench(room / f"clean{n}", endpoint, RECORDED).run().seconds for n in range(3))  # when nothing else ran
    ended = 0
    for number in range(200 if long else 24):
        bench = Bench(room / f"{number}", endpoint, RECORDED)
        child = bench.start()
        child.until(lambda child=child: bool(child.read("out")))
        time.sleep(draw.uniform(0, lasts * 0.7))
        with suppress(ProcessLookupError):  # it was through
            child.kill(STOPPING[number % 3])
        outcome = child.wait()
        assert outcome.status in (0, 130), (outcome.status, outcome.message())
        assert "Traceback" not in outcome.error, outcome.error
        ended += outcome.status == 130
        bench.account(outcome)
        bench.recover(golden[RECORDED])
    assert ended, "no run was stopped"


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_the_installed_command(room: Path, sign: signal.Signals) -> None:
    """Without a fork of ours: the script that users start, in the middle of a real stage."""
    problems = room / "problems.jsonl"
    problems.write_text("".join(f'{{"problem": "What is {n} + 1?", "answer": "{n + 1}"}}\n' for n in range(200_000)))
    recipe = room / "recipe.yaml"
    recipe.write_text("stages:\n  problems: {uses: load_problems, file: problems.jsonl}\n")
    command = [Path(sys.executable).parent / "ssd-run", recipe]
    process = subprocess.Popen(
        command,
        cwd=room,
        env={**os.environ, "SSD_HOME": str(room / "store")},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whoever started the tests may ignore it
    )
    staging = room / "store" / "staging"
    deadline = time.monotonic() + 60
    while not (staging.is_dir() and list(staging.glob("*/data/*"))):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(sign)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "the same command" in error
    assert "Traceback" not in error
    assert list(staging.iterdir()) == []
