"""An end for what passes between us and the Hub: silence has its time-outs, and this is against a trickle.

A time-out bounds a single read, so a server that sends one byte every few seconds is never late, and a download of it
never ends. The bodies of requests and answers are therefore given up when a whole window of time brought almost
nothing; a slow line is far above that. Two habits of the client itself get an end here too: it asks for a new repo
again at once, and for ever, while the Hub says that somebody else is making one; and it sleeps for as long as it is
told, be it a day. This file does not know what is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import httpx2
from huggingface_hub.utils import hf_raise_for_status, parse_ratelimit_headers

LONGEST_WAIT_S = 60
WINDOW_S = 60.0
SLOWEST = 1000  # bytes a second, on the mean of a window
BUSY = "another conflicting operation is in progress"


class TooSlow(httpx2.TransportError):
    """A body came to almost nothing in a window. The client itself repeats nothing after this one."""


class Paced(httpx2.SyncByteStream):
    """A body that is neither taken nor given more slowly than SLOWEST. Raises TooSlow in the middle of it."""

    def __init__(self, body: httpx2.SyncByteStream) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        began, came = time.monotonic(), 0
        for piece in self._body:
            yield piece
            came += len(piece)
            took = time.monotonic() - began
            if took > WINDOW_S:
                if came < SLOWEST * took:
                    raise TooSlow(f"{came} bytes in {took:.0f} s")
                began, came = time.monotonic(), 0

    def close(self) -> None:
        self._body.close()


def pace_request(request: httpx2.Request) -> None:
    """A hook of the client: what is sent is paced."""
    if isinstance(request.stream, httpx2.SyncByteStream):
        request.stream = Paced(request.stream)


def pace_answer(answer: httpx2.Response) -> None:
    """A hook of the client: what comes is paced, a wait that the Hub tells is a minute at most, and a Hub that is busy
    making a repo is a conflict for the caller (HfHubHTTPError)."""
    if isinstance(answer.stream, httpx2.SyncByteStream):
        answer.stream = Paced(answer.stream)
    if told_wait(answer.headers) > LONGEST_WAIT_S:
        answer.headers.pop("ratelimit", None)
        answer.headers["retry-after"] = str(LONGEST_WAIT_S)
    if answer.status_code == 409 and BUSY in answer.read().decode("utf-8", "replace"):
        hf_raise_for_status(answer)


def told_wait(headers: Mapping[str, str]) -> float:
    """How many seconds the Hub asks to wait."""
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds + 1
    said = headers.get("retry-after", "")
    return float(said) if said.isdigit() else 0.0
