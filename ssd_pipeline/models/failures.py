"""What can be wrong with one HTTP exchange, and what that means: the one table of failures.

    wait    nobody is there, or it is too busy
    again   this request broke, or its answer makes no sense
    row     this request is refused
    stop    no request will do better

Every answer is checked here, on the connection, before any client library sees it: a good status and a JSON object, no
larger than it can be, without the token that was sent, or a `Failure`. What is done about a failure is retry.py's.
This file does not know endpoints, rows, or what was asked.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any
from urllib.parse import quote

import httpx2

LARGEST_REPLY = 64 << 20
LONGEST_MESSAGE = 300  # characters of what a server says
SECRET = 12  # characters from which on a token is no common word


class Reaction(StrEnum):
    """What a failure means; see the module."""

    wait = "wait"
    again = "again"
    row = "row"
    stop = "stop"


BY_STATUS = {
    400: Reaction.row,
    408: Reaction.again,
    413: Reaction.row,
    422: Reaction.row,
    424: Reaction.again,
    425: Reaction.wait,
    429: Reaction.wait,
    500: Reaction.again,
    502: Reaction.wait,
    503: Reaction.wait,
    504: Reaction.wait,
    529: Reaction.wait,
}
BY_EXCEPTION = (  # the first that fits
    ((httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError), Reaction.wait),
    ((httpx2.UnsupportedProtocol, httpx2.LocalProtocolError), Reaction.stop),
    ((httpx2.HTTPError, TimeoutError), Reaction.again),
)


class Failure(Exception):
    """One request without a usable answer. `status`: of an answer that a server of the right kind would not give.
    `gone`: nobody was there."""

    def __init__(
        self,
        reaction: Reaction,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        gone: bool = False,
    ) -> None:
        super().__init__(shown(message))
        self.reaction, self.status, self.retry_after, self.gone = reaction, status, retry_after, gone


def shown(text: str, most: int = LONGEST_MESSAGE) -> str:
    """What a server said, on one line, cut, with nothing in it that a terminal would obey."""
    line = " ".join(text[: 10 * most].split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)[:most]


def by_status(status: int) -> Reaction:
    """The reaction to an HTTP status that is not 2xx."""
    return BY_STATUS.get(status, Reaction.again if status >= 500 else Reaction.stop)


def by_exception(error: Exception) -> Failure:
    """What httpx, asyncio's deadline, or a client that wraps them raised, as a failure."""
    cause = error.__cause__ if isinstance(error.__cause__, httpx2.HTTPError) else error
    reaction = next(reaction for kinds, reaction in BY_EXCEPTION if isinstance(cause, kinds))
    return Failure(reaction, f"{type(cause).__name__} {cause}".strip(), gone=reaction is Reaction.wait)


async def only_json(response: httpx2.Response) -> None:
    """Let nothing through but a good status with a JSON object, or a list of them. Raises Failure."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise Failure(Reaction.again, "the reply is compressed, which was not asked for")
    response.stream = _Bounded(response.stream)
    await response.aread()
    text = response.content.decode(errors="replace")  # not .text: a server may name any codec, also one of no text
    token = response.request.headers.get("authorization", "").removeprefix("Bearer ")
    status = response.status_code
    if not response.is_success:
        after = read_retry_after(response.headers)
        said = f"status {status}: {without(token, _reason(text))}"
        raise Failure(by_status(status), said, status=status, retry_after=after)
    if "html" in response.headers.get("content-type", ""):
        raise Failure(Reaction.stop, "it answers with a web page", status=status)
    try:
        value = json.loads(response.content)
    except (ValueError, RecursionError):
        raise Failure(Reaction.again, "the reply is not whole JSON") from None
    first = value[0] if isinstance(value, list) and value else value
    if not isinstance(first, dict):
        raise Failure(Reaction.again, "the reply is not a JSON object")
    if len(token) >= SECRET and without(token, text) != text:
        raise Failure(Reaction.stop, "it repeats the token that was sent to it, so nothing of its reply is kept")


def without(token: str, text: str) -> str:
    """A text in which a token is no longer to be read, in whichever way it is written."""
    for form in {token, quote(token, safe=""), json.dumps(token)[1:-1]} - {""}:
        text = text.replace(form, "***")
    return text


class _Bounded(httpx2.AsyncByteStream):
    """A reply's bytes, up to a limit."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._stream:
            size += len(part)
            if size > LARGEST_REPLY:
                raise Failure(Reaction.row, f"the reply is larger than {LARGEST_REPLY >> 20} MB")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


def _reason(text: str) -> str:
    """What a server says of an error, in whichever of the usual shapes."""
    try:
        said: Any = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(said, dict):
        said = said.get("error") or said.get("detail") or said.get("message") or said
        said = said.get("message", said) if isinstance(said, dict) else said
    return str(said)


def read_retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds of a Retry-After header, a number or a date; None if it is missing, past or nonsense."""
    text = headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return seconds if 0 <= seconds < float("inf") else None
