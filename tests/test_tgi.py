"""What goes to a TGI server and what is made of its answers. What all samplers share is in test_samplers.py."""

from __future__ import annotations

import asyncio
import json

import pytest
from fakes import endpoints
from fakes.endpoints import BOS, Fault, Server, serve, tgi
from huggingface_hub import InferenceClient

from ssd_pipeline.errors import EndpointError, RowError
from ssd_pipeline.models.failures import Failure, Reaction
from ssd_pipeline.models.remote import RemoteSampler, check_served
from ssd_pipeline.models.retry import Pace
from ssd_pipeline.models.tgi import Tgi, read_piece
from ssd_pipeline.stage import Branch, Chunk, Model, ModelRuntime, Sample, Sampling, Served

FAST = Pace(first_s=0.01, most_s=0.05, rest_s=0.02)


def teacher(*urls: str, repo: str | None = "org/teacher", revision: str = "c0ffee", **runtime: object) -> Model:
    return Model("teacher", repo=repo, revision=revision, runtime=ModelRuntime(endpoints=urls, **runtime))


def sampled(model: Model, ask: Sample, bos: str = "") -> list[Branch]:
    async def main() -> list[Branch]:
        sampler = RemoteSampler(model, Tgi(model), endpoints.tokenizer(), bos=bos, pace=FAST)
        try:
            return await sampler.sample(ask)
        finally:
            await sampler.close()

    return asyncio.run(main())


def asking(chunk: Chunk | None = None, sampling: Sampling | None = None, seeds: tuple[int, ...] = (5,)) -> Sample:
    return Sample(f"{BOS}question ", "so far", chunk or Chunk(max_tokens=9), sampling or Sampling(), seeds)


def parameters(server: Server) -> list[dict]:
    return [body["parameters"] for body in server.posts()]


def test_what_is_sent() -> None:
    with serve(tgi) as server:
        sampled(teacher(server.url), asking(seeds=(5, 6)), bos=BOS)
        assert {body["inputs"] for body in server.posts()} == {"question so far"}
        assert sorted(p["seed"] for p in parameters(server)) == [5, 6]
        assert {k: v for k, v in parameters(server)[0].items() if k != "seed"} == {
            "details": True,
            "do_sample": True,
            "temperature": 1.0,
            "max_new_tokens": 9,
            "return_full_text": False,
        }


def test_sampling_in_tgis_words() -> None:
    sampling = Sampling(temperature=0.8, top_p=0.95, top_k=40)
    with serve(tgi) as server:
        sampled(teacher(server.url), asking(Chunk(max_tokens=9, stop=("\n\n",)), sampling), bos=BOS)
        sampled(teacher(server.url), asking(sampling=Sampling(temperature=0)), bos=BOS)
        drawn, greedy = parameters(server)
    assert (drawn["temperature"], drawn["top_p"], drawn["top_k"], drawn["stop"]) == (0.8, 0.95, 40, ["\n\n"])
    assert greedy["do_sample"] is False
    assert {"seed", "temperature", "top_p", "top_k"}.isdisjoint(greedy)


def test_a_chunk_above_the_servers_limit_is_asked_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "next_id", lambda text, written, seed: 5)
    with serve(tgi) as server:
        [branch] = sampled(teacher(server.url), asking(Chunk(max_tokens=2500)), bos=BOS)
        assert branch == Branch("1" * 2500, 2500, "length")
        assert [p["max_new_tokens"] for p in parameters(server)] == [1024, 1024, 452]
        assert len({p["seed"] for p in parameters(server)}) == 3
        assert server.posts()[2]["inputs"] == "question so far" + "1" * 2048


def test_the_end_on_the_last_place_is_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "next_id", lambda text, written, seed: 5 if len(written) < 3 else 0)
    with serve(tgi) as server:
        assert sampled(teacher(server.url), asking(Chunk(max_tokens=4)), bos=BOS) == [Branch("111", 3, "eos")]


def test_the_stop_on_the_last_place_is_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "next_id", lambda text, written, seed: 5 if len(written) < 3 else 1)
    with serve(tgi) as server:
        chunk = Chunk(max_tokens=4, stop=("\n",))
        assert sampled(teacher(server.url), asking(chunk), bos=BOS) == [Branch("111\n", 4, "stop")]


def test_a_cut_character_is_held_back_with_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "next_id", lambda text, written, seed: 5 if len(written) < 3 else 12)
    with serve(tgi) as server:
        assert sampled(teacher(server.url), asking(Chunk(max_tokens=4)), bos=BOS) == [Branch("111", 3, "length")]
        monkeypatch.setattr(endpoints, "next_id", lambda text, written, seed: 12)
        with pytest.raises(RowError, match="too few for one character"):
            sampled(teacher(server.url), asking(Chunk(max_tokens=1)), bos=BOS)


def reply(text: object = "ab", reason: object = "length", count: object = 2, tokens: int = 2, logprob: object = -1.0):
    listed = [{"id": 1, "text": "a", "special": False, "logprob": logprob} for _ in range(tokens)]
    details = {"finish_reason": reason, "generated_tokens": count, "tokens": listed}
    return {"generated_text": text, "details": details}


@pytest.mark.parametrize(
    "answer",
    [
        reply(reason="abort"),
        reply(reason=None),
        reply(reason="content_filter"),
        reply(count=0, tokens=0),
        reply(count=-1),
        reply(count=5, tokens=5),
        reply(count="2"),
        reply(count=True, tokens=1),
        reply(tokens=1),
        reply(text=None),
        *[reply(logprob=value) for value in (float("nan"), float("-inf"), None, 0.3, "NaN", True)],
        {"generated_text": "ab", "details": None},
        {"generated_text": "ab", "details": {"tokens": ["a"]}},
        {"text": "ab"},
    ],
)
def test_an_answer_without_sense_is_not_believed(answer: dict) -> None:
    with pytest.raises(Failure) as raised:
        read_piece(answer, 4, ())
    assert raised.value.reaction is Reaction.again


def test_a_400_about_model_kwargs_is_one_request() -> None:
    message = "The following `model_kwargs` are not used by the model: ['details']"
    with serve(tgi) as server:
        server.faults = [Fault(400, json.dumps({"error": message}))]
        with pytest.raises(RowError, match="model_kwargs"):
            sampled(teacher(server.url), asking(), bos=BOS)
        assert len(server.posts()) == 1
        assert sampled(teacher(server.url), asking(), bos=BOS)[0].tokens >= 1


def test_no_token_but_the_recipes_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_ambient")
    with serve(tgi) as server:
        sampled(teacher(server.url), asking(), bos=BOS)
        assert all("authorization" not in headers for *_, headers in server.requests)
        sampled(teacher(server.url, token="secret"), asking(), bos=BOS)
        assert all(headers["authorization"] == "Bearer secret" for *_, headers in server.requests[2:])
        assert "hf_ambient" not in str(server.requests)


def test_it_works_with_the_hub_off_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with serve(tgi) as server:
        assert len(sampled(teacher(server.url), asking(), bos=BOS)) == 1


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=0.8, top_p=0.9, top_k=3), Sampling(), Sampling(temperature=0)]
)
def test_huggingface_hubs_client_sends_the_same(sampling: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of our words is a word of that client, and it understands the reply of the server that we test with."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    with serve(tgi) as server:
        sampled(teacher(server.url), asking(Chunk(max_tokens=9, stop=("\n",)), sampling), bos=BOS)
        client = InferenceClient(base_url=f"{server.url}/generate", token="unused")
        ours = server.posts()[0]
        theirs = client.text_generation(ours["inputs"], **ours["parameters"])
        assert server.posts()[1] == ours
    assert theirs.details.generated_tokens == len(theirs.details.tokens)


URL = "http://127.0.0.1:1"
PATH = Model("teacher", runtime=ModelRuntime())


@pytest.mark.parametrize(
    ("model", "served", "sha", "expected"),
    [
        (teacher(URL), "org/teacher", "c0ffee", "verified"),
        (teacher(URL), "org/teacher", None, "unverifiable"),
        (teacher(URL), "org/other", "c0ffee", None),
        (teacher(URL), "org/teacher", "0ther", None),
        (teacher(URL, served_name="/data/model"), "/data/model", None, "unverifiable"),
        (teacher(URL, served_name="/data/model"), "org/teacher", "c0ffee", None),
        (PATH, "/data/model", None, "unverifiable"),
    ],
)
def test_what_is_served_is_compared(model: Model, served: str, sha: str | None, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(Failure, match="serves") as raised:
            check_served(model, served, sha)
        assert raised.value.reaction is Reaction.stop
    else:
        assert check_served(model, served, sha) == Served(served, sha, expected)


def test_another_model_stops_the_run_before_anything_is_asked() -> None:
    with serve(tgi, model="org/other") as server:
        with pytest.raises(EndpointError, match=r"org/other.*served_name"):
            sampled(teacher(server.url), asking(), bos=BOS)
        assert server.posts() == []


def test_a_server_of_another_kind_stops_the_run() -> None:
    with serve(lambda server, method, path, body: (404, {"detail": "Not Found"})) as server:
        with pytest.raises(EndpointError, match="text-generation-inference"):
            sampled(teacher(server.url), asking(), bos=BOS)
        assert len(server.requests) == 1


def test_the_first_branch_of_a_long_text_that_is_new_goes_ahead() -> None:
    """The server finds what it has read of the text only after the request for it."""
    busy: list[int] = []

    def counting(server: Server, method: str, path: str, body: dict) -> tuple[int, dict]:
        if method == "POST":
            busy.append(server.busy)
        return tgi(server, method, path, body)

    async def main(url: str) -> None:
        model = teacher(url)
        sampler = RemoteSampler(model, Tgi(model), endpoints.tokenizer(), pace=FAST)
        for prompt, prefix in (("long " * 20, ""), ("long " * 20, "more"), ("short", "")):
            await sampler.sample(Sample(prompt, prefix, Chunk(max_tokens=9), Sampling(), (1, 2, 3)))
        await sampler.close()

    with serve(counting, slow_s=0.3) as server:
        asyncio.run(main(server.url))
    assert [busy[0] == 1, busy[3] == 1, busy[6] == 1] == [True, False, False]
