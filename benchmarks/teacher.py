"""How busy a teacher is kept: a server of fixed latency and capacity, asked by a whole run and in two plain ways.

    python benchmarks/teacher.py [SECONDS]

200 problems of 6 chunks, 4 branches each; a server works on 64 branches at once, each for a fixed time, and what is
beyond waits its turn. That time is such that the servers need SECONDS (30 by default) when they are never idle. Printed
are the wall times as multiples of that, with one server and with four: of the stage `sample_branches` with everything
that a run does (journal, replies, checks), in a format that takes the branches of a prefix in one request (vLLM) and in
one that takes them singly (TGI); of `asyncio.gather` over all problems with bare httpx, which keeps nothing; and of one
problem after the other (timed for a few, and multiplied).
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROBLEMS, CHUNKS, BRANCHES, PLACES = 200, 6, 4, 64
TEXT = "12+34: 2+4=6, 1+3=4, so 46.\n"  # what every branch says
TEACHER = Path(__file__).parent.parent / "recipes" / "quickstart" / "teacher"
RECIPE = """\
name: busy
models: {{teacher: {{path: {teacher}}}}}
stages:
  problems: {{uses: load_problems, file: problems.jsonl}}
  sampled: {{uses: sample_branches, input: problems, teacher: teacher, branches: {branches},
             chunk: {{max_tokens: {tokens}}}, max_tokens: {most}, select: {{criterion: random}}}}
runtime: {{rows_in_flight: {rows}, models: {{teacher: {{api: {api}, endpoints: {urls}, concurrency: {concurrency}}}}}}}
"""


def server(latency_s: float, ids: list[int], ready: Any) -> None:
    """The child: answers like vLLM and like TGI on a port of its own, for ever."""
    asyncio.run(_serve(latency_s, ids, ready))


async def _serve(latency_s: float, ids: list[int], ready: Any) -> None:
    places, free = asyncio.Condition(), PLACES

    async def work(branches: int) -> None:
        nonlocal free
        async with places:
            await places.wait_for(lambda: free >= branches)
            free -= branches
        await asyncio.sleep(latency_s)
        async with places:
            free += branches
            places.notify()  # all ask for as many branches

    async def answer(path: str, body: Any) -> Any:
        if path == "/v1/models":
            return {"data": [{"id": "teacher", "owned_by": "vllm"}]}
        if path == "/info":
            return {"model_id": "teacher"}
        await work(body.get("n", 1))
        if path == "/generate":
            tokens = [{"id": i, "text": "", "logprob": -1.0, "special": False} for i in ids]
            details = {"finish_reason": "length", "generated_tokens": len(ids), "tokens": tokens}
            return {"generated_text": TEXT, "details": details}
        each = {"text": TEXT, "finish_reason": "length", "stop_reason": None, "token_ids": ids}
        return {"choices": [{"index": i, **each} for i in range(body.get("n", 1))]}

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            length = 0
            while (head := await reader.readline()).strip():
                if head.lower().startswith(b"content-length:"):
                    length = int(head.split(b":")[1])
            body = json.loads(await reader.readexactly(length)) if length else {}
            data = json.dumps(await answer(line.split()[1].decode(), body)).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data)
            )

    listener = await asyncio.start_server(connection, "127.0.0.1", 0, backlog=1024)
    ready.put(listener.sockets[0].getsockname()[1])
    await listener.serve_forever()


@contextmanager
def servers(how_many: int, latency_s: float, ids: list[int]) -> Iterator[list[str]]:
    """So many servers, each in a process of its own; their URLs."""
    context = multiprocessing.get_context("spawn")
    ready = context.Queue()
    running = [context.Process(target=server, args=(latency_s, ids, ready), daemon=True) for _ in range(how_many)]
    for one in running:
        one.start()
    try:
        yield [f"http://127.0.0.1:{ready.get(timeout=60)}" for _ in running]
    finally:
        for one in running:
            one.terminate()


def ours(urls: list[str], api: str, tokens: int) -> float:
    """Seconds of the stage that samples, in a whole run."""
    from ssd_pipeline import planner, runner
    from ssd_pipeline.stages import KINDS
    from ssd_pipeline.store.local import Store

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        problems = [{"problem": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(PROBLEMS)]
        (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, problems)))
        setting = {"branches": BRANCHES, "tokens": tokens, "most": CHUNKS * tokens, "rows": PROBLEMS}
        # A place for each branch that a server works on at once, and as many that wait there.
        concurrency = 2 * PLACES // (BRANCHES if api == "completions" else 1)
        text = RECIPE.format(teacher=TEACHER, api=api, urls=json.dumps(urls), concurrency=concurrency, **setting)
        (folder / "recipe.yaml").write_text(text)
        events: list[dict[str, Any]] = []
        runner.run(planner.plan(folder / "recipe.yaml", KINDS, store=Store(folder / "store")), events.append)
    finished = next(e for e in events if e["event"] == "stage_finished" and e["stage"] == "sampled")
    return float(finished["seconds"])


async def plain(urls: list[str], problems: int, at_once: bool) -> float:
    """Seconds of the same questions with bare httpx: all problems gathered, or one after the other."""
    import httpx2

    async with httpx2.AsyncClient(timeout=None, limits=httpx2.Limits(max_connections=None)) as http:

        async def solve(number: int) -> None:
            text = f"What is {number} + {number}?"
            for _ in range(CHUNKS):
                body = {"prompt": text, "n": BRANCHES, "seed": number}
                reply = await http.post(f"{urls[number % len(urls)]}/v1/completions", json=body)
                text += reply.json()["choices"][0]["text"]

        began = time.perf_counter()
        if at_once:
            await asyncio.gather(*(solve(number) for number in range(problems)))
        else:
            for number in range(problems):
                await solve(number)
        return time.perf_counter() - began


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    from ssd_pipeline.models.loading import load_tokenizer
    from ssd_pipeline.stage import Model

    ids = load_tokenizer(Model("teacher", path=TEACHER))(TEXT, add_special_tokens=False)["input_ids"]
    few = 2
    print(f"{PROBLEMS} problems, {CHUNKS} chunks, {BRANCHES} branches, {PLACES} at once: {seconds:g} s when never idle")
    for how_many in (1, 4):
        latency_s = seconds * PLACES * how_many / (PROBLEMS * CHUNKS * BRANCHES)
        print(f"{how_many} server{'s' if how_many > 1 else ''}, {latency_s:.2f} s a request")
        with servers(how_many, latency_s, ids) as urls:
            for name, measure in {
                "completions": lambda urls: ours(urls, "completions", len(ids)),
                "tgi": lambda urls: ours(urls, "tgi", len(ids)),
                "plain gather": lambda urls: asyncio.run(plain(urls, PROBLEMS, at_once=True)),
                "one at a time": lambda urls: asyncio.run(plain(urls, few, at_once=False)) * PROBLEMS / few,
            }.items():
                took = measure(urls)
                print(f"  {name:14} {took:7.1f} s  {took / seconds:6.2f}", flush=True)


if __name__ == "__main__":
    main()
