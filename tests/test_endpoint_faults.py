"""Every way that we know of in which an endpoint's reply can be wrong, one line each, and what comes of it.

Three problems are asked one after the other. A fault that passes, at the first request or at a middle one, changes no
reply and costs one request; one that stays ends as the table says, and nothing that was answered is asked again.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from fakes import endpoints
from fakes.endpoints import BOS, Fault, Server, llamacpp, serve, tgi, vllm

from ssd_pipeline.errors import EndpointError, RowError
from ssd_pipeline.models import failures
from ssd_pipeline.models.completions import Completions
from ssd_pipeline.models.joins import ENOUGH
from ssd_pipeline.models.remote import RemoteSampler
from ssd_pipeline.models.retry import Pace
from ssd_pipeline.models.tgi import Tgi
from ssd_pipeline.recorded import SIBLINGS, RecordedSampler
from ssd_pipeline.stage import Branch, Chunk, Model, ModelRuntime, Sample, Sampling
from ssd_pipeline.store.replies import Replies

TOKEN = "a-token-of-this-recipe"
FAST = Pace(first_s=0.005, most_s=0.02, rest_s=0.02)
PROBLEMS = 3


def sampler(kind: Callable, *urls: str, tell: Callable[[str], None] = print, **runtime: Any) -> RemoteSampler:
    setting = {"patience_s": 0.5, "timeout_s": 5, "concurrency": 1, "token": TOKEN, **runtime}
    model = Model("teacher", repo="org/teacher", revision="c0ffee", runtime=ModelRuntime(endpoints=urls, **setting))
    wire = Tgi(model) if kind is tgi else Completions(model)
    return RemoteSampler(model, wire, endpoints.tokenizer(), bos=BOS, pace=FAST, tell=tell)


def asking(number: int, **more: Any) -> Sample:
    given = {"prefix": "so far", "chunk": Chunk(max_tokens=9), "sampling": Sampling(), "seeds": (5, 6, 7), **more}
    return Sample(f"question {number} ", **given)


Answer = list[Branch] | BaseException


def sampled(opened: RemoteSampler, count: int = PROBLEMS, **more: Any) -> list[Answer]:
    """The replies or errors of so many problems, one after the other."""

    async def one(number: int) -> Answer:
        try:
            return await opened.sample(asking(number, **more))
        except (RowError, EndpointError) as error:
            return error

    async def main() -> list[Answer]:
        try:
            return [await one(number) for number in range(count)]
        finally:
            await opened.close()

    return asyncio.run(main())


@pytest.fixture(scope="module")
def undisturbed() -> dict[Callable, list[Answer]]:
    answers = {}
    for kind in (tgi, vllm, llamacpp):
        with serve(kind) as server:
            answers[kind] = sampled(sampler(kind, server.url))
    assert answers[tgi] == answers[vllm] == answers[llamacpp], "a reply is the same reply whichever format bought it"
    return answers


def error(status: int, **headers: str) -> Fault:
    said = f"\x1b[31mwhy it failed\r {TOKEN} {json.dumps(TOKEN)}"
    return Fault(status, json.dumps({"error": said, "error_type": "x"}), headers)


def choices(change: Callable[[list[dict]], Any]) -> Fault:
    """The branches of a right reply, spoilt."""

    def spoil(reply: dict) -> dict:
        made = change(reply["choices"])
        return {**reply, "choices": reply["choices"] if made is None else made}

    return Fault(spoil=spoil)


def each(**said: Any) -> Fault:
    return choices(lambda branches: [{**branch, **said} for branch in branches])


def details(**said: Any) -> Fault:
    return Fault(spoil=lambda reply: {**reply, "details": {**reply["details"], **said}})


def logprobs(value: Any) -> Fault:
    def spoil(reply: dict) -> dict:
        tokens = [{**token, "logprob": value} for token in reply["details"]["tokens"]]
        return {**reply, "details": {**reply["details"], "tokens": tokens}}

    return Fault(spoil=spoil)


def not_all_counted(reply: dict) -> dict:
    """One branch without ids, and a count for all that would do for each."""
    short = [{**branch, "token_ids": [5] if i else None} for i, branch in enumerate(reply["choices"])]
    return {**reply, "choices": short, "usage": {"completion_tokens": 3}}


GZIP = gzip.compress(b'{"choices": []}')
# What comes of a fault that passes, and of one that stays: `same` reply, `curable` error of the row, error of the
# `row`, `stop` of the run.
TABLE: list[tuple[str, Callable, Fault, str, str]] = [
    ("75 a token is needed", vllm, error(401), "stop", "stop"),
    ("75 a token is refused", tgi, error(403), "stop", "stop"),
    ("76 no such model", vllm, error(404), "stop", "stop"),
    ("76 no such method", tgi, error(405), "stop", "stop"),
    ("76 a web page", tgi, Fault(body="<html>", content_type="text/html"), "stop", "stop"),
    ("77 refused by TGI", tgi, error(422), "row", "row"),
    ("77 refused by vLLM", vllm, error(400), "row", "row"),
    ("78 too many requests", vllm, error(429), "same", "stop"),
    ("78 come back later", tgi, error(429, **{"retry-after": "0.01"}), "same", "stop"),
    ("78 come back yesterday", vllm, error(429, **{"retry-after": "-1"}), "same", "stop"),
    ("78 come back in 30 years", vllm, error(429, **{"retry-after": "1e9"}), "same", "stop"),
    ("78 a date", tgi, error(429, **{"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"}), "same", "stop"),
    ("78 no date", tgi, error(429, **{"retry-after": f"Wed, 21 Oct {'9' * 20} 07:28:00 GMT"}), "same", "stop"),
    *[(f"79 {status}", vllm, error(status), "same", "curable") for status in (500, 424, 501)],
    *[(f"79 {status}", tgi, error(status), "same", "stop") for status in (502, 503, 504, 529)],
    ("80 truncated", vllm, Fault(body='{"choices": [{"te'), "same", "curable"),
    ("80 empty", tgi, Fault(body=""), "same", "curable"),
    ("80 null", vllm, Fault(body="null"), "same", "curable"),
    ("80 a list", tgi, Fault(body="[]"), "same", "curable"),
    ("80 another charset", vllm, Fault(body='{"choices": []}'.encode("utf-16")), "same", "curable"),
    ("80 no end of lists", vllm, Fault(body="[" * 100_000), "same", "curable"),
    ("80 no end of an error", tgi, Fault(500, "[" * 100_000), "same", "curable"),
    ("80 a codec of no text", vllm, Fault(500, "{}", content_type="application/json; charset=hex"), "same", "curable"),
    ("80 half a character", vllm, each(text="\ud800"), "same", "curable"),
    (
        "80 the other half",
        llamacpp,
        Fault(spoil=lambda reply: [{**one, "content": "\udfff"} for one in reply]),
        "same",
        "curable",
    ),
    ("80 gzip", vllm, Fault(body=GZIP, headers={"content-encoding": "gzip"}), "same", "curable"),
    ("80 gzip that ends", tgi, Fault(body=GZIP[:9], headers={"content-encoding": "gzip"}), "same", "curable"),
    ("81 reset after half", vllm, Fault(body='{"choices": []}', cut=7), "same", "curable"),
    ("81 a byte now and then", vllm, Fault(body='{"choices": [], "x": 0}', drip_s=0.1), "same", "curable"),
    ("81 never", vllm, Fault(hang_s=1.2), "same", "curable"),
    ("82 one too few", vllm, choices(lambda branches: branches[1:]), "same", "curable"),
    ("82 one too many", vllm, choices(lambda branches: [*branches, {**branches[0], "index": 3}]), "same", "curable"),
    ("82 none", vllm, choices(lambda branches: []), "same", "curable"),
    ("82 twice the same", vllm, choices(lambda branches: [branches[0]] * 3), "same", "curable"),
    ("82 llama.cpp gives two", llamacpp, Fault(spoil=lambda reply: reply[:2]), "same", "curable"),
    ("83 in another order", vllm, choices(lambda b: [b[1], b[2], b[0]]), "believed", "believed"),
    ("83 without a number", vllm, each(index=None), "same", "curable"),
    *[(f"85 {reason}", vllm, each(finish_reason=reason), "same", "curable") for reason in (None, "abort", "???", 3)],
    ("85 filtered", tgi, details(finish_reason="content_filter"), "same", "curable"),
    (
        "85 missing",
        vllm,
        choices(lambda b: [{"text": "x", "index": i, "token_ids": [5]} for i in range(3)]),
        "same",
        "curable",
    ),
    ("88 no token", tgi, details(generated_tokens=0, tokens=[]), "same", "curable"),
    ("88 too many", tgi, details(generated_tokens=10), "same", "curable"),
    ("88 negative", tgi, details(generated_tokens=-1), "same", "curable"),
    ("88 too many ids", vllm, each(token_ids=[5] * 10), "same", "curable"),
    ("88 no id of a token", vllm, each(token_ids=[10**30]), "same", "curable"),
    ("88 one branch not counted", vllm, Fault(spoil=not_all_counted), "same", "curable"),
    ("88 not counted", vllm, each(token_ids=None), "stop", "stop"),
    *[
        (f"89 {str(value)[:9]}", tgi, logprobs(value), "same", "curable")
        for value in (float("nan"), float("-inf"), None, 0.3, "NaN", 10**400)
    ],
    ("89 fewer than tokens", tgi, details(tokens=[]), "same", "curable"),
    ("96 another host", vllm, Fault(307, "{}", {"location": "http://127.0.0.1:9/"}), "stop", "stop"),
    ("14 the token is repeated", vllm, each(text=f"x {TOKEN}"), "stop", "stop"),
]
EXPECTED = {"row": (RowError, False), "curable": (RowError, True), "stop": (EndpointError, None)}
CASES = pytest.mark.parametrize(("kind", "fault", "passes", "stays"), [c[1:] for c in TABLE], ids=[c[0] for c in TABLE])


def held(answers: list[Answer], expected: str, *, told: Server) -> None:
    """What an outcome must be; and nobody is told the token, nor anything that a terminal would obey."""
    for answer in answers:
        if not isinstance(answer, list):
            kind, curable = EXPECTED[expected]
            assert type(answer) is kind
            assert getattr(answer, "curable", None) is curable
            assert TOKEN not in str(answer)
            assert str(answer).isprintable()
            assert len(str(answer)) < 1000
            assert told.url in str(answer)


@CASES
@pytest.mark.parametrize("at", [0, 4])
def test_a_fault_that_passes(kind, fault: Fault, passes: str, stays: str, at: int, undisturbed: dict) -> None:
    with serve(kind) as server:
        requests = PROBLEMS * (3 if kind is tgi else 1)
        at = min(at, requests - 2)
        server.faults = [*[None] * at, fault]
        answers = sampled(sampler(kind, server.url, timeout_s=1))
        held(answers, passes, told=server)
        if passes == "same":
            assert answers == undisturbed[kind]
            assert len(server.posts()) == requests + 1
            assert len(server.given) == requests, "an answered request was asked again"
        elif passes == "believed":
            assert len(server.posts()) >= requests
            assert all(isinstance(answer, list) for answer in answers)
        else:
            failed = at // 3 if kind is tgi else at
            assert [isinstance(answer, list) for answer in answers] == [i != failed for i in range(PROBLEMS)]


@CASES
def test_a_fault_that_stays(kind, fault: Fault, passes: str, stays: str, undisturbed: dict) -> None:
    with serve(kind) as server:
        server.faults = [fault] * 500
        answers = sampled(sampler(kind, server.url, timeout_s=1, patience_s=0.05), 1)
        held(answers, stays, told=server)
        assert isinstance(answers[0], list) == (stays == "believed")
        if stays in ("row", "stop") and fault.status not in (429, 502, 503, 504, 529):
            assert len(server.posts()) <= (3 if kind is tgi else 1), "asked again though nothing can come of it"


def test_83_branches_are_put_in_order(undisturbed: dict) -> None:
    with serve(vllm) as server:
        server.faults = [choices(lambda branches: [branches[1], branches[2], branches[0]])]
        assert sampled(sampler(vllm, server.url)) == undisturbed[vllm]


class Test74NobodyIsThere:
    def stopped(self, url: str, monkeypatch: pytest.MonkeyPatch | None = None) -> str:
        [failed] = sampled(sampler(vllm, url, patience_s=0.1), 1)
        assert isinstance(failed, EndpointError)
        assert url in str(failed)
        assert TOKEN not in str(failed)
        return str(failed)

    def test_refused(self) -> None:
        assert "the same command goes on" in self.stopped("http://127.0.0.1:9")

    def test_no_such_name(self) -> None:
        assert "the same command goes on" in self.stopped("http://no-such-host.invalid")

    def test_no_tls(self) -> None:
        with serve(vllm) as server:
            assert "the same command goes on" in self.stopped(server.url.replace("http:", "https:"))

    def test_a_proxy_that_refuses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with serve(lambda server, *_: (407, {"error": "who are you"})) as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("//", "//me:open-sesame@"))
            monkeypatch.delenv("NO_PROXY", raising=False)
            monkeypatch.delenv("no_proxy", raising=False)
            said = self.stopped("http://teacher.example")
        assert "407" in said
        assert "open-sesame" not in said


@pytest.mark.parametrize(("finish", "expected"), [("length", "length"), ("stop", "eos")])
def test_84_empty_text(finish: str, expected: str) -> None:
    """With `length` it is a branch that wrote nothing (search.py cannot choose it), with `stop` the end of the text."""
    with serve(vllm) as server:
        server.faults = [each(text="", finish_reason=finish, stop_reason=None, token_ids=[0] * 9)]
        [branches] = sampled(sampler(vllm, server.url), 1)
    assert isinstance(branches, list)
    assert {(branch.text, branch.finish) for branch in branches} == {("", expected)}


class Test87TextAndTokens:
    def test_joins_whose_tokens_change_are_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(endpoints, "next_id", lambda text, written, seed: 1)  # "\n", and "\n\n" is one token too
        for kind in (tgi, vllm, llamacpp):
            with serve(kind) as server:
                opened = sampler(kind, server.url)

                async def main(opened: RemoteSampler = opened) -> tuple[int, int]:
                    await opened.sample(asking(0, prefix="so", chunk=Chunk(max_tokens=1)))  # \n
                    await opened.sample(asking(0, prefix="so\n", chunk=Chunk(max_tokens=1)))  # \n\n now
                    served = await opened.served()
                    await opened.close()
                    return served.joins, served.changed_joins

                assert asyncio.run(main()) == (6, 3)

    def test_another_tokenisers_ids_stop_the_run(self) -> None:
        with serve(vllm) as server:
            server.faults = [choices(lambda branches: [{**b, "token_ids": [9] * 9} for b in branches])] * ENOUGH
            answers = sampled(sampler(vllm, server.url), ENOUGH // 3 + 1)
        assert isinstance(answers[0], list)
        assert isinstance(answers[-1], EndpointError)
        assert "another model" in str(answers[-1])


def test_90_a_cut_character_is_not_in_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    face = endpoints.TOKENS.index(b"\xf0\x9f")
    monkeypatch.setattr(endpoints, "next_id", lambda text, written, seed: face if len(written) == 2 else 5)
    for kind in (tgi, vllm, llamacpp):
        with serve(kind) as server:
            [branches] = sampled(sampler(kind, server.url), 1, chunk=Chunk(max_tokens=3))
        assert {branch.text for branch in branches} == {"11"}  # type: ignore[union-attr]


def test_91_the_prompt_given_back_is_an_error_of_the_row(tmp_path) -> None:
    def echo(server: Server, method: str, path: str, body: Any) -> tuple[int, Any]:
        status, reply = vllm(server, method, path, body)
        for choice in reply.get("choices", ()):
            choice["text"] = body["prompt"] + choice["text"]
        return status, reply

    with serve(echo) as server, pytest.raises(RowError, match="the prompt back"):
        asyncio.run(recorded(tmp_path, sampler(vllm, server.url)))


async def recorded(folder, opened: RemoteSampler, count: int = 1, tell: Callable[[str], None] = print) -> list[int]:
    """Ask through the record; how many tokens were paid for."""
    replies, paid = Replies(folder), []
    recording = RecordedSampler(opened, replies, {}, lambda spend: paid.append(spend.bought), tell=tell)
    try:
        for number in range(count):
            await recording.sample(asking(number))
    finally:
        await recording.close()
        replies.close()
    return paid


def test_92_a_server_that_ignores_seeds_is_told_of_once_with_the_share(tmp_path) -> None:
    def unseeded(server: Server, method: str, path: str, body: Any) -> tuple[int, Any]:
        return vllm(server, method, path, body and {**body, "temperature": 0})

    said: list[str] = []
    for folder, kind in (("seeded", vllm), ("unseeded", unseeded)):
        with serve(kind) as server:
            asyncio.run(recorded(tmp_path / folder, sampler(vllm, server.url), SIBLINGS, said.append))
        assert len(said) == (folder == "unseeded")
    assert said[0].startswith(f"100% of {SIBLINGS} branches repeat another one")


class Test93AnotherModel:
    def test_at_the_start(self) -> None:
        for kind, setting in ((tgi, {"sha": "0ther"}), (tgi, {"model": "org/other"}), (vllm, {"model": "other"})):
            with serve(kind, **setting) as server:
                [failed] = sampled(sampler(kind, server.url), 1)
                assert isinstance(failed, EndpointError)
                assert server.posts() == []

    def test_at_a_new_connection_though_nothing_failed(self) -> None:
        """A rolling update: the old server ends its connections in order, the new one answers at once."""

        async def main() -> tuple[Answer, int]:
            with serve(tgi) as old:
                opened = sampler(tgi, old.url)
                await opened.sample(asking(0))
                port = int(old.url.rpartition(":")[2])
            with serve(tgi, port=port, sha="updated") as new:
                try:
                    await opened.sample(asking(1))
                except EndpointError as error:
                    return error, len(new.posts())
                finally:
                    await opened.close()
            raise AssertionError("rows of two models are mixed")

        failed, posts = asyncio.run(main())
        assert "updated" in str(failed)
        assert posts == 0, "the new model was asked"


def test_94_two_endpoints_with_different_models_stop_the_run_at_its_start() -> None:
    with serve(tgi) as one, serve(tgi, sha="0ther") as other:
        [failed] = sampled(sampler(tgi, one.url, other.url), 1)
        assert isinstance(failed, EndpointError)
        assert one.posts() == other.posts() == []


@pytest.mark.parametrize("said", [{"model_sha": 5}, {"model_sha": ["c0ffee"]}, {"model_id": None}])
def test_93_who_says_nonsense_of_what_it_serves_stops_the_run(said: dict) -> None:
    def answers(server: Server, method: str, path: str, body: Any) -> tuple[int, Any]:
        status, reply = tgi(server, method, path, body)
        return status, {**reply, **said} if path == "/info" else reply

    with serve(answers) as server:
        [failed] = sampled(sampler(tgi, server.url), 1)
    assert isinstance(failed, EndpointError)


@pytest.mark.parametrize("data", [5, 0.5, "x", {"id": "org/teacher"}])
def test_93_a_list_of_models_that_is_none_stops_the_run(data: Any) -> None:
    with serve(lambda server, method, path, body: (200, {"data": data})) as server:
        [failed] = sampled(sampler(vllm, server.url), 1)
    assert "lists no model" in str(failed)


def test_several_endpoints_have_the_smallest_context_of_them() -> None:
    with serve(tgi, context=60) as small, serve(tgi) as large:
        opened = sampler(tgi, small.url, large.url)
        answers = sampled(opened, 4, prefix="x" * 60, seeds=(5,))
        assert all(isinstance(answer, RowError) for answer in answers), answers
        assert small.posts() == large.posts() == []


def test_97_a_reply_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "LARGEST_REPLY", 100_000)
    with serve(vllm) as server:
        server.faults = [Fault(body='{"choices": "' + "x" * 1_000_000 + '"}')]
        [failed, *rest] = sampled(sampler(vllm, server.url))
    assert isinstance(failed, RowError)
    assert "larger" in str(failed)
    assert all(isinstance(answer, list) for answer in rest)


def test_99_an_answer_that_came_too_late_is_stored_once(tmp_path, undisturbed: dict) -> None:
    with serve(vllm) as server:
        server.faults = [Fault(hang_s=1.2, spoil=lambda reply: reply)]
        paid = asyncio.run(recorded(tmp_path, sampler(vllm, server.url, timeout_s=1), PROBLEMS))
    assert sum(paid) == sum(branch.tokens for branches in undisturbed[vllm] for branch in branches)
    lines = [line for path in tmp_path.glob("*.log") for line in path.read_bytes().splitlines()]
    assert len(lines) == PROBLEMS * 3
