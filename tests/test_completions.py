"""What goes to /v1/completions and what is made of its answers. What all samplers share is in test_samplers.py."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from fakes import endpoints
from fakes.endpoints import BOS, TOKENS, Fault, Server, llamacpp, serve, serve_cli, sglang, silent, tokenizer, vllm

from ssd_pipeline.errors import EndpointError, RowError
from ssd_pipeline.models.completions import Completions, read_llama, read_piece
from ssd_pipeline.models.failures import Failure, Reaction
from ssd_pipeline.models.joins import Joins
from ssd_pipeline.models.pieces import Piece, consecutive, piece_seed, whole_branch
from ssd_pipeline.models.remote import RemoteSampler
from ssd_pipeline.models.retry import Pace
from ssd_pipeline.stage import Branch, Chunk, Model, ModelRuntime, Sample, Sampling, Served

FAST = Pace(first_s=0.01, most_s=0.05, rest_s=0.02)


def teacher(url: str, repo: str | None = "org/teacher", **runtime: object) -> Model:
    return Model("teacher", repo=repo, revision="c0ffee", runtime=ModelRuntime(endpoints=(url,), **runtime))


def opened(model: Model) -> RemoteSampler:
    return RemoteSampler(model, Completions(model, [0]), endpoints.tokenizer(), bos=BOS, pace=FAST)


def sampled(model: Model, *asks: Sample) -> list[list[Branch]]:
    async def main() -> list[list[Branch]]:
        sampler = opened(model)
        try:
            return [await sampler.sample(ask) for ask in asks]
        finally:
            await sampler.close()

    return asyncio.run(main())


def asking(chunk: Chunk | None = None, seeds: tuple[int, ...] = (5, 6, 7), sampling: Sampling | None = None) -> Sample:
    return Sample(f"{BOS}question ", "so far", chunk or Chunk(max_tokens=9), sampling or Sampling(), seeds)


def branches_asked(server: Server) -> list[tuple[int, int]]:
    return [(body["seed"], body.get("n", 1)) for body in server.posts()]


def test_every_setting_is_said() -> None:
    with serve(vllm) as server:
        sampled(teacher(server.url), asking(Chunk(max_tokens=9, stop=("\n",)), (5,)))
        [body] = server.posts()
    assert body == {
        "model": "org/teacher",
        "prompt": "question so far",
        "max_tokens": 9,
        "seed": 5,
        "stream": False,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0,
        "repetition_penalty": 1,
        "stop": ["\n"],
        "include_stop_str_in_output": True,
        "no_stop_trim": True,
        "return_token_ids": True,
    }


def test_a_base_url_may_end_in_v1() -> None:
    with serve(vllm) as server:
        sampled(teacher(server.url + "/v1/"), asking())
        assert {path for _, path, *_ in server.requests} == {"/v1/models", "/v1/completions"}


def test_branches_are_one_request_where_seeds_follow_and_each_is_counted() -> None:
    with serve(vllm) as server:
        together, apart = sampled(teacher(server.url), asking(), asking(seeds=(7, 5, 6)))
        assert branches_asked(server)[0] == (5, 3)
        assert sorted(branches_asked(server)[1:]) == [(5, 2), (7, 1)]
    assert [apart[1], apart[2], apart[0]] == together


def test_llama_cpp_takes_as_many_branches_as_it_has_slots() -> None:
    with serve(vllm) as other:
        expected = sampled(teacher(other.url), asking(seeds=(5, 6, 7, 8, 9)))
    with serve(llamacpp, slots=2) as server:
        assert sampled(teacher(server.url), asking(seeds=(5, 6, 7, 8, 9))) == expected
        assert sorted((body["seed"], body["n_cmpl"]) for body in server.posts()) == [(5, 2), (7, 2), (9, 1)]


def test_others_are_asked_once_a_branch() -> None:
    with serve(vllm) as other:
        expected = sampled(teacher(other.url), asking())
    for kind, asked in ((sglang, 3), (serve_cli, 6)):
        with serve(kind) as server:
            assert sampled(teacher(server.url), asking()) == expected
            assert len(server.posts()) == asked, "transformers serve refuses what it does not know, and is asked anew"


def test_transformers_serve_is_asked_one_after_the_other() -> None:
    with serve(serve_cli, slow_s=0.01) as server:
        sampled(teacher(server.url), asking(seeds=(1,)), asking(seeds=tuple(range(8))))
        assert server.most_busy == 1


def test_seeds_that_do_not_follow_are_apart() -> None:
    assert consecutive([4, 5, 6, 2**31 - 1, 0, 1, 7], 2) == [(4, 5), (6,), (2**31 - 1,), (0, 1), (7,)]


def test_a_server_that_ignores_n_has_answered_the_first() -> None:
    def one_choice(server: Server, method: str, path: str, body: dict) -> tuple[int, dict]:
        return vllm(server, method, path, {k: v for k, v in body.items() if k != "n"} if body else body)

    with serve(vllm) as other, serve(one_choice) as server:
        assert sampled(teacher(server.url), asking()) == sampled(teacher(other.url), asking())
        assert [seed for seed, _ in branches_asked(server)] == [5, 6, 7]


def test_a_refused_prompt_is_asked_once() -> None:
    with serve(vllm) as server:
        server.faults = [Fault(400, '{"error": {"message": "too long"}}')]
        with pytest.raises(RowError, match="too long"):
            sampled(teacher(server.url), asking())
        assert branches_asked(server) == [(5, 3)]


@pytest.mark.parametrize("kind", [vllm, sglang, llamacpp])
def test_what_the_servers_context_leaves_is_asked_for_and_no_more(kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "next_id", lambda text, written, seed: 5)
    prompt = Sample("1" * 90, "", Chunk(max_tokens=64), Sampling(), (5, 6))
    with serve(kind, context=100) as server:
        assert sampled(teacher(server.url), prompt) == [[Branch("1" * 9, 9, "length")] * 2]  # and one for BOS
        with pytest.raises(RowError, match="fills its server's context"):
            sampled(teacher(server.url), replace(prompt, prompt="1" * 100))


def test_too_few_branches_are_asked_again_never_padded() -> None:
    def short(server: Server, method: str, path: str, body: dict) -> tuple[int, dict]:
        status, reply = vllm(server, method, path, body)
        if method == "POST" and len(server.posts()) == 1:
            reply["choices"].pop()
        return status, reply

    with serve(short) as server:
        [branches] = sampled(teacher(server.url), asking())
        assert len(branches) == 3
        assert branches_asked(server) == [(5, 3), (5, 3)]


def test_a_stop_before_min_tokens_is_sampled_on_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "next_id", lambda text, written, seed: 1 if len(written) % 4 == 3 else 5)
    chunk = Chunk(min_tokens=6, max_tokens=20, stop=("\n",))
    with serve(vllm) as server:
        [branches] = sampled(teacher(server.url), asking(chunk, (5, 6)))
        assert branches == [Branch("111\n111\n", 8, "stop")] * 2
        asked = [(body["prompt"], body["max_tokens"], body["seed"]) for body in server.posts()]
    assert asked[0] == ("question so far", 20, 5)
    assert sorted(asked[1:], key=str) == sorted(
        [("question so far111\n", 16, piece_seed(5, 1)), ("question so far111\n", 16, piece_seed(6, 1))], key=str
    )


@pytest.mark.parametrize("kind", [vllm, sglang, llamacpp, serve_cli])
def test_a_stop_and_an_end_are_told_apart(kind, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = Chunk(max_tokens=9, stop=("\n",))
    with serve(kind) as server:
        for last, expected in ((1, Branch("11\n", 3, "stop")), (0, Branch("11", 2, "eos"))):
            monkeypatch.setattr(
                endpoints, "next_id", lambda text, written, seed, last=last: 5 if len(written) < 2 else last
            )
            assert sampled(teacher(server.url), asking(chunk, (5,))) == [[expected]]


def test_a_server_that_tells_neither_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "next_id", lambda text, written, seed: 5 if len(written) < 2 else 1)
    with serve(silent) as server, pytest.raises(EndpointError, match="does not say whether"):
        sampled(teacher(server.url), asking(Chunk(max_tokens=9, stop=("\n",)), (5,)))


def read(choice: dict, count: object = 1) -> Piece:
    return read_piece(choice, {"usage": {"completion_tokens": count}}, 4, ("\n",))


@pytest.mark.parametrize(
    ("choice", "counted"),
    [
        ({"text": "a", "finish_reason": None}, 1),
        ({"text": "a", "finish_reason": "abort"}, 1),
        ({"text": "a", "finish_reason": "content_filter"}, 1),
        ({"text": "a", "finish_reason": ["stop"]}, 1),
        ({"text": "a"}, 1),
        ({"text": None, "finish_reason": "length"}, 1),
        ({"text": "a", "finish_reason": "length"}, 5),
        ({"text": "a", "finish_reason": "length"}, 0),
        ({"text": "a", "finish_reason": "length"}, -1),
        ({"text": "a", "finish_reason": "length"}, None),
        ({"text": "a", "finish_reason": "length"}, "1"),
        ({"text": "a", "finish_reason": "length", "token_ids": [1] * 5}, 1),
    ],
)
def test_an_answer_without_sense_is_not_believed(choice: dict, counted: object) -> None:
    with pytest.raises(Failure) as raised:
        read(choice, counted)
    assert raised.value.reaction is Reaction.again


@pytest.mark.parametrize(
    "answer",
    [
        {"index": 0, "content": "a", "tokens": [5], "stop_type": "none"},
        {"index": 0, "content": "a", "tokens": [5], "stop_type": "word", "stopping_word": "?"},
        {"index": 0, "content": "a", "tokens": [], "stop_type": "limit"},
        {"index": 0, "content": None, "tokens": [5], "stop_type": "limit"},
        {"index": 1, "content": "a", "tokens": [5], "stop_type": "limit"},
        [{"index": 0, "content": "a", "tokens": [5], "stop_type": "limit"}] * 2,
        ["a"],
    ],
)
def test_an_answer_of_llama_cpp_without_sense_is_not_believed(answer: object) -> None:
    with pytest.raises(Failure) as raised:
        read_llama(answer, 4, ("\n",))
    assert raised.value.reaction is Reaction.again


def test_a_cut_character_is_taken_off() -> None:
    assert read({"text": "a\ufffd", "finish_reason": "length"}, 3) == Piece("a", 3, 3, "length")


def test_what_is_served_is_compared() -> None:
    async def served(model: Model) -> Served:
        sampler = opened(model)
        try:
            return await sampler.served()
        finally:
            await sampler.close()

    with serve(vllm, model="alias") as server:
        assert asyncio.run(served(teacher(server.url, served_name="alias"))) == Served("alias", None, "unverifiable")
        assert asyncio.run(served(teacher(server.url, repo=None))) == Served("alias", None, "unverifiable")
        with pytest.raises(EndpointError, match="'alias', not 'org/teacher'"):
            asyncio.run(served(teacher(server.url)))
        sampled(teacher(server.url, repo=None), asking(seeds=(5,)))
        assert server.posts()[0]["model"] == "alias"


def test_pieces_are_one_branch() -> None:
    pieces = [Piece("ab", 2, 3, "length"), Piece("\n", 1, 1, "stop"), Piece("c\n", 2, 2, "stop")]
    asked: list[tuple[str, int, int]] = []

    async def more(text: str, tokens: int, seed: int) -> Piece:
        asked.append((text, tokens, seed))
        return pieces[len(asked) - 1]

    branch = asyncio.run(whole_branch(Chunk(min_tokens=5, max_tokens=9, stop=("\n",)), 7, more, most=3))
    assert branch == Branch("ab\nc\n", 5, "stop")
    assert [(text, tokens) for text, tokens, _ in asked] == [("", 3), ("ab", 3), ("ab\n", 3)]
    assert [seed for *_, seed in asked] == [7, piece_seed(7, 1), piece_seed(7, 2)]
    assert len({piece_seed(seed, number) for seed in range(50) for number in range(50)}) == 50 + 50 * 49


def test_the_whole_characters_of_a_long_broken_text_are_found_at_its_end() -> None:
    """The ids of a text that never becomes characters are looked at once each, not again for every one before."""
    joins, ids = Joins(tokenizer()), [TOKENS.index(b"\xf0\x9f")] * 20_000
    assert joins.whole(ids) == 0
    assert joins.whole([5, *ids[:9]]) == 1
    assert joins.whole([*ids, TOKENS.index(b"\x98\x80")]) == 20_001
