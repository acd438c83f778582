"""The scorer against a plain forward pass over the whole text, one text at a time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from fakes import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from ssd_pipeline.errors import RowError
from ssd_pipeline.models.scorer import TransformersScorer
from ssd_pipeline.stage import Model, ModelRuntime, Score, Scored

PROMPT = "<|user|>How many coins?<|assistant|>"
WORDS = st.text(alphabet="ab 12\n.=é東😀", max_size=12)


def opened(folder: Path, **runtime: object) -> TransformersScorer:
    return TransformersScorer(Model("student", path=folder, runtime=ModelRuntime(device="cpu", **runtime)))


def scored(scorer: TransformersScorer, *asks: Score) -> list[list[Scored]]:
    async def main() -> list[list[Scored]]:
        return await asyncio.gather(*(scorer.score(ask) for ask in asks))

    return asyncio.run(main())


@cache
def plain(folder: Path) -> Callable[[str, str], list[float]]:
    """Log-probabilities of the tokens of the whole text that end after `before`, by one full forward pass."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def reference(before: str, branch: str) -> list[float]:
        encoded = tokenizer(before + branch, add_special_tokens=False, return_offsets_mapping=True)
        with torch.no_grad():
            table = model(torch.tensor([encoded.input_ids])).logits[0].log_softmax(-1)
        ends = [end for _, end in encoded.offset_mapping]
        ids = encoded.input_ids
        return [table[i - 1, ids[i]].item() for i in range(len(ids)) if ends[i] > len(before)]

    return reference


@pytest.fixture(scope="module")
def scorers(tiny_model: Callable[..., Path]) -> Callable[[str, int], tuple[TransformersScorer, Path]]:
    @cache
    def get(arch: str, batch_tokens: int) -> tuple[TransformersScorer, Path]:
        folder = tiny_model(arch=arch)
        return opened(folder, batch_tokens=batch_tokens), folder

    return get


@pytest.mark.parametrize("batch_tokens", [1, 65_536])
@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asks=st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=4)), min_size=1, max_size=4))
def test_it_is_the_full_forward_pass(
    scorers: Callable[[str, int], tuple[TransformersScorer, Path]],
    arch: str,
    batch_tokens: int,
    asks: list[tuple[str, list[str]]],
) -> None:
    scorer, folder = scorers(arch, batch_tokens)
    reference = plain(folder)
    results = scored(scorer, *(Score(PROMPT, prefix, tuple(branches)) for prefix, branches in asks))
    for (prefix, branches), found in zip(asks, results, strict=True):
        assert len(found) == len(branches)
        for branch, one in zip(branches, found, strict=True):
            assert list(one.logprobs) == pytest.approx(reference(PROMPT + prefix, branch), abs=1e-4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prefix=WORDS, branch=WORDS)
def test_spans_and_log_probabilities_go_together(
    scorers: Callable[[str, int], tuple[TransformersScorer, Path]], prefix: str, branch: str
) -> None:
    scorer, _ = scorers("llama", 65_536)
    before, whole = PROMPT + prefix, PROMPT + prefix + branch
    spans = scorer.offsets(whole)
    assert [whole[start:end] for start, end in spans if start == 0] == [whole[: spans[0][1]]]
    assert spans[-1][1] == len(whole)
    assert all(one[1] >= other[0] for one, other in pairwise(spans)), "no gap between tokens"
    [[one]] = scored(scorer, Score(PROMPT, prefix, (branch,)))
    assert len(one.logprobs) == sum(end > len(before) for _, end in spans)
    prefix_ids = scorer._tokenizer(before, add_special_tokens=False)["input_ids"]
    ids = scorer._tokenizer(whole, add_special_tokens=False)["input_ids"]
    kept = next((i for i, (a, b) in enumerate(zip(prefix_ids, ids, strict=False)) if a != b), len(prefix_ids))
    assert one.retracted == len(prefix_ids) - kept


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prefix=WORDS, branch=WORDS)
def test_a_response_is_put_together_from_what_was_kept_replaced_and_added(
    scorers: Callable[[str, int], tuple[TransformersScorer, Path]], prefix: str, branch: str
) -> None:
    scorer, _ = scorers("llama", 65_536)
    first, whole = Score(PROMPT, "", (prefix,)), Score(PROMPT, "", (prefix + branch,))
    (before,), (after,), (added,) = scored(scorer, first, whole, Score(PROMPT, prefix, (branch,)))
    kept = before.logprobs[: len(before.logprobs) - added.retracted]
    assert [*kept, *added.replaced, *added.logprobs] == pytest.approx(list(after.logprobs), abs=1e-4)


def test_ranks_count_the_more_probable_tokens(scorers: Callable[[str, int], tuple]) -> None:
    scorer, folder = scorers("llama", 65_536)
    asks = Score(PROMPT, "19+", ("65=84.\n", ""), ranks=True), Score(PROMPT, "19+", ("65",))
    (one, empty), (plainly,) = scored(scorer, *asks)
    ids = scorer._tokenizer(PROMPT + "19+65=84.\n", add_special_tokens=False, return_tensors="pt")["input_ids"]
    logits = AutoModelForCausalLM.from_pretrained(folder)(ids).logits[0].detach()
    own = [(1 + (logits[i - 1] > logits[i - 1, token]).sum()).item() for i, token in enumerate(ids[0].tolist()) if i]
    assert list(one.ranks) == own[-len(one.logprobs) :]
    assert len(set(one.ranks)) > 1
    assert (empty.ranks, plainly.ranks) == ((), ())


def test_a_token_across_the_boundary_is_the_branchs(scorers: Callable[[str, int], tuple]) -> None:
    scorer, folder = scorers("llama", 65_536)
    word = next(t for t in ("coins", "Answer", "answer", "check") if len(scorer.offsets(t)) == 1)
    [[one]] = scored(scorer, Score(PROMPT, word[:2], (word[2:],)))
    assert len(one.logprobs) == 1
    assert one.retracted >= 1
    assert list(one.logprobs) == pytest.approx(plain(folder)(PROMPT + word[:2], word[2:]), abs=1e-4)


def test_nothing_more_has_no_log_probabilities(scorers: Callable[[str, int], tuple]) -> None:
    scorer, _ = scorers("llama", 65_536)
    assert scored(scorer, Score(PROMPT, "abc", ("", ""))) == [[Scored((), 0), Scored((), 0)]]


def test_a_uniform_model_has_a_perplexity_of_its_vocabulary(tmp_path: Path) -> None:
    scorer = opened(tiny.make(tmp_path / "uniform", scale=0))
    [[one]] = scored(scorer, Score(PROMPT, "", ("82-63: 12-3=9, so 19.\n",)))
    perplexity = math.exp(-sum(one.logprobs) / len(one.logprobs))
    assert perplexity == pytest.approx(len(tiny.tokenizer()), rel=1e-5)


def test_bfloat16_is_near_float32(tmp_path: Path) -> None:
    exact = opened(tiny.make(tmp_path / "f32", scale=3.0))
    rough = opened(tiny.make(tmp_path / "bf16", scale=3.0, dtype="bfloat16"))
    assert rough._lm.dtype is torch.bfloat16
    ask = Score(PROMPT, "", ("one two three", "4"))
    for one, other in zip(*(scored(s, ask)[0] for s in (exact, rough)), strict=True):
        assert list(one.logprobs) == pytest.approx(list(other.logprobs), abs=0.15)


def read_by(scorer: TransformersScorer) -> list[int]:
    """Tokens of each forward pass from now on, padding included."""
    read: list[int] = []
    real = scorer._lm.forward

    def forward(ids: torch.Tensor, **rest: object) -> object:
        read.append(ids.numel())
        return real(ids, **rest)

    scorer._lm.forward = forward
    return read


CHUNKS = ("82-63: 12-3=9, 7-6=1, so 19.\n", "19+65 is 85? No, wait. 19+65=84.\n", "84-32=52.\n", "Answer: 52")
WINDOW = {"arch": "mistral", "sliding_window": 12}


@pytest.mark.parametrize("cache_gb", [8, 2e-5, 1e-9])
@pytest.mark.parametrize("setting", [{"arch": "llama"}, WINDOW], ids=["llama", "sliding window"])
def test_growing_trajectories_are_the_full_forward_pass(
    setting: dict, cache_gb: float, tiny_model: Callable[..., Path]
) -> None:
    folder = tiny_model(**setting)
    scorer, reference = opened(folder, cache_gb=cache_gb), plain(folder)
    prompts = [f"<|user|>{'many ' * n}?<|assistant|>" for n in range(5)]
    for cut in range(len(CHUNKS)):
        prefix = "".join(CHUNKS[:cut])
        branches = (CHUNKS[cut], "so ", CHUNKS[cut][:-1] + " x", "")
        asks = [Score(prompt, prefix[: -n or None], branches) for n, prompt in enumerate(prompts)]
        for ask, found in zip(asks, scored(scorer, *asks), strict=True):
            for branch, one in zip(branches, found, strict=True):
                assert list(one.logprobs) == pytest.approx(reference(ask.prompt + ask.prefix, branch), abs=1e-4)


def test_a_prefix_is_read_once(tiny_model: Callable[..., Path]) -> None:
    scorer = opened(tiny_model())
    length = len(scorer.offsets(PROMPT + CHUNKS[0]))
    scored(scorer, Score(PROMPT, CHUNKS[0], ("a", "b")))
    read = read_by(scorer)
    scored(scorer, Score(PROMPT, CHUNKS[0], ("c", "d")))
    assert read == [4], "the last shared token and the branch's own, twice"
    read.clear()
    scored(scorer, Score(PROMPT, CHUNKS[0] + "12", ("c", "d")))
    assert sum(read) < 12 < length
    assert scorer._prefixes._bytes == sum(kept.bytes for kept in scorer._prefixes._entries.values()) > 0


def refused(scorer: TransformersScorer, *asks: Score) -> Sequence[object]:
    async def main() -> Sequence[object]:
        return await asyncio.gather(*(scorer.score(ask) for ask in asks), return_exceptions=True)

    return asyncio.run(main())


def test_a_text_beyond_the_context_is_an_error_of_its_row_alone(tiny_model: Callable[..., Path]) -> None:
    scorer = opened(tiny_model(context=32))
    long, short, bare = refused(scorer, Score("q", "", ("a", "q " * 40)), Score("q", "", ("a",)), Score("", "", ("a",)))
    assert isinstance(long, RowError)
    assert "context of 32" in str(long)
    assert not long.curable
    assert isinstance(short, list)
    assert isinstance(bare, RowError)
