"""Whatever happens to a store in whatever order, a run ends with the rows of a fresh store, or refuses and says why.

A hypothesis state machine over one store; the model is a dict from what was asked for to the digests that a fresh store
gives. Killed and refused runs are forked children, the others run here.
"""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import tempfile
from pathlib import Path
from typing import ClassVar

from fakes.asking import RECORDED, Endpoint, answer
from fakes.faulty import Disk
from fakes.trials import Bench, durable
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ssd_pipeline.errors import StoreError
from ssd_pipeline.store.local import Store

START = {"label": "''", "factor": "1", "limit": "5", "stride": "1", "repeat": "1", "name": "asked", "only": "[]"}
CHOICES = st.one_of(
    st.tuples(st.just("label"), st.sampled_from(["''", "other"])),
    st.tuples(st.just("factor"), st.sampled_from(["1", "2"])),
    st.tuples(st.just("limit"), st.sampled_from(["5", "7"])),
    st.tuples(st.just("stride"), st.sampled_from(["1", "3"])),
    st.tuples(st.just("repeat"), st.sampled_from(["1", "2"])),
    st.tuples(st.just("name"), st.sampled_from(["asked", "renamed"])),
    st.tuples(st.just("only"), st.sampled_from(["[]", "[0, 2, 3]"])),
)


def written(chosen: dict[str, str]) -> str:
    """The recipe for a choice."""
    where = "" if chosen["only"] == "[]" else f", where: {{number: {chosen['only']}}}"
    lines = RECORDED.replace("asked", chosen["name"]).splitlines()
    numbers = f"limit: {chosen['limit']}, stride: {chosen['stride']}, repeat: {chosen['repeat']}"
    edits = {
        "  numbers:": f"  numbers: {{uses: load_numbers, {numbers}}}",
        f"  {chosen['name']}:": f"  {chosen['name']}: {{uses: ask, input: numbers, teacher: teacher, "
        f"label: {chosen['label']}{where}}}",
        "  spelled:": f"  spelled: {{uses: spell, input: {chosen['name']}, factor: {chosen['factor']}}}",
    }
    for i, line in enumerate(lines):
        for begin, edited in edits.items():
            if line.startswith(begin):
                lines[i] = edited
    return "\n".join(lines) + "\n"


class AnyStore(RuleBasedStateMachine):
    endpoint: ClassVar[Endpoint]
    known: ClassVar[dict[tuple[str, int], list[str]]] = {}

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        self.bench = Bench(self.folder / "bench", self.endpoint, group_rows=3)
        self.chosen = dict(START)
        self.harmed = False
        self.stored: set[str] = set()  # answers that nobody may ask for again
        self.asked = 0

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def expected(self) -> list[str]:
        """The digests of this choice from a fresh store."""
        key = written(self.chosen).replace("renamed", "asked"), self.bench.version
        if key not in self.known:
            fresh = Bench(self.folder / f"fresh{len(self.known)}", self.endpoint, key[0], group_rows=3)
            fresh.version = self.bench.version
            self.known[key] = [event["digest"] for event in fresh.here().values()]
        return self.known[key]

    def say(self) -> None:
        self.bench.path.write_text(written(self.chosen))

    @rule(choice=CHOICES)
    def edit(self, choice: tuple[str, str]) -> None:
        self.chosen[choice[0]] = choice[1]

    @rule(version=st.sampled_from([1, 2]))
    def upgrade(self, version: int) -> None:
        self.bench.version = version

    @rule()
    def run(self) -> None:
        self.say()
        before = self.asked
        for _ in range(20):  # each refusal names one artifact, and removing that is the advice
            try:
                finished = self.bench.here()
            except StoreError as error:
                self.follow_the_advice(str(error))
            else:
                break
        assert [event["digest"] for event in finished.values()] == self.expected()
        self.account()
        self.stored |= {answer(question) for question in self.bench.questions()[before:]}
        assert not list((self.bench.store / "staging").iterdir()), "drafts are left"
        executed, asked = len(self.bench.executions()), len(self.bench.questions())
        again = self.bench.here()
        assert sum(event["computed"] for event in again.values()) == 0
        assert (len(self.bench.executions()), len(self.bench.questions())) == (executed, asked)

    def follow_the_advice(self, refusal: str) -> None:
        address = re.search(r"ssd rm (?:--force )?(\S+)`", refusal)
        assert address, refusal
        assert self.harmed, refusal
        Store(self.bench.store).remove(address[1])

    def account(self) -> None:
        again = {answer(question) for question in self.bench.questions()[self.asked :]} & self.stored
        assert not again, f"asked although the answer was stored: {sorted(again)}"
        self.asked = len(self.bench.questions())

    @rule(at=st.integers(1, 160), when=st.sampled_from(["before", "after"]))
    def die(self, at: int, when: str) -> None:
        self.outside(Disk(at, when))

    @rule(at=st.integers(1, 160), ever=st.booleans(), number=st.sampled_from([errno.ENOSPC, errno.EIO]))
    def refuse(self, at: int, ever: bool, number: int) -> None:
        self.outside(Disk(at, refuse=number, ever=ever))

    def outside(self, disk: Disk) -> None:
        """A disturbed run, in a child."""
        self.say()
        outcome = self.bench.start(disk).wait()
        assert outcome.status in (-9, 0, 1), outcome.message()
        assert "Traceback" not in outcome.message(), outcome.message()
        self.account()
        told = (durable(line) for line in outcome.durable)
        self.stored |= {row.removeprefix("reply ") for row in told if row and row.startswith("reply")}

    @precondition(lambda self: (self.bench.store / "artifacts").exists())
    @rule(seed=st.integers(0, 2**32), how=st.sampled_from(["flip", "cut", "delete", "no record", "gone"]))
    def harm_an_artifact(self, seed: int, how: str) -> None:
        draw = random.Random(seed)  # sizes differ from run to run, so that hypothesis itself must not draw by them
        found = sorted((self.bench.store / "artifacts").iterdir())
        if not found:
            return
        directory = draw.choice(found)
        files = [p for p in sorted(directory.rglob("*")) if p.is_file() and p.stat().st_size]
        self.harm()
        match how:
            case "no record":
                (directory / "record.json").unlink(missing_ok=True)
            case "gone":
                shutil.rmtree(directory)
            case _ if files:
                harm(draw.choice(files), how, draw)

    @rule(
        seed=st.integers(0, 2**32),
        part=st.sampled_from(["journals", "replies", "index", "runs", "locks"]),
        how=st.sampled_from(["flip", "cut", "delete"]),
    )
    def harm_what_saves_work(self, seed: int, part: str, how: str) -> None:
        draw = random.Random(seed)
        files = [p for p in sorted((self.bench.store / part).rglob("*")) if p.is_file() and p.stat().st_size]
        if files:
            self.harm()
            harm(draw.choice(files), how, draw)

    def harm(self) -> None:
        """What was stored may be lost, and asked for again."""
        self.harmed, self.stored = True, set()

    @invariant()
    def every_artifact_is_whole(self) -> None:
        if not self.harmed:
            self.bench.whole()


def test_any_store(endpoint: Endpoint, long: bool) -> None:
    class Here(AnyStore):
        pass

    Here.endpoint = endpoint
    examples, steps = (1000, 50) if long else (50, 20)
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def harm(path: Path, how: str, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    match how:
        case "flip":
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            path.write_bytes(data)
        case "cut":
            path.write_bytes(data[: draw.randrange(len(data))])
        case "delete":
            path.unlink()
