"""Servers that others wrote, asked by the real command; what came back is held against what they generated.

    make test-servers       (SSD_WRITE_DOCS=1 puts the table into docs/teachers.md)

`ssd-run` runs recipe.yaml against each server through a proxy that remembers the exchanges (serving.py). Held must: the
texts of the token ids that a server generated, joined, are the branches of the artifact, and the student's
log-probabilities of those tokens are the server's at temperature 1, where both compute in float32. llama.cpp computes
with 4-bit weights and 8-bit activations: there the figure is shown.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

from serving import LLAMACPP, SERVERS, VLLM, Recorder, Server, Told, recorded, started

from ssd_pipeline.models.loading import load_tokenizer
from ssd_pipeline.models.pieces import piece_seed
from ssd_pipeline.models.rendering import prompts
from ssd_pipeline.models.scorer import TransformersScorer
from ssd_pipeline.stage import Model, ModelRuntime, Score
from ssd_pipeline.store.artifact import read_rows

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODEL = Model("student", path=SERVERS / "model", dtype="float32", runtime=ModelRuntime(device="cpu"))
DOCS = ROOT / "docs" / "teachers.md"
LIMIT = 0.01  # of the mean difference between two computations in float32


@dataclass(frozen=True)
class Generated:
    """What a server generated `before` which text, the end token left out. `text`: of the ids, up to and with a stop.
    `logprobs`: one per id, None where the server keeps it to itself: llama.cpp from a stop or a cut character on.
    """

    before: str
    text: str
    ids: list[int]
    logprobs: list[float | None]


@dataclass
class Findings:
    """The row of the table, and what is wrong."""

    server: str
    version: str
    requests: int = 0
    branches: int = 0
    equal: int = 0
    tokens: int = 0
    differences: list[float] = field(default_factory=list)
    replies: int = 0
    shortened: int = 0  # of them: a stop ends inside a token, or a character after the last
    recut: int = 0  # of them: in the whole text the student's tokeniser cuts other tokens than the server had
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def row(self) -> str:
        texts = f"{self.equal} of {self.branches} | {self.shortened} and {self.recut} of {self.replies}"
        tokens = f"{len(self.differences)} of {self.tokens} | {self.mean:.5f} | {max(self.differences):.5f}"
        return f"| {self.server} | {self.requests} | {texts} | {tokens} | {self.seconds:.0f} s |"

    @property
    def mean(self) -> float:
        return sum(self.differences) / len(self.differences)


HEAD = """\
| server | requests | branches equal | replies shortened, recut | tokens compared | mean difference | largest | run |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def run(port: int, home: Path) -> tuple[Path, float]:
    """The real command against a teacher on this port; the folder of the trajectories, and seconds."""
    environ = {**os.environ, "SSD_HOME": str(home), "TEACHER_URL": f"http://127.0.0.1:{port}"}
    begin = time.monotonic()
    command = [Path(sys.executable).parent / "ssd-run", HERE / "recipe.yaml", "--json"]
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode != 0:
        raise RuntimeError(f"ssd-run ended with {done.returncode}: {events[-1:]}")
    (address,) = (e["address"] for e in events if (e["event"], e.get("stage")) == ("stage_finished", "trajectories"))
    return home / "artifacts" / address, time.monotonic() - begin


class Judge:
    """Holds one run against its server."""

    def __init__(self, found: Findings) -> None:
        self.found = found
        self.scorer = TransformersScorer(MODEL)
        self.prompts = prompts(MODEL)
        self.tokenizer = load_tokenizer(MODEL)

    def generated(self, seen: Recorder) -> dict[tuple[str, int], Generated]:
        """Each recorded branch, by the text before it and its seed."""
        return {
            (body["prompt"], body["seed"] + i): self._generated(body["prompt"], body.get("stop", ()), told)
            for body, branches in seen.exchanges
            for i, told in enumerate(branches)
        }

    def _generated(self, before: str, stops: Sequence[str], told: Told) -> Generated:
        text, ids, pairs = told
        if ids[-1] == self.tokenizer.eos_token_id:
            ids = ids[:-1]
        spelt = self.tokenizer.decode(ids)
        ends = [spelt.find(stop) + len(stop) for stop in stops if stop in spelt]
        whole = spelt[: min(ends)] if ends else spelt.rstrip("\ufffd")
        if not whole.startswith(text.rstrip("\ufffd")):
            self.found.wrong.append(f"the ids of {text!r} spell {spelt!r}")
        self.found.shortened += whole != spelt
        alike = takewhile(lambda both: both[0][0] == both[1], zip(pairs, ids, strict=False))
        logprobs = [logprob for (_, logprob), _ in alike]
        return Generated(before, whole, ids, [*logprobs, *[None] * (len(ids) - len(logprobs))])

    def hold(self, folder: Path, known: dict[tuple[str, int], Generated]) -> None:
        """Every branch of the artifact: its text, then its log-probabilities."""
        rows = list(read_rows(folder))
        self.found.wrong += [f"a row became {row['fate']}: {row['error']}" for row in rows if row["error"]]
        for number, branches in groupby(read_rows(folder, "branches"), key=lambda branch: branch["row"]):
            prefix = ""
            for _, decision in groupby(branches, key=lambda branch: branch["chunk"]):
                alike = list(decision)
                self._decision(self.prompts.render(rows[number]["problem"]), prefix, alike, known)
                prefix += next((branch["text"] for branch in alike if branch["chosen"]), "")
            if prefix != rows[number]["solution"]:
                self.found.wrong.append(f"row {number}: its chunks, joined, are not its solution")

    def _decision(
        self, prompt: str, prefix: str, branches: list[dict[str, Any]], known: dict[tuple[str, int], Generated]
    ) -> None:
        scored = asyncio.run(self.scorer.score(Score(prompt, prefix, tuple(branch["text"] for branch in branches))))
        for branch, score in zip(branches, scored, strict=True):
            pieces = list(self._pieces(prompt + prefix, branch["seed"], known))
            joined = "".join(piece.text for piece in pieces)
            self.found.branches += 1
            self.found.tokens += branch["tokens"]
            self.found.equal += joined == branch["text"]
            if joined != branch["text"]:
                self.found.wrong.append(f"seed {branch['seed']}: {branch['text']!r}, generated was {joined!r}")
            nll = -sum(score.logprobs) / max(1, len(score.logprobs))
            if score.logprobs and not math.isclose(branch["perplexity"], math.exp(nll), rel_tol=1e-3):
                self.found.wrong.append(
                    f"seed {branch['seed']}: perplexity {branch['perplexity']}, now {math.exp(nll)}"
                )
            self._compare(prompt + prefix + branch["text"], pieces, score.logprobs)

    def _pieces(self, text: str, seed: int, known: dict[tuple[str, int], Generated]) -> Iterator[Generated]:
        number = 0
        while piece := known.get((text, piece_seed(seed, number))):
            yield piece
            text, number = text + piece.text, number + 1

    def _compare(self, text: str, pieces: list[Generated], student: tuple[float, ...]) -> None:
        """Token by token, where both have the same tokens before and in a reply."""
        ids = self._encode(text)
        unscored = len(ids) - len(student)
        for piece in pieces:
            begin = self._encode(piece.before)
            known = [*begin, *piece.ids]
            self.found.replies += 1
            self.found.recut += ids[: len(known)] != known
            if ids[: len(known)] == known and len(begin) >= unscored:
                mine = student[len(begin) - unscored :]
                pairs = zip(mine, piece.logprobs, strict=False)
                self.found.differences += [abs(a - b) for a, b in pairs if b is not None]

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def findings(server: Server, port: int, folder: Path) -> Findings:
    """Run the recipe against a server and hold the one against the other."""
    found = Findings(server.name, server.version(port))
    with recorded(server, port) as seen:
        artifact, found.seconds = run(seen.port, folder / server.name)
    found.requests = len(seen.exchanges)
    found.wrong += seen.refusals
    judge = Judge(found)
    judge.hold(artifact, judge.generated(seen))
    asyncio.run(judge.scorer.close())
    if server.exact and found.mean >= LIMIT:
        found.wrong.append(f"the student's log-probabilities are {found.mean:.4f} away from the server's")
    return found


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else 'unknown make'}"


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="ssd-servers-"))
    every = []
    for server in (LLAMACPP, VLLM):
        with started(server, folder / f"{server.name}.log") as port:
            every.append(findings(server, port, folder))
    servers = ", ".join(f"{found.server} {found.version}" for found in every)
    table = "\n".join([f"{servers}; {machine()}.", "", HEAD, *(found.row() for found in every)])
    print(table)
    for found in every:
        for wrong in found.wrong:
            print(f"WRONG {found.server}: {wrong}")
    if any(found.wrong for found in every):
        raise SystemExit(1)
    if os.environ.get("SSD_WRITE_DOCS"):
        shown = re.compile(r"(?<=<!-- make test-servers -->\n).*?(?=\n<!-- end -->)", re.DOTALL)
        DOCS.write_text(shown.sub(lambda _: table, DOCS.read_text()))


if __name__ == "__main__":
    main()
