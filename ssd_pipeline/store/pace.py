"""An end for what passes between us and the Hub: time-outs against silence, and something against a trickle.

The client library waits for ever, so every client of this process gets time-outs. They bound a single read: a server
that sends one byte every few seconds is never late, and a download of it never ends. The bodies of requests and answers
are therefore given up when a whole window of time brought almost nothing; a slow line is far above that. Two habits of
the client get an end here too: it asks for a new repo again at once, and for ever, while the Hub says that somebody
else is making one; and it sleeps for as long as it is told, be it a day. This file does not know what is asked for.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Iterator, Mapping

import httpx2
from huggingface_hub import constants, set_client_factory
from huggingface_hub.utils import disable_progress_bars, hf_raise_for_status, logging, parse_ratelimit_headers
from huggingface_hub.utils._http import default_client_factory

CONNECT_S, ANSWER_S = 10.0, 60.0
LONGEST_WAIT_S = 60
WINDOW_S = 60.0
SLOWEST = 1000  # bytes a second, on the mean of a window
BUSY = "another conflicting operation is in progress"


@functools.cache
def patient_clients() -> None:
    """Give every client of huggingface_hub in this process an end, once, and no bars; its own hooks stay."""
    set_client_factory(_client)
    # Xet would send and fetch large files by a client of its own (hf_xet), which knows none of these ends: it took four
    # minutes to say that nobody listens, and ten were not enough where nobody answers (compare xet-core issue 898). LFS
    # over HTTP stays open to clients without it, also for repos that are kept by Xet.
    constants.HF_HUB_DISABLE_XET = True
    if logging.get_verbosity() == logging.WARNING:  # which would show signed URLs, and names of what is merely optional
        logging.set_verbosity_error()
    disable_progress_bars()
    warnings.filterwarnings("ignore", "Not enough free disk space")  # said when it happens, with what to do
    warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")  # an adapter's loss curve


def _client() -> httpx2.Client:
    made = default_client_factory()
    made.timeout = httpx2.Timeout(ANSWER_S, connect=CONNECT_S)
    hooks = made.event_hooks
    made.event_hooks = {
        "request": [*hooks["request"], pace_request],
        "response": [*hooks["response"], pace_answer],
    }
    return made


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
    return float(said) if said.isascii() and said.isdigit() else 0.0
