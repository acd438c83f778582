"""The sampler in this process against `generate`, against itself in other batches, and at its limits."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from fakes import tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from ssd_pipeline.errors import ModelError, RowError
from ssd_pipeline.models.decoding import Decoder
from ssd_pipeline.models.transformers_sampler import TransformersSampler, draw, uniform
from ssd_pipeline.stage import Branch, Chunk, Model, ModelRuntime, Sample, Sampling

PROMPTS = ("<|user|>How many?<|assistant|>", "82-63: 12-3=9\n", "naïve café, 東京 ", "x")


def opened(folder: Path, **runtime: object) -> TransformersSampler:
    return TransformersSampler(Model("teacher", path=folder, runtime=ModelRuntime(device="cpu", **runtime)))


def sampled(folder: Path, asks: Sequence[Sample], **runtime: object) -> list[list[Branch]]:
    async def main() -> list[list[Branch]]:
        sampler = opened(folder, **runtime)
        try:
            return await asyncio.gather(*(sampler.sample(ask) for ask in asks))
        finally:
            await sampler.close()

    return asyncio.run(main())


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
def test_greedy_is_what_generate_gives(arch: str, tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model(arch=arch)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asks = [Sample(p, "", Chunk(max_tokens=24), Sampling(temperature=0), (0, 1)) for p in PROMPTS]
    for ask, branches in zip(asks, sampled(folder, asks), strict=True):
        ids = tokenizer(ask.prompt, add_special_tokens=False, return_tensors="pt").input_ids
        new = model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :].tolist()
        expected = Decoder(tokenizer).whole([i for i in new if i != tokenizer.eos_token_id])
        assert [(b.text, b.tokens) for b in branches] == [expected] * 2


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7, top_p=0.9, top_k=20)])
def test_a_branch_does_not_depend_on_its_batch(sampling: Sampling, tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model()
    chunk = Chunk(max_tokens=20, stop=("\n",))
    asks = [Sample(p, "", chunk, sampling, (i, 7, 100 + i)) for i, p in enumerate(PROMPTS)]
    together = sampled(folder, asks)
    assert sampled(folder, asks, batch_tokens=1) == together
    for ask, branches in zip(asks, together, strict=True):
        assert sampled(folder, [ask]) == [branches]


def test_draws_follow_the_distribution_and_the_cuts() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).repeat(20_000, 1)
    chances = logits[0].softmax(-1).tolist()
    counts = Counter(draw(logits, Sampling(), range(20_000), 5).tolist())
    for token, chance in enumerate(chances):
        assert abs(counts[token] / 20_000 - chance) < 4 * (chance * (1 - chance) / 20_000) ** 0.5
    assert set(draw(logits, Sampling(top_k=2), range(20_000), 0).tolist()) == {0, 1}
    assert set(draw(logits, Sampling(top_p=chances[0] - 0.01), range(20_000), 0).tolist()) == {0}
    assert set(draw(logits, Sampling(top_p=chances[0] + 0.01), range(20_000), 0).tolist()) == {0, 1}
    halved = Counter(draw(logits, Sampling(top_k=2), range(20_000), 3).tolist())
    assert abs(halved[0] / 20_000 - chances[0] / (chances[0] + chances[1])) < 0.02


def test_streams_of_neighbouring_seeds_and_places_are_unlike() -> None:
    table = torch.tensor([uniform(range(400), place).tolist() for place in range(400)])
    assert abs(table.mean() - 0.5) < 0.005
    assert abs(table.var() - 1 / 12) < 0.002
    for one, other in ((table[1:], table[:-1]), (table[:, 1:], table[:, :-1])):
        assert abs(((one - 0.5) * (other - 0.5)).mean()) < 0.002
    assert uniform([2**31 - 1], 0) != uniform([0], 0)


def copied(folder: Path, to: Path, **generation: object) -> Path:
    shutil.copytree(folder, to)
    config = json.loads((to / "generation_config.json").read_text())
    (to / "generation_config.json").write_text(json.dumps({**config, **generation}))
    return to


def test_every_end_token_of_the_generation_config_ends(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_model()
    ask = Sample("x", "", Chunk(max_tokens=12), Sampling(temperature=0), (0,))
    [[plain]] = sampled(folder, [ask])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer("x", return_tensors="pt", add_special_tokens=False).input_ids
    new = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
    place = next(i for i in range(3, 12) if new[i] not in new[:i])
    ended = copied(folder, tmp_path / "ended", eos_token_id=[tokenizer.eos_token_id, new[place]])
    [[branch]] = sampled(ended, [ask])
    assert (branch.finish, branch.tokens) == ("eos", place)
    assert plain.text.startswith(branch.text)


def test_a_text_that_fills_the_context_is_an_error_of_its_row_alone(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model(context=32)

    async def main() -> list[object]:
        sampler = opened(folder)
        chunk = Chunk(max_tokens=40)
        asks = [Sample(text, "", chunk, Sampling(), (1,)) for text in ("q " * 40, "q", "")]
        answers = await asyncio.gather(*(sampler.sample(ask) for ask in asks), return_exceptions=True)
        await sampler.close()
        return list(answers)

    long, short, empty = asyncio.run(main())
    assert isinstance(long, RowError)
    assert not long.curable
    assert isinstance(empty, RowError)
    assert isinstance(short, list)
    assert short[0].finish in ("eos", "length")
    assert short[0].tokens < 32


def test_after_closing_nothing_hangs(tiny_model: Callable[..., Path]) -> None:
    async def main() -> None:
        sampler = opened(tiny_model())
        await sampler.close()
        await sampler.sample(Sample("x", "", Chunk(), Sampling(), (1,)))

    with pytest.raises(ModelError, match="closed"):
        asyncio.run(main())


def test_what_breaks_in_the_model_stops_the_run(tiny_model: Callable[..., Path]) -> None:
    async def main() -> None:
        sampler = opened(tiny_model())
        sampler._lm.lm_head = None
        try:
            await sampler.sample(Sample("x", "", Chunk(), Sampling(), (1,)))
        finally:
            await sampler.close()

    with pytest.raises(ModelError, match="running model teacher"):
        asyncio.run(main())


def test_memory_that_runs_out_halves_the_batch(tiny_model: Callable[..., Path]) -> None:
    async def main() -> tuple[list[list[Branch]], list[list[Branch]]]:
        sampler = opened(tiny_model())
        asks = [Sample(p, "", Chunk(max_tokens=6), Sampling(), (i,)) for i, p in enumerate(PROMPTS)]
        plenty = await asyncio.gather(*(sampler.sample(ask) for ask in asks))
        real = sampler._lm.forward

        def forward(ids: torch.Tensor, **rest: object) -> object:
            if len(ids) > 1:
                raise torch.OutOfMemoryError("no room")
            return real(ids, **rest)

        sampler._lm.forward = forward
        scarce = await asyncio.gather(*(sampler.sample(ask) for ask in asks))
        with pytest.raises(RowError) as raised:
            await sampler.sample(Sample("x", "", Chunk(max_tokens=6), Sampling(), (1, 2)))
        assert raised.value.curable
        await sampler.close()
        return plenty, scarce

    plenty, scarce = asyncio.run(main())
    assert plenty == scarce


class TestDecoder:
    decoder = Decoder(tiny.tokenizer())
    tokenizer = tiny.tokenizer()

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def test_text_is_exact_with_spaces_at_both_ends(self) -> None:
        for text in (" a b ", "\n\n x", "東京 😀", ""):
            assert self.decoder.text(self.ids(text)) == text

    def test_special_tokens_add_nothing(self) -> None:
        assert self.decoder.text([0, *self.ids("x"), 1]) == "x"

    def test_a_character_that_is_not_whole_is_held_back(self) -> None:
        parts = self.ids("𝔘")
        assert len(parts) == 4
        for cut in (1, 2, 3):
            assert self.decoder.whole([*self.ids("ab "), *parts[:cut]]) == ("ab ", len(self.ids("ab ")))
        assert self.decoder.whole(parts) == ("𝔘", 4)

    def test_bytes_that_nothing_completes_stay(self) -> None:
        alone = self.ids("𝔘")[1]
        text, tokens = self.decoder.whole([*self.ids("ab"), alone, alone, alone, alone, alone])
        assert text == "ab" + "\ufffd" * 5
        assert tokens == len(self.ids("ab")) + 5

    def test_only_the_token_that_completes_a_stop_counts(self) -> None:
        ids = self.ids("one\n\ntwo") + self.ids("\n\n")
        ends = [i for i in range(1, len(ids) + 1) if self.decoder.completes(ids[:i], ("\n\n",))]
        assert [self.decoder.text(ids[:i]) for i in ends] == ["one\n\n", "one\n\ntwo\n\n"]

    def test_a_stop_of_several_bytes_is_seen_at_its_last(self) -> None:
        ids = self.ids("a𝔘b")
        ends = [i for i in range(1, len(ids) + 1) if self.decoder.completes(ids[:i], ("𝔘",))]
        assert [self.decoder.text(ids[:i]) for i in ends] == ["a𝔘"]
