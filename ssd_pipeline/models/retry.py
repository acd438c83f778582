"""Endpoints that fail: one loop does what the table of failures.py says.

    wait    asked again until `patience_s` has passed without a good answer; then the run stops
    again   asked again a few times; then the row is a curable error
    row     the row is an error (rows.py stops a run whose first rows all are)
    stop    the run stops

A problem belongs to one of several endpoints, the least busy one when it came, so that the server finds its prefix in
its cache; it moves when that endpoint fails. What an endpoint serves is asked before the first request on every new
connection to it and after every failure. A token goes to the endpoint of the recipe alone: no redirect is followed, no
ambient token is sent. This file does not know what is asked or answered.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2

from ssd_pipeline.errors import EndpointError, RowError
from ssd_pipeline.models.failures import Failure, Reaction, by_exception, only_json, shown
from ssd_pipeline.models.limits import Quota
from ssd_pipeline.stage import Model, Served

T = TypeVar("T")
Tell = Callable[[str], None]

ATTEMPTS = 3
BUSY = 429  # its own affair: the endpoint is there, and moving would lose its cache
HOMES = 1 << 16  # problems whose endpoint is remembered


@dataclass(frozen=True)
class Pace:
    """Seconds: the first wait, the longest (also for a server's Retry-After), a failed endpoint's rest, and what
    quotas call a minute."""

    first_s: float = 0.5
    most_s: float = 30.0
    rest_s: float = 30.0
    minute_s: float = 60.0

    def delay(self, failures: int, retry_after: float | None) -> float:
        """Doubling with jitter, so that rows that failed together do not come back together."""
        asked = self.first_s * 2 ** min(failures, 20) if retry_after is None else retry_after
        return min(asked, self.most_s) * random.uniform(0.75, 1)


@dataclass
class Endpoint:
    """One server: its base `url`, a client that sends the token, and how it has fared.

    `opened`: connections and failures so far; `checked`: how many there were when it last said what it serves.
    """

    url: str
    http: httpx2.AsyncClient
    slots: asyncio.Semaphore
    requests: Quota
    tokens: Quota
    connecting: asyncio.Lock = field(default_factory=asyncio.Lock)
    served: Served | None = None
    opened: int = 0
    checked: int = -1
    asked: int = 0  # requests that wait for it or are under way
    failures: int = 0  # since its last good answer
    missed: int = 0  # times that it did not say what it serves
    told: bool = False  # the user knows that it fails
    rests_until: float = 0.0
    last_good: float = 0.0

    def usable(self, now: float) -> bool:
        """Is it worth a request? Of one that has failed, one request at a time finds out."""
        return self.rests_until <= now and not (self.failures and self.connecting.locked())


class Endpoints:
    """The endpoints of one model.

    `identify` asks an endpoint what it serves; `speaks` names the API in messages; `tell` is told of an endpoint that
    goes and of one that is back. Raises EndpointError where there is none.
    """

    def __init__(
        self,
        model: Model,
        speaks: str,
        identify: Callable[[Endpoint], Awaitable[Served]],
        pace: Pace | None = None,
        tell: Tell = lambda text: None,
    ) -> None:
        self._model, self._speaks, self._identify = model.name, speaks, identify
        self._runtime, self._pace, self._tell = model.runtime, pace or Pace(), tell
        self._homes: dict[str, Endpoint] = {}
        if not model.runtime.endpoints:
            raise EndpointError(f"model {model.name}: `runtime.models.{model.name}` has no `endpoints`")
        self._all = [self._open(url) for url in model.runtime.endpoints]

    def _open(self, url: str) -> Endpoint:
        runtime, minute_s = self._runtime, self._pace.minute_s

        async def prepare(request: httpx2.Request) -> None:
            request.headers.pop("authorization", None)  # a client may have added a token that it found by itself
            if runtime.token:
                request.headers["authorization"] = f"Bearer {runtime.token.get_secret_value()}"
            if request.method == "POST":
                request.extensions["trace"] = connected

        async def connected(event: str, info: Any) -> None:
            if event == "connection.connect_tcp.complete":  # perhaps to another server than before
                endpoint.opened += 1
                try:
                    await self._check(endpoint)
                except BaseException:
                    await info["return_value"].aclose()
                    raise

        # At DEBUG it writes the headers of an answer, in which a server may give the token back.
        logging.getLogger("httpcore2").setLevel(logging.INFO)
        http = httpx2.AsyncClient(
            follow_redirects=False,
            timeout=httpx2.Timeout(runtime.timeout_s, connect=min(30.0, runtime.timeout_s), pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=runtime.concurrency),
            headers={"accept-encoding": "identity"},
            event_hooks={"request": [prepare], "response": [only_json]},
        )
        endpoint = Endpoint(
            url.rstrip("/"),
            http,
            asyncio.Semaphore(runtime.concurrency),
            Quota(runtime.requests_per_minute, minute_s),
            Quota(runtime.tokens_per_minute, minute_s),
        )
        return endpoint

    async def ask(
        self,
        problem: str,
        call: Callable[[Endpoint], Awaitable[T]],
        most_tokens: int = 0,
        tokens: Callable[[T], int] = lambda answer: 0,
    ) -> T:
        """What `call` gives for the endpoint that `problem` belongs to, failures handled by the table.

        `most_tokens`: what the request may cost, `tokens`: what its answer did. `call` may raise Failure for an answer
        that is no use. Raises RowError, EndpointError.
        """
        broken = failures = 0
        since: float | None = None  # when it first had to wait
        while True:
            endpoint = self._home(problem)
            endpoint.asked += 1
            try:
                async with endpoint.slots:
                    if endpoint is not self._home(problem):
                        continue  # it failed while this one waited for its turn
                    return await self._attempt(endpoint, call, most_tokens, tokens)
            except Failure as failure:
                failed = failure
            finally:
                endpoint.asked -= 1
            failures += 1
            said = f"{endpoint.url}: {failed}"
            if failed.reaction is Reaction.stop:
                raise self._stopped(endpoint, failed)
            if failed.reaction is Reaction.row:
                raise RowError(said)
            self._note(endpoint, failed)
            if failed.reaction is Reaction.again:
                broken += 1
                if broken == ATTEMPTS:
                    raise RowError(f"{said} ({ATTEMPTS} times)", curable=True)
            else:
                since = since or time.monotonic()
                self._out_of_patience(since, said)
            await asyncio.sleep(self._pace.delay(failures - 1, failed.retry_after))

    def settled(self, problem: str) -> bool:
        """Does an endpoint know this problem, and its prefix?"""
        return problem in self._homes and self._homes[problem].usable(time.monotonic())

    async def served(self) -> Served:
        """What the endpoints serve; at the first call all are asked. Raises EndpointError if they differ, or none is
        there for as long as patience lasts."""
        if all(endpoint.served is None for endpoint in self._all):
            await all_of([self._meet(endpoint) for endpoint in self._all])
        known = next((endpoint.served for endpoint in self._all if endpoint.served is not None), None)
        return known if known is not None else await self.ask("", _served)

    async def _meet(self, endpoint: Endpoint) -> None:
        try:
            await self._attempt(endpoint, _served)
        except Failure as failure:
            if failure.reaction is Reaction.stop:
                raise self._stopped(endpoint, failure) from None
            self._note(endpoint, failure)

    async def close(self) -> None:
        for endpoint in self._all:
            await endpoint.http.aclose()

    def _home(self, problem: str) -> Endpoint:
        """Where a problem belongs, while that can be used; else the least busy one that can, else the next to try."""
        now = time.monotonic()
        home = self._homes.get(problem)
        if home is not None and home.usable(now):
            return home
        usable = [endpoint for endpoint in self._all if endpoint.usable(now)]
        if not usable:
            return min(self._all, key=lambda endpoint: endpoint.rests_until)
        if len(self._homes) >= HOMES:
            del self._homes[next(iter(self._homes))]
        self._homes[problem] = min(usable, key=lambda endpoint: endpoint.asked)
        return self._homes[problem]

    async def _attempt(
        self,
        endpoint: Endpoint,
        call: Callable[[Endpoint], Awaitable[T]],
        most_tokens: int = 0,
        tokens: Callable[[T], int] = lambda answer: 0,
    ) -> T:
        await endpoint.requests.take(1)
        taken = await endpoint.tokens.take(most_tokens)
        spent = 0  # by a request that fails
        try:
            async with asyncio.timeout(self._runtime.timeout_s):
                await self._check(endpoint)
                answer = await call(endpoint)
            spent = tokens(answer)
        except (httpx2.HTTPError, TimeoutError) as error:
            raise by_exception(error) from error
        finally:
            taken.amount = spent
        if endpoint.told:
            self._tell(f"model {self._model}: {endpoint.url} answers again")
        endpoint.failures, endpoint.rests_until, endpoint.told = 0, 0.0, False
        endpoint.last_good = time.monotonic()
        return answer

    async def _check(self, endpoint: Endpoint) -> None:
        """Ask what the endpoint serves, unless it said so since its last connection and its last failure."""
        missed = endpoint.missed
        async with endpoint.connecting:
            if endpoint.checked == endpoint.opened:
                return
            if endpoint.missed != missed:  # somebody else found out while this one waited
                raise Failure(Reaction.wait, "it does not say what it serves", gone=True)
            opened, served = endpoint.opened, None
            try:
                served = await self._identify(endpoint)
            finally:
                endpoint.missed += served is None
            known = next((other.served for other in (endpoint, *self._all) if other.served is not None), served)
            if known != served:
                raise Failure(Reaction.stop, f"it serves {_named(served)}, but {_named(known)} was served before")
            endpoint.served, endpoint.checked = served, opened

    def _note(self, endpoint: Endpoint, failure: Failure) -> None:
        if failure.status == BUSY:
            return
        endpoint.failures += 1
        endpoint.opened += 1
        if failure.gone or endpoint.failures >= ATTEMPTS:
            endpoint.rests_until = time.monotonic() + self._pace.rest_s
            if failure.reaction is Reaction.wait and not endpoint.told:
                then = "its problems move" if len(self._all) > 1 else f"waiting, {self._runtime.patience_s:g} s at most"
                self._tell(f"model {self._model}: {endpoint.url}: {failure}; {then}")
                endpoint.told = True

    def _out_of_patience(self, since: float, said: str) -> None:
        now, patience_s = time.monotonic(), self._runtime.patience_s
        if now - max(since, *(endpoint.last_good for endpoint in self._all), 0.0) >= patience_s:
            raise EndpointError(
                f"model {self._model}: {said}; no good answer for {patience_s:g} s. "
                "What is done is kept: the same command goes on when the endpoint is back"
            )
        if now - since >= 2 * patience_s:  # others are served, this one never is
            raise RowError(f"{said} (for {now - since:.0f} s)", curable=True)

    def _stopped(self, endpoint: Endpoint, failure: Failure) -> EndpointError:
        hint = f"; check the URL, the token, and that it is a {self._speaks} server" if failure.status else ""
        return EndpointError(f"model {self._model}: {endpoint.url}: {failure}{hint}")


def _named(served: Served) -> str:
    return f"{shown(served.model, 100)} {shown(served.revision or '', 100)}".strip()


async def _served(endpoint: Endpoint) -> Served:
    if endpoint.served is None:
        raise Failure(Reaction.stop, "it was not asked what it serves")
    return endpoint.served


async def all_of(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, in order. When some fail, the others go on to their end before the first error is raised;
    when it is ended itself, all are."""
    running = [asyncio.ensure_future(call) for call in calls]
    try:
        if running:
            await asyncio.wait(running)
        return [call.result() for call in running]
    finally:
        for call in running:
            call.cancel()
        await asyncio.gather(*running, return_exceptions=True)
