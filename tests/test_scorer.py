"""The scorer against a plain forward pass over the whole text, one text at a time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import pytest
import torch
from fakes import tiny
from fakes.adapters import adapter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from ssd_pipeline.errors import ModelError, RowError
from ssd_pipeline.models.loading import load_causal_lm
from ssd_pipeline.models.packed import Part
from ssd_pipeline.models.prefix_cache import PrefixCache
from ssd_pipeline.models.scorer import TransformersScorer
from ssd_pipeline.models.scoring_queue import Request, ScoringQueue, Tokens
from ssd_pipeline.stage import Model, ModelRuntime, Score, Scored

PROMPT = "<|user|>How many coins?<|assistant|>"
WORDS = st.text(alphabet="ab 12\n.=é東😀", max_size=12)


def opened(folder: Path, **runtime: object) -> TransformersScorer:
    return TransformersScorer(Model("student", path=folder, runtime=ModelRuntime(device="cpu", **runtime)))


def cache_of(scorer: TransformersScorer) -> PrefixCache:
    return scorer._queues[0]._cache


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
def scorers(tiny_model: Callable[..., Path]) -> Callable[..., tuple[TransformersScorer, Path]]:
    @cache
    def get(arch: str = "llama", batch_tokens: int = 65_536) -> tuple[TransformersScorer, Path]:
        folder = tiny_model(**ARCHITECTURES[arch])
        return opened(folder, batch_tokens=batch_tokens), folder

    return get


ARCHITECTURES = {
    "llama": {"arch": "llama", "heads": 4, "kv_heads": 2},
    "qwen2": {"arch": "qwen2"},
    "qwen3": {"arch": "qwen3", "heads": 4, "kv_heads": 1},
    "sliding window": {"arch": "mistral", "heads": 4, "kv_heads": 2, "sliding_window": 12},
}
ASKS = st.tuples(st.integers(0, 2), st.lists(WORDS, max_size=3), st.lists(WORDS, min_size=1, max_size=4))


@pytest.mark.parametrize("arch", ARCHITECTURES)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    batches=st.lists(st.lists(ASKS, min_size=10, max_size=10), min_size=2, max_size=2),
    batch_tokens=st.sampled_from([7, 65_536]),
    dropped=st.sets(st.integers(0, 4)),
)
def test_500_prefixes_are_the_full_forward_pass(
    scorers: Callable[..., tuple[TransformersScorer, Path]],
    arch: str,
    batches: list[list[tuple[int, list[str], list[str]]]],
    batch_tokens: int,
    dropped: set[int],
) -> None:
    scorer, folder = scorers(arch, batch_tokens)
    reference = plain(folder)
    for batch in batches:
        kept = cache_of(scorer)._kept
        kept[:] = [entry for i, entry in enumerate(kept) if i not in dropped]
        asks = [Score(PROMPT[n:], "".join(prefix), tuple(branches)) for n, prefix, branches in batch]
        for ask, found in zip(asks, scored(scorer, *asks), strict=True):
            for branch, one in zip(ask.branches, found, strict=True):
                assert list(one.logprobs) == pytest.approx(reference(ask.prompt + ask.prefix, branch), abs=1e-4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prefix=WORDS, branch=WORDS)
def test_spans_and_log_probabilities_go_together(
    scorers: Callable[..., tuple[TransformersScorer, Path]], prefix: str, branch: str
) -> None:
    scorer, folder = scorers()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    before, whole = PROMPT + prefix, PROMPT + prefix + branch
    spans = scorer.offsets(whole)
    assert [whole[start:end] for start, end in spans if start == 0] == [whole[: spans[0][1]]]
    assert spans[-1][1] == len(whole)
    assert all(one[1] >= other[0] for one, other in pairwise(spans)), "no gap between tokens"
    [[one]] = scored(scorer, Score(PROMPT, prefix, (branch,)))
    assert len(one.logprobs) == sum(end > len(before) for _, end in spans)
    prefix_ids = tokenizer(before, add_special_tokens=False)["input_ids"]
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    kept = next((i for i, (a, b) in enumerate(zip(prefix_ids, ids, strict=False)) if a != b), len(prefix_ids))
    assert one.retracted == len(prefix_ids) - kept


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prefix=WORDS, branch=WORDS)
def test_a_response_is_put_together_from_what_was_kept_replaced_and_added(
    scorers: Callable[..., tuple[TransformersScorer, Path]], prefix: str, branch: str
) -> None:
    scorer, _ = scorers()
    first, whole = Score(PROMPT, "", (prefix,)), Score(PROMPT, "", (prefix + branch,))
    (before,), (after,), (added,) = scored(scorer, first, whole, Score(PROMPT, prefix, (branch,)))
    kept = before.logprobs[: len(before.logprobs) - added.retracted]
    assert [*kept, *added.replaced, *added.logprobs] == pytest.approx(list(after.logprobs), abs=1e-4)


def test_ranks_count_the_more_probable_tokens(scorers: Callable[..., tuple]) -> None:
    scorer, folder = scorers()
    asks = Score(PROMPT, "19+", ("65=84.\n", ""), ranks=True), Score(PROMPT, "19+", ("65",))
    (one, empty), (plainly,) = scored(scorer, *asks)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(PROMPT + "19+65=84.\n", add_special_tokens=False, return_tensors="pt")["input_ids"]
    logits = AutoModelForCausalLM.from_pretrained(folder)(ids).logits[0].detach()
    own = [(1 + (logits[i - 1] > logits[i - 1, token]).sum()).item() for i, token in enumerate(ids[0].tolist()) if i]
    assert list(one.ranks) == own[-len(one.logprobs) :]
    assert len(set(one.ranks)) > 1
    assert (empty.ranks, plainly.ranks) == ((), ())


def test_a_token_across_the_boundary_is_the_branchs(scorers: Callable[..., tuple]) -> None:
    scorer, folder = scorers()
    word = next(t for t in ("coins", "Answer", "answer", "check") if len(scorer.offsets(t)) == 1)
    [[one]] = scored(scorer, Score(PROMPT, word[:2], (word[2:],)))
    assert len(one.logprobs) == 1
    assert one.retracted >= 1
    assert list(one.logprobs) == pytest.approx(plain(folder)(PROMPT + word[:2], word[2:]), abs=1e-4)


def test_nothing_more_has_no_log_probabilities(scorers: Callable[..., tuple]) -> None:
    scorer, _ = scorers()
    assert scored(scorer, Score(PROMPT, "abc", ("", ""))) == [[Scored((), 0), Scored((), 0)]]


def test_a_uniform_model_has_a_perplexity_of_its_vocabulary(tmp_path: Path) -> None:
    scorer = opened(tiny.make(tmp_path / "uniform", scale=0))
    [[one]] = scored(scorer, Score(PROMPT, "", ("82-63: 12-3=9, so 19.\n",)))
    perplexity = math.exp(-sum(one.logprobs) / len(one.logprobs))
    assert perplexity == pytest.approx(len(tiny.tokenizer()), rel=1e-5)


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 0.15), ("float16", 0.02)])
def test_half_precision_is_near_the_full_forward_pass(dtype: str, bound: float, tmp_path: Path) -> None:
    """`bound`: of one token's log-probability, in nats, against the same dtype and against float32."""
    exact = plain(tiny.make(tmp_path / "exact", scale=3.0, kv_heads=1))
    folder = tiny.make(tmp_path / dtype, scale=3.0, kv_heads=1, dtype=dtype)
    scorer, rough = opened(folder), plain(folder)
    for cut in range(len(CHUNKS)):
        ask = Score(PROMPT, "".join(CHUNKS[:cut]), (CHUNKS[cut], "so ", CHUNKS[cut][:-1] + " x"))
        for branch, one in zip(ask.branches, scored(scorer, ask)[0], strict=True):
            for reference in (exact, rough):
                whole = reference(ask.prompt + ask.prefix, branch)
                assert list(one.logprobs) == pytest.approx(whole, abs=bound)
                assert fmean(one.logprobs) == pytest.approx(fmean(whole), abs=bound / 3)


def test_an_adapter_is_scored_as_part_of_the_model(tmp_path: Path) -> None:
    base = tiny.make(tmp_path / "base")
    low = adapter(base, tmp_path / "low", 1)
    merged = load_causal_lm(Model("m", path=base, adapters=(low,)), torch.device("cpu"))
    merged.save_pretrained(tmp_path / "merged")
    tiny.tokenizer().save_pretrained(tmp_path / "merged")
    scorer = TransformersScorer(Model("student", path=base, adapters=(low,), runtime=ModelRuntime(device="cpu")))
    [[one]] = scored(scorer, Score(PROMPT, "", (CHUNKS[0],)))
    assert list(one.logprobs) == pytest.approx(plain(tmp_path / "merged")(PROMPT, CHUNKS[0]), abs=1e-4)
    assert list(one.logprobs) != pytest.approx(plain(base)(PROMPT, CHUNKS[0]), abs=1e-2)


def test_an_adapter_need_not_be_merged(tmp_path: Path) -> None:
    base = tiny.make(tmp_path / "base")
    low = adapter(base, tmp_path / "low", 1)
    scorer = TransformersScorer(Model("student", path=base, adapters=(low,), runtime=ModelRuntime(device="cpu")))
    [[merged]] = scored(scorer, Score(PROMPT, "", (CHUNKS[0],)))
    lm = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), low).base_model.model
    assert any("lora" in name for name, _ in lm.named_modules())
    text = AutoTokenizer.from_pretrained(base)(PROMPT + CHUNKS[0], add_special_tokens=False)["input_ids"]

    async def ask() -> list[tuple[list[float], list[int]]]:
        queue = ScoringQueue("student", lm.eval(), cache_gb=1, batch_tokens=1024)
        try:
            return await queue.ask(Request(PROMPT, (Tokens(text, len(text) - len(merged.logprobs)),), ranks=False))
        finally:
            await queue.close()

    [(logprobs, _)] = asyncio.run(ask())
    assert logprobs == pytest.approx(list(merged.logprobs), abs=1e-4)


def read_by(scorer: TransformersScorer) -> list[int]:
    """Tokens of each forward pass from now on."""
    read: list[int] = []
    model = scorer._queues[0]._model
    real = model.measure

    def measure(parts: Sequence[Part], *, ranks: bool) -> object:
        read.append(sum(map(len, parts)))
        return real(parts, ranks=ranks)

    model.measure = measure
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


def test_a_prefix_and_the_winner_are_read_once(tiny_model: Callable[..., Path]) -> None:
    scorer = opened(tiny_model())
    texts = [PROMPT, CHUNKS[0], "a b c", "d e f", " g h", "=1"]
    before, prefix, winner, loser, more, other = (len(scorer.offsets(text)) for text in texts)
    read = read_by(scorer)
    scored(scorer, Score(PROMPT, CHUNKS[0], (texts[2], texts[3])))
    scored(scorer, Score(PROMPT, CHUNKS[0], (texts[2], texts[3])))
    scored(scorer, Score(PROMPT, CHUNKS[0] + texts[2], (texts[4], texts[5])))
    assert read == [
        before + prefix + winner - 1 + loser - 1,
        1 + winner - 1 + 1 + loser - 1,  # the last shared token predicts the first one of each, the last one nothing
        1 + more - 1 + 1 + other - 1,  # the winner's last token is read now, the others were
    ]


def test_a_text_that_leaves_another_one_early_takes_what_they_share(tiny_model: Callable[..., Path]) -> None:
    scorer, reference = opened(tiny_model()), plain(tiny_model())
    beams = [CHUNKS[0] + text * 20 for text in (" a", " b")]  # more than a tokeniser may cut anew
    scored(scorer, *(Score(PROMPT, beam, (" x", " y")) for beam in beams))
    read = read_by(scorer)
    asks = [Score(PROMPT, beam + " x", (" z", " y")) for beam in beams]
    for ask, found in zip(asks, scored(scorer, *asks), strict=True):
        for branch, one in zip(ask.branches, found, strict=True):
            assert list(one.logprobs) == pytest.approx(reference(PROMPT + ask.prefix, branch), abs=1e-4)
    assert sum(read) <= 2 * 4, "each beam has a memory of its own"


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


@pytest.mark.parametrize("arch", ["mixtral", "qwen3_moe", "gpt_neox", "gpt2"])
def test_experts_and_heads_of_other_makes_are_the_full_forward_pass(arch: str, tmp_path: Path) -> None:
    experts = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2} if not arch.startswith("gpt") else {}
    folder = tmp_path / "m"
    tiny.make(folder, arch=arch, **experts)
    ask = Score(PROMPT, "a = 1\n", ("b = 2", "東 12 12"))
    for branch, one in zip(ask.branches, *scored(opened(folder), ask), strict=True):
        assert list(one.logprobs) == pytest.approx(plain(folder)(PROMPT + ask.prefix, branch), abs=1e-4)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"arch": "gemma2"}, "softcap"),
        ({"arch": "stablelm"}, "not that of transformers"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "positions"),
    ],
)
def test_a_model_that_would_be_scored_wrongly_is_refused(setting: dict, says: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=says):
        opened(tiny.make(tmp_path / "m", **setting))
