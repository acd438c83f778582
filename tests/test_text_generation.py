"""The judge of our TGI fake: `text-generation` 0.7.0, the client of TGI's own authors, talks to it and understands it.

It is installed without what it depends on (a huggingface_hub that no transformers 5 accepts), beside the tests alone.
It is made for TGI's other route, POST /, which answers as /generate does, but in a list; and it says every parameter,
also those that are off.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import text_generation
from fakes import endpoints
from fakes.endpoints import Fault, Server, serve
from text_generation import errors
from text_generation.types import FinishReason, Response

from ssd_pipeline.models import open_sampler
from ssd_pipeline.stage import Branch, Chunk, Model, ModelRuntime, Sample, Sampling

PROMPT = "a question: "


def tgi(server: Server, method: str, path: str, body: Any) -> tuple[int, Any]:
    """The fake, and POST / in front of it."""
    if (method, path) != ("POST", "/") or body.pop("stream") is not False:
        return endpoints.tgi(server, method, path, body)
    said = {k: v for k, v in body["parameters"].items() if not (v is None or v is False or v == [])}
    status, reply = endpoints.tgi(server, method, "/generate", {**body, "parameters": said})
    return status, [reply] if status == 200 else reply


def old(server: Server, **wishes: Any) -> Response:
    return asyncio.run(text_generation.AsyncClient(f"{server.url}/").generate(PROMPT, **wishes))


def ours(server: Server, tokenizer: Path, chunk: Chunk, sampling: Sampling, seed: int) -> Branch:
    runtime = ModelRuntime(api="tgi", endpoints=(server.url,), served_name="org/teacher")

    async def main() -> Branch:
        sampler = open_sampler(Model("teacher", path=tokenizer, runtime=runtime))
        try:
            [branch] = await sampler.sample(Sample(PROMPT, "", chunk, sampling, (seed,)))
            return branch
        finally:
            await sampler.close()

    return asyncio.run(main())


@pytest.mark.parametrize("seed", range(5, 11))
@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        (Sampling(temperature=0), {}),
        (Sampling(), {"do_sample": True, "temperature": 1.0}),
        (
            Sampling(temperature=0.8, top_p=0.95, top_k=40),
            {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 40},
        ),
    ],
)
def test_both_clients_say_the_same_and_are_told_the_same(
    sampling: Sampling, said: dict[str, Any], seed: int, tiny_model: Callable[..., Path]
) -> None:
    chunk, drawn = Chunk(max_tokens=9, stop=("\n", " 7")), {"seed": seed} if said else {}
    with serve(tgi) as server:
        branch = ours(server, tiny_model(), chunk, sampling, seed)
        reply = old(server, max_new_tokens=9, stop_sequences=["\n", " 7"], **said, **drawn)
        mine, theirs = server.posts()
    assert mine["inputs"] == theirs["inputs"]
    assert mine["parameters"] == {key: theirs["parameters"][key] for key in mine["parameters"]}
    more = {key: value for key, value in theirs["parameters"].items() if key not in mine["parameters"]}
    assert all(value in (None, False) for value in more.values()), more

    assert reply.generated_text == branch.text
    ended = reply.details.finish_reason is FinishReason.EndOfSequenceToken or reply.details.tokens[-1].special
    assert ended == (branch.finish == "eos")
    assert len(reply.details.tokens) == reply.details.generated_tokens == branch.tokens + ended
    assert reply.details.seed == (seed if said else None)
    assert "".join(token.text for token in reply.details.tokens) == reply.generated_text


def test_every_way_to_finish_is_one_that_it_knows() -> None:
    with serve(tgi) as server:
        replies = [
            old(server, max_new_tokens=9, stop_sequences=["\n"], do_sample=True, seed=seed, temperature=1.0)
            for seed in range(40)
        ]
    assert {reply.details.finish_reason for reply in replies} == set(FinishReason)
    ended = [reply for reply in replies if reply.details.finish_reason is FinishReason.EndOfSequenceToken]
    for reply in ended:
        assert [token.id for token in reply.details.tokens if token.special] == [reply.details.tokens[-1].id]


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (422, "validation", errors.ValidationError),
        (424, "generation", errors.GenerationError),
        (429, "overloaded", errors.OverloadedError),
        (500, "incomplete_generation", errors.IncompleteGenerationError),
    ],
)
def test_an_error_has_the_shape_that_it_reads(status: int, kind: str, error: type[Exception]) -> None:
    with serve(tgi) as server:
        server.faults = [Fault(status, json.dumps({"error": "said why", "error_type": kind}))]
        with pytest.raises(error, match="said why"):
            old(server)


def test_what_the_fake_refuses_by_itself_is_read_as_a_refusal() -> None:
    with serve(tgi) as server:
        with pytest.raises(errors.ValidationError, match="truncate"):
            old(server, truncate=5)
        assert server.unexpected.pop().startswith("truncate")
