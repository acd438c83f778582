"""Endpoints that fail: one loop does what the table of failures.py says.

    wait    asked again until `patience_s` has passed without a good answer; then the run stops
    again   asked again a few times; then the row is a curable error
    row     the row is an error; when the first 20 requests are all refused the run stops
    stop    the run stops

A text belongs to one of several endpoints, by its hash, so that the server finds the prefix in its cache; it moves
while that endpoint rests. What an endpoint serves is asked whenever it is connected to, and again after it was gone. A
token goes to the endpoint of the recipe alone: no redirect is followed, no ambient token is sent, no message shows one.
This file does not know what is asked or answered.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2

from ssd_pipeline.errors import EndpointError, RowError
from ssd_pipeline.models.failures import Failure, Reaction, by_exception, only_json
from ssd_pipeline.stage import Model, Served

T = TypeVar("T")

ATTEMPTS = 3
FIRST_REFUSALS = 20


@dataclass(frozen=True)
class Pace:
    """Seconds: the first wait, the longest (also for a server's Retry-After), and a gone endpoint's rest."""

    first_s: float = 0.5
    most_s: float = 30.0
    rest_s: float = 30.0

    def delay(self, failures: int, retry_after: float | None) -> float:
        """Doubling with jitter, so that rows that failed together do not come back together."""
        asked = self.first_s * 2 ** min(failures, 20) if retry_after is None else retry_after
        return min(asked, self.most_s) * random.uniform(0.75, 1)


@dataclass
class Endpoint:
    """One server: its base `url` without credentials, a client that sends them, and how it has fared."""

    url: str
    http: httpx2.AsyncClient
    slots: asyncio.Semaphore
    connecting: asyncio.Lock = field(default_factory=asyncio.Lock)
    served: Served | None = None
    connected: bool = False
    failures: int = 0
    rests_until: float = 0.0
    last_good: float = 0.0


class Endpoints:
    """The endpoints of one model.

    `identify` asks an endpoint what it serves and raises EndpointError if that is not the model; `speaks` names the
    API in messages. Raises EndpointError for a URL that is none.
    """

    def __init__(
        self, model: Model, speaks: str, identify: Callable[[Endpoint], Awaitable[Served]], pace: Pace | None = None
    ) -> None:
        runtime = model.runtime
        self._model, self._speaks, self._identify, self._pace = model.name, speaks, identify, pace or Pace()
        self._timeout_s, self._patience_s = runtime.timeout_s, runtime.patience_s
        self._token = runtime.token.get_secret_value() if runtime.token else None
        self._answered = self._refused = 0
        if not runtime.endpoints:
            raise EndpointError(f"model {model.name}: `runtime.models.{model.name}` has no `endpoints`")
        self._all = [self._open(url, runtime.concurrency) for url in runtime.endpoints]

    def _open(self, url: str, concurrency: int) -> Endpoint:
        try:
            parsed = httpx2.URL(url)
        except httpx2.InvalidURL as wrong:
            raise EndpointError(f"model {self._model}: an endpoint is not a URL: {wrong}") from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise EndpointError(f"model {self._model}: an endpoint begins with http:// or https:// and names a host")
        credentials = f"Bearer {self._token}" if self._token else _basic(parsed)
        bare = parsed.copy_with(username=None, password=None, query=None, fragment=None)

        async def authorize(request: httpx2.Request) -> None:
            request.headers.pop("authorization", None)  # a client may have added a token that it found by itself
            if credentials:
                request.headers["authorization"] = credentials

        http = httpx2.AsyncClient(
            follow_redirects=False,
            timeout=httpx2.Timeout(self._timeout_s, connect=min(30.0, self._timeout_s), pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=concurrency),
            headers={"accept-encoding": "identity"},
            event_hooks={"request": [authorize], "response": [only_json]},
        )
        return Endpoint(str(bare).rstrip("/"), http, asyncio.Semaphore(concurrency))

    async def ask(self, text: str, call: Callable[[Endpoint], Awaitable[T]]) -> T:
        """What `call` gives for the endpoint that `text` belongs to, failures handled by the table.

        `call` may raise Failure for an answer that is no use. Raises RowError, EndpointError.
        """
        first = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % len(self._all)
        order = self._all[first:] + self._all[:first]
        broken = failures = 0
        since: float | None = None  # when it first had to wait
        while True:
            endpoint = self._pick(order)
            try:
                return await self._attempt(endpoint, call)
            except Failure as failure:
                failures += 1
                said = f"{endpoint.url}: {self._clean(str(failure))}"
                if failure.reaction is Reaction.stop:
                    raise EndpointError(
                        f"model {self._model}: {said}; check the URL, the token, and that it is a {self._speaks} server"
                    ) from None
                if failure.reaction is Reaction.row:
                    raise self._refusal(said) from None
                if failure.reaction is Reaction.again:
                    broken += 1
                    if broken == ATTEMPTS:
                        raise RowError(f"{said} ({ATTEMPTS} times)", curable=True) from None
                else:
                    since = since or time.monotonic()
                    self._note(endpoint, failure)
                    self._out_of_patience(since, said)
                await asyncio.sleep(self._pace.delay(failures - 1, failure.retry_after))

    async def served(self) -> Served:
        """What the endpoints serve, as the first that can be connected to says it."""
        return await self.ask("", _served)

    async def close(self) -> None:
        for endpoint in self._all:
            await endpoint.http.aclose()

    def _pick(self, order: Sequence[Endpoint]) -> Endpoint:
        """The text's own endpoint, or the next one that does not rest, or the first to have rested."""
        now = time.monotonic()
        awake = (endpoint for endpoint in order if endpoint.rests_until <= now)
        return next(awake, None) or min(order, key=lambda endpoint: endpoint.rests_until)

    async def _attempt(self, endpoint: Endpoint, call: Callable[[Endpoint], Awaitable[T]]) -> T:
        async with endpoint.slots:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._connect(endpoint)
                    answer = await call(endpoint)
            except (httpx2.HTTPError, TimeoutError) as error:
                raise by_exception(error) from error
        endpoint.failures, endpoint.rests_until, endpoint.last_good = 0, 0.0, time.monotonic()
        self._answered += 1
        return answer

    async def _connect(self, endpoint: Endpoint) -> None:
        """Ask what the endpoint serves, unless that is known since it was last gone."""
        async with endpoint.connecting:
            if endpoint.connected:
                return
            served = await self._identify(endpoint)
            known = next((other.served for other in (endpoint, *self._all) if other.served is not None), served)
            if known != served:
                now, before = f"{served.model} {served.revision or ''}", f"{known.model} {known.revision or ''}"
                raise EndpointError(f"model {self._model}: {endpoint.url} serves {now}, but {before} was served before")
            endpoint.served, endpoint.connected = served, True

    def _note(self, endpoint: Endpoint, failure: Failure) -> None:
        endpoint.failures += 1
        endpoint.connected = endpoint.connected and not failure.gone
        if failure.gone or endpoint.failures >= ATTEMPTS:
            endpoint.rests_until = time.monotonic() + self._pace.rest_s

    def _out_of_patience(self, since: float, said: str) -> None:
        now = time.monotonic()
        if now - max(since, *(endpoint.last_good for endpoint in self._all), 0.0) >= self._patience_s:
            raise EndpointError(
                f"model {self._model}: {said}; no good answer for {self._patience_s:g} s. "
                "What is done is kept: the same command goes on when the endpoint is back"
            )
        if now - since >= 2 * self._patience_s:  # others are served, this one never is
            raise RowError(f"{said} (for {now - since:.0f} s)", curable=True)

    def _refusal(self, said: str) -> Exception:
        self._refused += 1
        if self._answered == 0 and self._refused >= FIRST_REFUSALS:
            return EndpointError(f"model {self._model}: each of the first {FIRST_REFUSALS} requests is refused. {said}")
        return RowError(said)

    def _clean(self, text: str) -> str:
        shown = text.replace(self._token, "***") if self._token else text
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


async def _served(endpoint: Endpoint) -> Served:
    if endpoint.served is None:
        raise EndpointError(f"{endpoint.url} was not asked what it serves")
    return endpoint.served


def _basic(url: httpx2.URL) -> str | None:
    """The credentials that stand in a URL, as a header."""
    pair = f"{url.username}:{url.password}"
    return "Basic " + base64.b64encode(pair.encode()).decode() if url.username or url.password else None


async def together(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, in order; when one fails, the others are ended before its error is raised."""
    running = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*running)
    finally:
        for call in running:
            call.cancel()
        await asyncio.gather(*running, return_exceptions=True)
