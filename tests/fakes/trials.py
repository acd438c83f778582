"""Trials: a recipe run in a forked child that may die, and what must hold afterwards.

Everything is imported once, in the parent; a child runs the real command (cli.py) with toy stages, in a process group
of its own, and never returns.
"""

from __future__ import annotations

import encodings.utf_8_sig  # noqa: F401 - what a child needs is loaded before: it may be out of file handles
import gc
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from fakes import asking
from fakes.faulty import Disk, watched

from ssd_pipeline import cli, display, models, planner, runner  # noqa: F401
from ssd_pipeline.store import artifact, journal, replies
from ssd_pipeline.store.local import Artifact, Store

HANGS_S = 60.0
SLOW_MACHINE = 4  # how much slower than ours a machine may be before a time limit is a failure
EXECUTIONS = {"load_numbers": "load", "ask": "ask", "spell": "spell", "add_up": "add"}


@dataclass
class Outcome:
    """How a child ended: exit status (minus a signal), events, standard error, what it said was durable."""

    status: int
    events: list[dict[str, Any]]
    error: str
    durable: list[str]
    seconds: float

    def finished(self) -> dict[str, dict[str, Any]]:
        return {e["stage"]: e for e in self.events if e["event"] == "stage_finished"}

    def digests(self) -> dict[str, str]:
        return {name: event["digest"] for name, event in self.finished().items()}

    def computed(self) -> int:
        return sum(event["computed"] for event in self.finished().values())

    def message(self) -> str:
        return "\n".join([e["message"] for e in self.events if e["event"] == "error"] + [self.error])


@dataclass
class Child:
    """A running child."""

    pid: int
    folder: Path
    number: int
    began: float = field(default_factory=time.monotonic)

    def kill(self, sign: int = signal.SIGKILL) -> None:
        os.killpg(self.pid, sign)

    def wait(self, timeout_s: float = HANGS_S) -> Outcome:
        deadline = time.monotonic() + timeout_s
        pause = 0.001
        while True:
            pid, raw = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                self.kill()
                os.waitpid(self.pid, 0)
                raise AssertionError(f"a run hung for {timeout_s} s: {self.read('err')[-2000:]}")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.01)
        lines = self.read("out").splitlines()
        events = [json.loads(line) for line in lines if line.endswith("}")]
        status = os.waitstatus_to_exitcode(raw)
        return Outcome(
            status, events, self.read("err"), whole_lines(self.read("durable")), time.monotonic() - self.began
        )

    def until(self, true: Callable[[], bool]) -> Child:
        """Wait until something is so."""
        deadline = time.monotonic() + HANGS_S
        while not true():
            assert time.monotonic() < deadline, f"it never came to pass: {self.read('err')[-2000:]}"
            time.sleep(0.002)
        return self

    def read(self, what: str) -> str:
        path = self.folder / f"{self.number}.{what}"
        return path.read_text() if path.exists() else ""


@dataclass
class Bench:
    """A store, a recipe, an endpoint, and every child that ran with them.

    `durable`: what no later child may execute or ask again; `account` keeps it and holds each child to it.
    """

    folder: Path
    endpoint: asking.Endpoint
    text: str = asking.RECIPE
    group_rows: int = 8
    version: int = 1
    waits_s: float = 0.0
    adds_s: float = 0.0
    thinks_s: float = 0.0
    more: tuple[Any, ...] = ()
    children: int = 0
    durable: set[str] = field(default_factory=set)
    accounted: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.room = os.urandom(6).hex()
        self.path, self.store, self.executed = (self.folder / n for n in ("recipe.yaml", "store", "executed"))
        (self.folder / "home").mkdir()
        self.path.write_text(self.text)

    def kinds(self) -> asking.Kinds:
        waits = self.waits_s, self.adds_s, self.thinks_s
        return asking.Kinds(self.endpoint.port, self.room, self.executed, self.version, *waits)

    def sampler(self, model: Any, tell: Any = None) -> asking.AskingSampler:
        return asking.AskingSampler(self.endpoint.port, self.room)

    def start(
        self,
        disk: Disk | None = None,
        *,
        sets: Sequence[str] = (),
        first: Callable[[], None] | None = None,
        as_json: bool = True,
        **choice: Any,
    ) -> Child:
        """Start the command in a child. `first` runs in it before anything else."""
        self.children += 1
        gc.freeze()
        pid = os.fork()
        if pid == 0:
            self._child(disk or Disk(), sets, first, choice, as_json)
        child = Child(pid, self.folder, self.children)
        with suppress(OSError):  # the child was faster
            os.setpgid(pid, pid)
        return child

    def run(self, disk: Disk | None = None, **more: Any) -> Outcome:
        outcome = self.start(disk, **more).wait()
        self.account(outcome)
        return outcome

    def _child(
        self,
        disk: Disk,
        sets: Sequence[str],
        first: Callable[[], None] | None,
        choice: dict[str, Any],
        as_json: bool,
    ) -> None:
        status = 70
        try:
            os.setpgid(0, 0)
            for number, what in ((1, "out"), (2, "err")):
                os.dup2(os.open(self.folder / f"{self.children}.{what}", os.O_WRONLY | os.O_CREAT), number)
            sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))  # noqa: SIM115 - until the end
            for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(sign, signal.default_int_handler if sign == signal.SIGINT else signal.SIG_DFL)
            disk.report = os.open(
                self.folder / f"{self.children}.durable", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
            )
            os.environ.update(SSD_HOME=str(self.store), HOME=str(self.folder / "home"))
            journal.GROUP_ROWS = replies.GROUP_ROWS = self.group_rows
            models.open_sampler, models.open_prompts = self.sampler, asking.prompts
            models.open_scorer = lambda model: asking.HashScorer()
            cli.KINDS = {**self.kinds().all(), **{stage.kind: stage for stage in self.more}}
            if first:
                first()
            with watched(disk.around):
                cli.run_command(str(self.path), sets=list(sets), as_json=as_json, **choice)
            status = 0
        except typer.Exit as ended:
            status = ended.exit_code
        except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as the tests
            traceback.print_exc()
            status = 99
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)

    def here(self, *sets: str, listen: Callable[[dict[str, Any]], None] = lambda e: None) -> dict[str, dict[str, Any]]:
        """Run in this process; the finished stages."""
        kept = journal.GROUP_ROWS, replies.GROUP_ROWS, models.open_sampler
        journal.GROUP_ROWS = replies.GROUP_ROWS = self.group_rows
        models.open_sampler = self.sampler
        events: list[dict[str, Any]] = []

        def told(event: dict[str, Any]) -> None:
            events.append(event)
            listen(event)

        kinds = self.kinds()
        try:
            runner.run(planner.plan(self.path, kinds.all(), sets=sets, store=Store(self.store)), told)
        finally:
            journal.GROUP_ROWS, replies.GROUP_ROWS, models.open_sampler = kept
            for opened in kinds.opened:
                os.close(opened)
        return {e["stage"]: e for e in events if e["event"] == "stage_finished"}

    def executions(self) -> list[str]:
        return self.executed.read_text().splitlines() if self.executed.exists() else []

    def questions(self) -> list[str]:
        return self.endpoint.questions[self.room]

    def account(self, *outcomes: Outcome) -> None:
        """I1, I2: nothing that was durable before these children ran was executed or asked by them."""
        executions, questions = self.executions(), self.questions()
        again = {*executions[self.accounted[0] :]} & self.durable
        assert not again, f"executed although durable: {sorted(again)}"
        bought = {f"reply {asking.answer(q)}" for q in questions[self.accounted[1] :]} & self.durable
        assert not bought, f"asked although the answer was stored: {sorted(bought)}"
        self.accounted = len(executions), len(questions)
        for outcome in outcomes:
            self.durable |= {row for line in outcome.durable if (row := durable(line))}
        for address in os.listdir(self.store / "artifacts") if (self.store / "artifacts").is_dir() else ():
            done = EXECUTIONS.get(address.partition("-")[0])
            self.durable |= {row for row in executions if done and row.startswith(done)}

    def recover(self, golden: dict[str, str]) -> Outcome:
        """An undisturbed run after deaths: I1 to I5, I7, I11."""
        self.whole()
        last = self.run()
        assert last.status == 0, (last.status, last.message())
        assert last.digests() == golden
        assert last.seconds < 5 * SLOW_MACHINE
        self.whole()
        self.tidy()
        return last

    # ------------------------------------------------------------------------------- what must hold

    def whole(self) -> None:
        """I3: what stands under artifacts/ is whole."""
        store = Store(self.store)
        for address in store.addresses():
            found = store.find(address)
            assert isinstance(found, Artifact), f"{address}: {found}"
            artifact.verify(found.directory, found.record)

    def tidy(self) -> None:
        """I5: after a run that was not disturbed nothing is on disk that is not known."""
        strangers = [
            path
            for part in ("staging", "journals", "work", "runs", "index", "replies", "home")
            for path in sorted(((self.folder if part == "home" else self.store) / part).rglob("*"))
            if not self._known(part, path)
        ]
        assert not strangers, strangers
        assert {p.name for p in self.store.iterdir()} <= {
            *("artifacts", "staging", "journals", "work", "runs", "index", "replies", "locks")
        }

    def _known(self, part: str, path: Path) -> bool:
        match part:
            case "runs":
                return path.is_dir() or (path.suffix == ".json" and not path.name.startswith("."))
            case "index":
                return path.is_dir() or (self.store / "artifacts" / path.name).is_dir()
            case "replies":
                return path.suffix == ".log" or path.name == "index.sqlite"
        return False


def whole_lines(text: str) -> list[str]:
    return [line.rstrip("\n") for line in text.splitlines(keepends=True) if line.endswith("\n")]


def durable(line: str) -> str | None:
    """The execution that a durable record saves: `ask 3`, `spell 3`, or `reply <answer>`."""
    kind, _, text = line.partition(" ")
    value = json.loads(text)
    if kind == "reply":
        return f"reply {value[0].strip()}"
    if value.get("of") is not None:
        return f"spell {value['of']}"
    return "ask " + value["said"].partition("/")[0].removeprefix("n ") if value.get("said") else None


def golden(bench: Bench) -> dict[str, str]:
    """The digests of an undisturbed run, which is held to what every run must hold."""
    outcome = bench.run()
    assert outcome.status == 0, outcome.message()
    bench.whole()
    bench.tidy()
    return outcome.digests()


def in_pairs(trial: Callable[[Any], None], trials: Iterable[Any]) -> None:
    """Two at a time: a trial mostly waits for its child."""
    with ThreadPoolExecutor(2) as threads:
        for _ in threads.map(trial, trials):
            pass
