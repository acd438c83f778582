"""The fixture of the fault tests: an endpoint on a loopback socket that remembers every question, and stages that ask.

The endpoint's answer is a hash of the question, so that any run of any process gives the same rows. The stages write
what they execute into a file that outlives them (`executed`), for a process that is killed cannot tell. `RECORDED` is
the same recipe asked through a recorded sampler, several questions a row.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa

from ssd_pipeline.prompts import ModelPrompts
from ssd_pipeline.records import Fate, Spend, arrow_schema, column
from ssd_pipeline.stage import (
    Branch,
    Chunk,
    Model,
    ModelName,
    Params,
    RowStage,
    Sample,
    Sampling,
    Score,
    Scored,
    Served,
    WholeStage,
)


def answer(question: str) -> str:
    """What the endpoint says."""
    return hashlib.sha256(question.encode()).hexdigest()[:12]


@dataclass
class Endpoint:
    """A running endpoint; `questions` in the order in which they came, by the room that asked."""

    port: int = 0
    questions: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    slow_s: float = 0.0


@contextmanager
def endpoint() -> Iterator[Endpoint]:
    """An endpoint that answers POSTs of {"questions": [...]} to /<room> with {"answers": [...]}."""
    told = Endpoint()
    pause = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["questions"]
            told.questions[self.path[1:]].extend(asked)
            pause.wait(told.slow_s)
            body = json.dumps({"answers": [answer(q) for q in asked]}).encode()
            try:
                self.wfile.write(b"HTTP/1.0 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the one who asked was killed

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

        def handle_error(self, *_: Any) -> None:
            pass  # a client that is killed in the middle of its question

    with Server(("127.0.0.1", 0), Handler) as server:
        told.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield told
        finally:
            server.shutdown()
            thread.join()


async def ask(port: int, room: str, questions: list[str]) -> list[str]:
    """One request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        body = json.dumps({"questions": questions}).encode()
        writer.write(b"POST /%b HTTP/1.0\r\ncontent-length: %d\r\n\r\n%b" % (room.encode(), len(body), body))
        reply = await reader.read()
        return list(json.loads(reply.partition(b"\r\n\r\n")[2])["answers"])
    finally:
        writer.close()


@dataclass(frozen=True)
class AskingSampler:
    """A `Sampler` that asks the endpoint: the question is the text and the seed."""

    port: int
    room: str

    async def sample(self, ask_for: Sample, keep: Any = None) -> list[Branch]:
        answers = await ask(
            self.port, self.room, [f"{ask_for.prompt}{ask_for.prefix}#{seed}" for seed in ask_for.seeds]
        )
        return [Branch(f" {text}", 6, "eos" if text[0] in "0123" else "length") for text in answers]

    async def served(self) -> Served:
        return Served("toy/teacher", None, "unverifiable")

    async def close(self) -> None:
        pass


class HashScorer:
    """A `Scorer` whose tokens are words and whose log-probabilities are hashes of all the text so far."""

    async def score(self, ask_for: Score) -> list[Scored]:
        before = ask_for.prompt + ask_for.prefix
        return [Scored((-int(answer(before + branch)[:6], 16) / 2**24 - 0.5,)) for branch in ask_for.branches]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        ends = [found.start() for found in re.finditer(r"(?<!^) |$", text)]
        return list(zip([0, *ends], ends, strict=False))

    def at_once(self, tokens: int) -> int:
        return 1000

    async def close(self) -> None:
        pass


def prompts(model: Model) -> ModelPrompts:
    return ModelPrompts(model.format, lambda messages: f"{model.name}[{messages[-1]['content']}]>")


@dataclass(frozen=True)
class Number:
    problem: str
    number: int
    error: str | None


@dataclass(frozen=True)
class Said:
    said: str | None
    fate: Fate
    spend: Spend
    error: str | None
    took: float | None = column(measured=True)


@dataclass(frozen=True)
class Letter:
    place: int
    letter: str


@dataclass(frozen=True)
class Spelled:
    of: int | None
    spelled: int | None
    letters: list[Letter] = column(table="letters")


@dataclass(frozen=True)
class Total:
    total: int


class LoadParams(Params):
    limit: int = 24
    start: int = 0
    stride: int = 1  # prime to `limit`: another order of the same rows
    repeat: int = 1


class AskParams(Params):
    teacher: ModelName | None = None
    label: str = ""


class SpellParams(Params):
    factor: int = 1
    text: str = "said"


@dataclass
class Kinds:
    """The stages, told where the endpoint is. `executed`: a file with one line per execution. `version`: of `ask`."""

    port: int
    room: str
    executed: Path
    version: int = 1
    waits_s: float = 0.0
    adds_s: float = 0.0
    thinks_s: float = 0.0
    opened: list[int] = field(default_factory=list)

    def all(self) -> dict[str, Any]:
        asks = RowStage(
            "ask",
            self.version,
            AskParams,
            reads=lambda p: ("problem",),
            adds=Said,
            run=self.ask,
            failed=lambda reason: Said(None, Fate.error, Spend(), reason, None),
            random=True,
            seeded_by=("problem",),
            summarize=lambda params, rows: {"accepted": sum(r["fate"] == "accepted" for r in rows)},
        )
        spells = RowStage(
            "spell",
            1,
            SpellParams,
            reads=lambda p: ("number", p.text),
            adds=Spelled,
            run=self.spell,
            failed=lambda reason: Spelled(None, None, []),
        )
        loads = WholeStage("load_numbers", 1, LoadParams, self.load, "rows", Number, inputs=(0, 0), loads=True)
        adds = WholeStage("add_up", 1, Params, self.add, "rows", Total, reads=lambda p: ("spelled",), inputs=(1, None))
        return {kind.kind: kind for kind in (loads, asks, spells, adds)}

    def did(self, what: str) -> None:
        """One more execution; a single small append is whole or absent."""
        if not self.opened:
            self.opened.append(os.open(self.executed, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))
        os.write(self.opened[0], f"{what}\n".encode())

    def load(self, params: LoadParams, ctx: Any) -> dict[str, Any]:
        self.did("load")
        order = [params.start + i * params.stride % params.limit for i in range(params.limit)]
        rows = ({"problem": f"n {n}", "number": n, "error": None} for n in order for _ in range(params.repeat))
        return {"rows": ctx.write_rows(arrow_schema(Number), rows)}

    async def ask(self, row: Any, params: AskParams, ctx: Any) -> Said:
        self.did(f"ask {row['number']}")
        if self.thinks_s:
            await asyncio.to_thread(time.sleep, self.thinks_s)
        text = f"{row['problem']}/{ctx.ordinal}{params.label}"
        if params.teacher:
            sampler = await ctx.sampler(params.teacher)
            spend = Spend()
            for _ in range(1 + row["number"] % 3):
                seeds = (ctx.seed, ctx.seed + 1)
                branches = await sampler.sample(Sample(text, "", Chunk(max_tokens=9), Sampling(), seeds))
                text += min(branch.text for branch in branches)
                spend += Spend(12, 6, 6)
            return Said(text, Fate.accepted, spend, None, 0.5)
        for call in range(1 + row["number"] % 2):
            (said,) = await ask(self.port, self.room, [f"{text}#{call}"])
            text += said
        await asyncio.sleep(self.waits_s)
        return Said(text, Fate.accepted, Spend(6, 6), None, 0.25)

    async def spell(self, row: Any, params: SpellParams, ctx: Any) -> Spelled:
        self.did(f"spell {row['number']}")
        text = row[params.text]
        letters = [Letter(i, letter) for i, letter in enumerate(text[-3:])]
        return Spelled(row["number"], sum(map(ord, text)) * params.factor, letters)

    def add(self, params: Params, ctx: Any) -> dict[str, Any]:
        self.did("add")
        time.sleep(self.adds_s)
        total = sum(row["spelled"] for source in ctx.inputs for row in source.rows(["spelled"]))
        ctx.write_rows(pa.schema([("total", pa.int64())]), [{"total": total}])
        return {"total": total}


RECIPE = """\
name: faults
seed: 7
models: {teacher: {repo: toy/teacher, revision: "0123456789012345678901234567890123456789"}}
stages:
  numbers: {uses: load_numbers}
  asked: {uses: ask, input: numbers}
  spelled: {uses: spell, input: asked}
  total: {uses: add_up, input: spelled}
runtime: {rows_in_flight: 4}
"""
RECORDED = RECIPE.replace("{uses: ask, input: numbers}", "{uses: ask, input: numbers, teacher: teacher}")
