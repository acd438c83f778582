"""What every sampler promises, asked of all of them: in this process, over TGI, over four kinds of completions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fakes import endpoints

from ssd_pipeline.models.completions import Completions
from ssd_pipeline.models.remote import RemoteSampler
from ssd_pipeline.models.tgi import Tgi
from ssd_pipeline.models.transformers_sampler import TransformersSampler
from ssd_pipeline.stage import Branch, Chunk, Model, ModelRuntime, Sample, Sampler, Sampling

KINDS = ("transformers", "tgi", "vllm", "sglang", "llamacpp", "serve_cli")
Open = Callable[[], Sampler]


def remote(url: str, **runtime: object) -> Model:
    return Model("teacher", repo="org/teacher", revision="c0ffee", runtime=ModelRuntime(endpoints=(url,), **runtime))


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> Iterator[Open]:
    kind = request.param
    with ExitStack() as stack:
        if kind == "transformers":
            folder = tiny_model(scale=3.0)
            runtime = ModelRuntime(device="cpu")
            yield lambda: TransformersSampler(Model("teacher", path=folder, runtime=runtime))
            return
        server = stack.enter_context(endpoints.serve(getattr(endpoints, kind)))
        model, tokenizer = remote(server.url), endpoints.tokenizer()
        yield lambda: RemoteSampler(
            model, Tgi(model) if kind == "tgi" else Completions(model, [0]), tokenizer, bos=endpoints.BOS
        )


def using(opened: Open, work: Callable[[Sampler], Awaitable[object]]) -> object:
    async def main() -> object:
        sampler = opened()
        try:
            return await work(sampler)
        finally:
            await sampler.close()

    return asyncio.run(main())


def asking(chunk: Chunk, seeds: tuple[int, ...], prefix: str = "", sampling: Sampling | None = None) -> Sample:
    return Sample("a question: ", prefix, chunk, sampling or Sampling(), seeds)


def sampled(opened: Open, *asks: Sample) -> list[list[Branch]]:
    async def work(sampler: Sampler) -> object:
        return await asyncio.gather(*(sampler.sample(ask) for ask in asks))

    return using(opened, work)  # type: ignore[return-value]


def test_one_branch_per_seed_in_their_order(opened: Open) -> None:
    chunk = Chunk(max_tokens=12)
    straight, turned, alone = sampled(opened, asking(chunk, (3, 4, 5)), asking(chunk, (5, 3, 4)), asking(chunk, (4,)))
    assert [turned[1], turned[2], turned[0]] == straight
    assert alone == [straight[1]]
    assert len({branch.text for branch in straight}) == 3


def test_greedy_does_not_depend_on_the_seed(opened: Open) -> None:
    [branches] = sampled(opened, asking(Chunk(max_tokens=12), (1, 2, 3), sampling=Sampling(temperature=0)))
    assert len(set(branches)) == 1
    assert branches[0].tokens >= 1


def test_a_stop_ends_a_chunk_and_stays_in_it(opened: Open) -> None:
    stops = ("\n", " 7", "e")
    [branches] = sampled(opened, asking(Chunk(max_tokens=60, stop=stops), tuple(range(16))))
    ended = [branch for branch in branches if branch.finish == "stop"]
    assert len(ended) >= 4
    for branch in ended:
        first = min(branch.text.find(stop) + len(stop) for stop in stops if stop in branch.text)
        assert len(branch.text) - first < 12, "only the rest of one token may follow the first stop"
    for branch in branches:
        if branch.finish != "stop":
            assert not any(stop in branch.text for stop in stops)


def test_a_stop_before_min_tokens_is_sampled_on_from(opened: Open) -> None:
    chunk = Chunk(min_tokens=20, max_tokens=60, stop=("\n", " 7", "e"))
    [branches] = sampled(opened, asking(chunk, tuple(range(16))))
    assert any(branch.finish == "stop" for branch in branches)
    for branch in branches:
        assert branch.finish == "eos" or branch.tokens >= 20
        if branch.finish == "stop":
            assert branch.text.count("\n") + branch.text.count(" 7") + branch.text.count("e") >= 1


def test_max_tokens_is_the_most_and_no_character_is_cut(opened: Open) -> None:
    asks = [asking(Chunk(max_tokens=most), tuple(range(12))) for most in (5, 6, 7)]
    for ask, branches in zip(asks, sampled(opened, *asks), strict=True):
        for branch in branches:
            assert branch.tokens <= ask.chunk.max_tokens
            assert branch.finish in ("length", "eos")


def test_the_end_token_is_neither_text_nor_counted(opened: Open) -> None:
    [branches] = sampled(opened, asking(Chunk(max_tokens=120), tuple(range(24))))
    ended = [branch for branch in branches if branch.finish == "eos"]
    assert ended
    assert not any("<|end|>" in branch.text for branch in ended)
    assert all(branch.tokens < 120 for branch in ended)


def test_the_prefix_is_gone_on_from(opened: Open) -> None:
    chunk = Chunk(max_tokens=8)
    first, second = sampled(opened, asking(chunk, (1,), prefix="one"), asking(chunk, (1,), prefix="two"))
    assert first != second


def test_what_is_served_is_said(opened: Open) -> None:
    served = using(opened, lambda sampler: sampler.served())
    assert served.model  # type: ignore[attr-defined]
    assert served.check in ("verified", "unverifiable")  # type: ignore[attr-defined]


def test_closing_twice_is_fine(opened: Open) -> None:
    async def work(sampler: Sampler) -> None:
        await sampler.close()

    using(opened, work)
