"""What the Hub or the way to it refused, in the words of the user's world: which permission is needed, what to do.

A library's own message may hold a header or a signed URL, so none of it is passed on but the server's short reason, and
nothing that looks like a secret.
This file does not know what was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ssd_pipeline.errors import HubError, boundary

SECRET = re.compile(r"\bhf_\w{8,}|\beyJ[\w-]+\.[\w.-]+|(?<=Bearer )[^\s,;]+|(?<=\?)\S*(?i:signature|token|key)=\S*")
TRANSIENT = (408, 429, 500, 502, 503, 504)  # answers that may be others when asked again


@contextmanager
def asking(what: str, repo: str) -> Iterator[None]:
    """Failures inside become a HubError: what was being done, and why the Hub said no. No secret is in it, though a
    server may have given one back."""
    try:
        with boundary(HubError, what), _worded(what, repo):
            yield
    except HubError as failed:
        failed.args = (SECRET.sub("***", str(failed)),)
        raise


@contextmanager
def _worded(what: str, repo: str) -> Iterator[None]:
    """What the client raises, in our words."""
    import httpx2
    from huggingface_hub.errors import HFValidationError

    try:
        yield
    except (httpx2.HTTPError, HFValidationError, OSError, RuntimeError) as cause:
        failed: BaseException = cause
        if isinstance(cause, RuntimeError):  # the client's word for an upload that failed
            if not isinstance(cause.__cause__, (httpx2.HTTPError, OSError)):
                raise
            failed = cause.__cause__
        raise HubError(f"cannot {what}: {_reason(failed, repo)}", unreachable=_unreachable(failed)) from cause


def _unreachable(error: BaseException | None) -> bool:
    """Did nobody say no? So it is off-line, with a broken connection, and when the Hub has trouble of its own."""
    import httpx2
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError):
        return _unreachable(error.__cause__)
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code in TRANSIENT
    return isinstance(error, (httpx2.TransportError, errors.OfflineModeIsEnabled))


def _reason(error: BaseException, repo: str) -> str:
    """Why, in the words of the user's world; never a header or a signed URL, which a library's message may hold."""
    from huggingface_hub import errors

    from ssd_pipeline.store.pace import TooSlow

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        return _reason(error.__cause__, repo)
    if isinstance(error, TooSlow):
        return f"almost nothing comes through to the Hub or from it ({error}); what was done so far is kept, try again"
    if isinstance(error, errors.GatedRepoError):
        return f"{repo} is gated: accept its terms on its page, then log in (`hf auth login` or HF_TOKEN)"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no such revision (a rewritten history loses commits; --refresh looks revisions up again)"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{repo} does not exist, or it is private and needs a token with `read` permission (HF_TOKEN)"
    if isinstance(error, errors.LocalTokenNotFoundError):
        return "a token is needed: `hf auth login` or HF_TOKEN"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, errors.HFValidationError):
        return f"{repo!r} is not the name of a repo (owner/name)"
    if isinstance(error, errors.HfHubHTTPError):
        return _refusal(error, repo)
    if isinstance(error, FileNotFoundError) and not isinstance(error, errors.EntryNotFoundError):
        return f"no data files there ({' '.join(str(error).split())[:200]})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"the Hub cannot be reached ({type(error).__name__}); what was done so far is kept, try again"


def _refusal(error: Any, repo: str) -> str:
    status = error.response.status_code
    match status:
        case 401:
            return "the token is missing or not valid: `hf auth login` or HF_TOKEN"
        case 403:
            return f"the token has no `write` permission for {repo.split('/')[0]}, or may not see {repo}"
        case 409 | 412:
            return f"others changed {repo} at the same time, many times in a row; try again"
        case 429:
            return "too many requests for this token or address; wait some minutes and try again"
        case _:
            return f"the Hub answered {status} ({(error.server_message or 'no reason given')[:200]}); try again later"
