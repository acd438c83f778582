"""The queue of a device: bounded passes, bounded memory, several devices, and what happens when memory runs out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from fakes import tiny
from test_scorer import CHUNKS, PROMPT, opened, plain, read_by, refused, scored

from ssd_pipeline.models.packed import Part
from ssd_pipeline.models.scorer import WAITING, TransformersScorer
from ssd_pipeline.models.scoring_queue import LEAST
from ssd_pipeline.stage import Model, ModelRuntime, Score, Scored

LONG = "".join(CHUNKS) * 8


def equal(folder: Path, asks: Sequence[Score], results: Sequence[Sequence[Scored]]) -> bool:
    reference = plain(folder)
    return all(
        list(one.logprobs) == pytest.approx(reference(ask.prompt + ask.prefix, branch), abs=1e-4)
        for ask, found in zip(asks, results, strict=True)
        for branch, one in zip(ask.branches, found, strict=True)
    )


def test_requests_are_gathered_by_tokens(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model()
    scorer = opened(folder, batch_tokens=200)
    read = read_by(scorer)
    asks = [Score(PROMPT, f"{n} = ", (CHUNKS[0], CHUNKS[1], CHUNKS[n % 4])) for n in range(WAITING)]
    results = scored(scorer, *asks)
    assert equal(folder, asks, results)
    assert max(read) <= 200
    assert len(read) <= -(-sum(read) // (200 - 80)), "each pass is full up to a request's branches"


def test_a_long_text_is_read_in_windows(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model()
    scorer = opened(folder, batch_tokens=100)
    read = read_by(scorer)
    asks = [Score(PROMPT, "", (LONG,)), Score(PROMPT, "2", (LONG, LONG[20:]))]
    assert equal(folder, asks, scored(scorer, *asks))
    assert max(read) == 100
    assert sum(read) < 4 * len(scorer.offsets(PROMPT + LONG))


def test_out_of_memory_makes_smaller_passes(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model()
    scorer = opened(folder)
    queue, limits = scorer._queues[0], [150]
    real = queue._model.measure

    def measure(parts: Sequence[Part], *, ranks: bool) -> object:
        if sum(map(len, parts)) > limits[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(parts, ranks=ranks)

    queue._model.measure = measure
    asks = [Score(PROMPT, str(n), (LONG[n:], CHUNKS[n])) for n in range(4)]
    assert equal(folder, asks, scored(scorer, *asks))
    assert LEAST < queue._window <= 150
    limits[0] = 5
    (error,) = refused(scorer, Score(PROMPT, "other", (LONG,)))
    assert error.curable
    assert "out of memory" in str(error)
    limits[0] = 150
    assert equal(folder, asks, scored(scorer, *asks)), "it goes on afterwards"


def test_a_prompt_goes_to_one_of_several_devices(tiny_model: Callable[..., Path]) -> None:
    folder, cpu = tiny_model(), torch.device("cpu")
    runtime = ModelRuntime(device="cpu", cache_gb=2e-3)
    both = TransformersScorer(Model("student", path=folder, runtime=runtime), devices=[cpu, cpu])
    asks = [Score(f"{PROMPT}{n}", prefix, ("a", CHUNKS[0])) for n in range(8) for prefix in ("x", "xa")]
    assert equal(folder, asks, scored(both, *asks))
    kept = [[prompt for prompt, _ in queue._cache._kept] for queue in both._queues]
    assert all(kept)
    assert len({*kept[0], *kept[1]}) == len({*kept[0]}) + len({*kept[1]}) == 8
    assert both.at_once(1000) == 2 * opened(folder, cache_gb=2e-3).at_once(1000)


def test_what_fits_into_the_caches_follows_from_the_model(tiny_model: Callable[..., Path]) -> None:
    token = 2 * 2 * 32 * 4  # keys and values of two layers, 32 numbers of 4 bytes
    scorer = opened(tiny_model(), cache_gb=10 * token * (1000 + 256) / 1e9)
    assert scorer.at_once(1000) == 10
    assert scorer.at_once(10**9) == 1


GROWTH = """
import asyncio, resource, sys
from pathlib import Path
from test_scorer import cache_of, opened
from ssd_pipeline.stage import Score

scorer = opened(Path(sys.argv[1]), cache_gb=float(sys.argv[2]) / 1e9)
seen = []
async def score(texts, branches):
    await asyncio.gather(*(scorer.score(Score(f"{i}>", text, branches)) for i, text in enumerate(texts)))
    seen.append((len(cache_of(scorer)._kept), cache_of(scorer).bytes))
long = "coins " * 4100
async def main():
    await score([long] * 2, ("a b", "c d"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await score([long] * 64, (" a" * 40, " b" * 40))
    await score([long + " b" * 40] * 16, (" c" * 40, " d" * 40))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
grown = asyncio.run(main()) * (1 if sys.platform == "darwin" else 1024)
print(len(scorer.offsets(long)), grown, seen[-1][0], seen[-1][1])
"""


def test_memory_stays_within_the_budget_and_one_pass(tmp_path: Path) -> None:
    """64 trajectories of 4,096 tokens would take 128 MB of keys and values; the budget is 16. Beside them there are
    one pass of 1,024 tokens and the tokens of 32 requests that wait."""
    folder = tiny.make(tmp_path / "m", hidden=64, layers=1, context=8192)
    budget, one_pass = 16_000_000, 32_000_000
    command = [sys.executable, "-c", GROWTH, str(folder), str(budget)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    tokens, grown, kept, held = (float(word) for word in done.stdout.split())
    assert tokens >= 4096
    assert 64 * tokens * 2 * 64 * 4 > 2 * (budget + one_pass)
    assert held <= budget
    assert 1 < kept < 64
    assert grown < budget + one_pass
