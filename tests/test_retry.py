"""The table of failures, row by row, against real sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from email.utils import formatdate

import httpx2
import pytest
from fakes.endpoints import Fault, Server, serve, tgi

from ssd_pipeline.errors import EndpointError, RowError
from ssd_pipeline.models import failures
from ssd_pipeline.models.failures import Failure, Reaction, by_status, read_retry_after
from ssd_pipeline.models.limits import Quota
from ssd_pipeline.models.retry import Endpoint, Endpoints, Pace, all_of
from ssd_pipeline.stage import Model, ModelRuntime, Served

FAST = Pace(first_s=0.01, most_s=0.05, rest_s=0.05, minute_s=0.3)
GOOD = {"inputs": "x", "parameters": {"details": True, "max_new_tokens": 3}}


def teacher(*urls: str, **runtime: object) -> Model:
    setting = {"patience_s": 20, "timeout_s": 5, **runtime}
    return Model("teacher", repo="org/teacher", runtime=ModelRuntime(endpoints=urls, **setting))


async def identify(endpoint: Endpoint) -> Served:
    info = (await endpoint.http.get(f"{endpoint.url}/info")).json()
    return Served(info["model_id"], info["model_sha"], "verified")


def posting(text: str) -> Callable[[Endpoint], Awaitable[str]]:
    async def call(endpoint: Endpoint) -> str:
        return (await endpoint.http.post(f"{endpoint.url}/generate", json={**GOOD, "inputs": text})).json()[
            "generated_text"
        ]

    return call


post = posting("x")


def asked(model: Model, texts: tuple[str, ...] = ("x",), pace: Pace = FAST) -> list[str | BaseException]:
    async def main() -> list[str | BaseException]:
        endpoints = Endpoints(model, "TGI", identify, pace)
        try:
            return await asyncio.gather(*(endpoints.ask(text, posting(text)) for text in texts), return_exceptions=True)
        finally:
            await endpoints.close()

    return asyncio.run(main())


def outcome(server: Server, *faults: Fault, **runtime: object) -> str | BaseException:
    server.faults = list(faults)
    [answer] = asked(teacher(server.url, **runtime))
    return answer


ERROR = '{"error": "why it failed", "error_type": "x"}'
AGAIN = {
    **{f"status {status}": Fault(status, ERROR) for status in (408, 424, 500, 501, 507)},
    "half a reply": Fault(body='{"generated_text": "x"}', cut=9),
    "no body": Fault(body=""),
    "null": Fault(body="null"),
    "an empty list": Fault(body="[]"),
    "not JSON": Fault(body='{"generated_text": '),
    "another charset": Fault(body=b"\xff\xfe{"),
    "nothing at all": Fault(body="x", cut=0),
}


@pytest.mark.parametrize("fault", AGAIN.values(), ids=AGAIN)
def test_a_request_that_breaks_is_asked_again_and_then_the_row_is_curable(fault: Fault) -> None:
    with serve(tgi) as server:
        assert isinstance(outcome(server, fault, fault), str)
        assert len(server.posts()) == 3
        failed = outcome(server, fault, fault, fault)
        assert isinstance(failed, RowError)
        assert failed.curable
        assert len(server.posts()) == 6


def test_an_answer_that_does_not_come_is_asked_for_again() -> None:
    with serve(tgi) as server:
        assert isinstance(outcome(server, Fault(hang_s=0.6), timeout_s=0.2), str)
        assert len(server.posts()) == 2


@pytest.mark.parametrize("status", [425, 429, 502, 503, 504, 529])
def test_a_busy_endpoint_is_waited_for(status: int) -> None:
    with serve(tgi) as server:
        assert isinstance(outcome(server, *[Fault(status, ERROR)] * 5), str)
        assert len(server.posts()) == 6


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_an_error_of_the_row(status: int) -> None:
    with serve(tgi) as server:
        failed = outcome(server, Fault(status, '{"error": {"message": "too \\u001b[31m long"}}'))
        assert isinstance(failed, RowError)
        assert not failed.curable
        assert f"status {status}: too \\x1b[31m long" in str(failed)
        assert len(server.posts()) == 1


STOP = {
    **{f"status {status}": Fault(status, ERROR) for status in (401, 402, 403, 404, 405, 407, 410)},
    "a redirect": Fault(307, ERROR, {"location": "http://127.0.0.1:9/generate"}),
    "a web page": Fault(body="<html></html>", content_type="text/html; charset=utf-8"),
}


@pytest.mark.parametrize("fault", STOP.values(), ids=STOP)
def test_what_no_request_will_mend_stops_the_run_at_once(fault: Fault) -> None:
    with serve(tgi) as server:
        failed = outcome(server, fault, token="secret-token")
        assert isinstance(failed, EndpointError)
        assert server.url in str(failed)
        assert "secret" not in str(failed)
        assert len(server.posts()) == 1


def test_every_status_has_a_reaction() -> None:
    for status in [*range(300, 600)]:
        assert by_status(status) in Reaction
        assert (by_status(status) is Reaction.stop) == (status < 500 and status not in failures.BY_STATUS)


def test_a_reply_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "LARGEST_REPLY", 1000)
    with serve(tgi) as server:
        failed = outcome(server, Fault(body='{"generated_text": "' + "x" * 2000 + '"}'))
        assert isinstance(failed, RowError)
        assert "larger" in str(failed)


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("header", "expected"),
        [("2", 2), ("0", 0), ("-1", None), ("soon", None), ("", None), ("1e9", 1e9), ("inf", None), ("nan", None)],
    )
    def test_it_is_read(self, header: str, expected: float | None) -> None:
        assert read_retry_after(httpx2.Headers({"retry-after": header})) == expected

    def test_a_date_is_read(self) -> None:
        headers = httpx2.Headers({"retry-after": formatdate(time.time() + 60, usegmt=True)})
        assert 55 < (read_retry_after(headers) or 0) <= 60
        past = httpx2.Headers({"retry-after": formatdate(time.time() - 60, usegmt=True)})
        assert read_retry_after(past) is None

    def test_it_is_kept_to_but_not_for_ever(self) -> None:
        with serve(tgi) as server:
            began = time.monotonic()
            server.faults = [Fault(429, ERROR, {"retry-after": "1000000000"})]
            [answer] = asked(teacher(server.url), pace=Pace(first_s=0.001, most_s=0.2))
            assert isinstance(answer, str)
            assert 0.14 < time.monotonic() - began < 3

    def test_waits_double_up_to_the_longest_and_differ(self) -> None:
        pace = Pace(first_s=1, most_s=8)
        for failed, longest in ((0, 1), (1, 2), (2, 4), (3, 8), (9, 8), (10_000, 8)):
            waits = {pace.delay(failed, None) for _ in range(20)}
            assert all(0.75 * longest <= wait <= longest for wait in waits)
            assert len(waits) > 1


def dead_url() -> str:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{held.getsockname()[1]}"


def test_a_dead_endpoint_is_waited_for_and_then_the_run_stops_and_says_how_to_go_on() -> None:
    url = dead_url()
    began = time.monotonic()
    [failed] = asked(teacher(url, token="secret-token", patience_s=0.4))
    assert 0.4 <= time.monotonic() - began < 5
    assert isinstance(failed, EndpointError)
    assert url in str(failed)
    assert "the same command goes on" in str(failed)
    assert "secret" not in str(failed)


def test_no_patience_is_no_wait() -> None:
    began = time.monotonic()
    [failed] = asked(teacher(dead_url(), patience_s=0), pace=Pace())
    assert isinstance(failed, EndpointError)
    assert time.monotonic() - began < 0.4


def test_an_endpoint_that_comes_back_is_gone_on_with() -> None:
    async def main(url: str) -> str:
        endpoints = Endpoints(teacher(url, patience_s=20), "TGI", identify, FAST)
        asking = asyncio.create_task(endpoints.ask("x", post))
        await asyncio.sleep(0.15)
        assert not asking.done()
        with serve(tgi) as server:
            endpoints._all[0].url = server.url
            answer = await asking
        await endpoints.close()
        return answer

    assert isinstance(asyncio.run(main(dead_url())), str)


def test_a_busy_endpoint_that_serves_others_makes_a_curable_error() -> None:
    async def main(server: Server) -> BaseException | str:
        endpoints = Endpoints(teacher(server.url, patience_s=0.15), "TGI", identify, FAST)

        async def busy(endpoint: Endpoint) -> str:
            raise Failure(Reaction.wait, "too busy")

        async def others() -> None:
            while True:
                await endpoints.ask("y", post)
                await asyncio.sleep(0.02)

        background = asyncio.create_task(others())
        [answer] = await asyncio.gather(endpoints.ask("x", busy), return_exceptions=True)
        background.cancel()
        await endpoints.close()
        return answer

    with serve(tgi) as server:
        failed = asyncio.run(main(server))
    assert isinstance(failed, RowError)
    assert failed.curable


class TestSeveralEndpoints:
    texts = tuple(map(str, range(40)))

    def test_a_problem_keeps_to_its_endpoint_and_they_share_the_work(self) -> None:
        with serve(tgi, slow_s=0.01) as one, serve(tgi, slow_s=0.01) as other:
            asked(teacher(one.url, other.url, concurrency=4), self.texts * 3)
            prompts = [[body["inputs"] for body in server.posts()] for server in (one, other)]
            assert not set(prompts[0]) & set(prompts[1])
            assert [len(set(part)) for part in prompts] == [20, 20]

    def test_it_moves_when_that_one_is_dead_and_stays(self) -> None:
        async def main(server: Server) -> list[str]:
            endpoints = Endpoints(teacher(dead_url(), server.url, patience_s=20), "TGI", identify, FAST)
            try:
                answers = await asyncio.gather(*(endpoints.ask(text, posting(text)) for text in self.texts))
                live = endpoints._all[1]
                assert all(endpoints._home(text) is live for text in self.texts)
                return answers
            finally:
                await endpoints.close()

        with serve(tgi) as server:
            assert len(asyncio.run(main(server))) == len(server.posts()) == len(self.texts)

    def test_a_dead_one_is_tried_by_one_request_at_a_time(self) -> None:
        tried: list[str] = []

        async def slow(endpoint: Endpoint) -> Served:
            if endpoint.url.endswith(":9"):
                tried.append(endpoint.url)
                await asyncio.sleep(0.1)
                raise Failure(Reaction.wait, "nobody there", gone=True)
            return await identify(endpoint)

        async def main(url: str) -> None:
            model = teacher("http://127.0.0.1:9", url, patience_s=20)
            endpoints = Endpoints(model, "TGI", slow, replace(FAST, rest_s=30))
            await asyncio.gather(*(endpoints.ask(text, posting(text)) for text in self.texts))
            await endpoints.close()

        with serve(tgi) as server:
            asyncio.run(main(server.url))
        assert len(tried) == 1

    def test_they_must_serve_the_same_from_the_start(self) -> None:
        async def main(*urls: str) -> None:
            endpoints = Endpoints(teacher(*urls), "TGI", identify, FAST)
            try:
                await endpoints.served()
            finally:
                await endpoints.close()

        with serve(tgi) as one, serve(tgi, sha="0ther") as other:
            with pytest.raises(EndpointError, match="was served before"):
                asyncio.run(main(one.url, other.url))
            assert one.posts() == other.posts() == []
            asyncio.run(main(one.url, dead_url()))
            asyncio.run(main(dead_url(), one.url))


def test_what_is_served_is_asked_again_after_the_endpoint_was_gone() -> None:
    async def main(server: Server) -> None:
        endpoints = Endpoints(teacher(server.url, patience_s=20), "TGI", identify, FAST)
        await endpoints.ask("x", post)
        await endpoints.ask("x", post)
        assert [path for method, path, *_ in server.requests if method == "GET"] == ["/info"]
        server.sha, live = "updated", endpoints._all[0].url
        endpoints._all[0].url = dead_url()
        asking = asyncio.create_task(endpoints.ask("x", post))
        await asyncio.sleep(0.1)
        endpoints._all[0].url = live
        try:
            await asking
        finally:
            await endpoints.close()

    with serve(tgi) as server:
        with pytest.raises(EndpointError, match="updated"):
            asyncio.run(main(server))
        assert len(server.posts()) == 2


def test_no_more_requests_are_in_flight_than_the_recipe_says() -> None:
    with serve(tgi, slow_s=0.03) as server:
        asked(teacher(server.url, concurrency=3), tuple(map(str, range(12))))
        assert server.most_busy == 3


class TestQuotas:
    def taken(self, most: int, amounts: list[int], used: int | None = None) -> list[float]:
        """When each amount was taken, all asked for at once, in minutes; `used`: what was needed in the end."""

        async def main() -> list[float]:
            quota = Quota(most, FAST.minute_s)

            async def one(amount: int) -> float:
                taken = await quota.take(amount)
                taken.amount = amount if used is None else used
                return taken.when / FAST.minute_s

            return await asyncio.gather(*(one(amount) for amount in amounts))

        return asyncio.run(main())

    @pytest.mark.parametrize(("most", "amount", "each"), [(3, 1, 3), (100, 50, 2), (100, 51, 1), (10, 50, 1)])
    def test_in_any_minute_no_more_and_in_order(self, most: int, amount: int, each: int) -> None:
        times = self.taken(most, [amount] * (2 * each + 1))
        assert times == sorted(times)
        assert all(later - earlier >= 1 for earlier, later in zip(times, times[each:], strict=False))

    def test_what_was_not_used_can_be_used_by_others(self) -> None:
        times = self.taken(100, [50] * 10, used=5)
        assert times[-1] - times[0] < 1

    @pytest.mark.parametrize("limit", ["requests_per_minute", "tokens_per_minute"])
    def test_the_recipes_limit_holds(self, limit: str) -> None:
        async def main(url: str) -> list[str]:
            endpoints = Endpoints(teacher(url, **{limit: 3}), "TGI", identify, FAST)
            try:
                asks = (endpoints.ask("x", post, 1, lambda answer: 1) for _ in range(7))
                return await asyncio.gather(*asks)
            finally:
                await endpoints.close()

        with serve(tgi) as server:
            began = time.monotonic()
            assert len(asyncio.run(main(server.url))) == 7
            assert time.monotonic() - began >= 2 * FAST.minute_s


def test_an_endpoint_that_goes_and_comes_is_told_of_once() -> None:
    said: list[str] = []

    async def main(url: str) -> None:
        endpoints = Endpoints(teacher(url), "TGI", identify, FAST, said.append)
        asking = asyncio.gather(*(endpoints.ask(text, posting(text)) for text in "abcdef"))
        await asyncio.sleep(0.15)
        with serve(tgi, port=int(url.rpartition(":")[2])):
            await asking
        await endpoints.close()

    asyncio.run(main(dead_url()))
    assert len(said) == 2
    assert "waiting, 20 s at most" in said[0]
    assert "answers again" in said[1]


class TestCredentials:
    def sent(self, server: Server) -> set[str | None]:
        return {headers.get("authorization") for *_, headers in server.requests}

    def test_a_token_is_sent(self) -> None:
        with serve(tgi) as server:
            asked(teacher(server.url, token="secret"))
            assert self.sent(server) == {"Bearer secret"}

    def test_a_redirect_does_not_get_it(self) -> None:
        with serve(tgi) as target, serve(tgi) as server:
            server.faults = [Fault(308, ERROR, {"location": f"{target.url}/generate"})]
            [failed] = asked(teacher(server.url, token="secret"))
            assert isinstance(failed, EndpointError)
            assert target.requests == []

    def test_a_server_that_repeats_it_does_not_get_it_into_a_message(self) -> None:
        with serve(tgi) as server:
            failed = outcome(server, Fault(401, '{"error": "bad token secret-token"}'), token="secret-token")
            assert "bad token ***" in str(failed)


def test_no_endpoint_is_said() -> None:
    with pytest.raises(EndpointError, match=r"runtime\.models\.teacher"):
        Endpoints(teacher(), "TGI", identify)


def test_what_fails_does_not_end_the_others_but_an_interrupt_does() -> None:
    ended: list[str] = []

    async def slow(seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
            ended.append("done")
        except asyncio.CancelledError:
            ended.append("interrupted")
            raise

    async def wrong() -> None:
        raise RowError("no")

    async def main() -> None:
        with pytest.raises(RowError):
            await all_of([wrong(), slow(0.05)])
        running = asyncio.create_task(all_of([slow(30)]))
        await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    assert ended == ["done", "interrupted"]
