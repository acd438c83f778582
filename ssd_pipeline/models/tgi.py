"""A sampler over text-generation-inference: POST /generate, through `huggingface_hub.AsyncInferenceClient`.

That client is used for the request's shape and the reply's types, over OUR connection (see retry.py): by itself it
follows redirects with the token, sends whatever token the machine holds, refuses even the loopback when the Hub is
off-line, looks its user agent up on the Hub, waits for ever, drops the status of an error, and calls itself without end
on a certain 400. On our connection an error is raised before the client sees it, and the token is set last.

A branch is one request with its own seed. TGI adds the beginning-of-text token by itself, so a literal one is
taken off. It misses a stop that ends inside a token; the chunk then goes on to the next. This file does not know
templates, prefixes of a trajectory, or what is done with a branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from huggingface_hub import AsyncInferenceClient, constants

from ssd_pipeline.errors import EndpointError, RowError
from ssd_pipeline.models.failures import Failure, Reaction
from ssd_pipeline.models.pieces import Piece, whole_branch
from ssd_pipeline.models.retry import Endpoint, Endpoints, Pace, together
from ssd_pipeline.stage import Branch, Finish, Model, Sample, Sampling, Served

MOST_TOKENS = 1024  # the router splits longer answers and tokenises them anew
PARTIAL = "\ufffd"
LONGEST_PARTIAL = 3
FINISHES: dict[str, Finish] = {"length": "length", "eos_token": "eos", "stop_sequence": "stop"}


class TgiSampler:
    """`Sampler` over the TGI servers of a model. `bos`: what they put before every text, '' for nothing."""

    def __init__(self, model: Model, *, bos: str = "", pace: Pace | None = None) -> None:
        self._model = model
        self._bos = bos
        self._endpoints = Endpoints(model, "text-generation-inference", self._identify, pace)
        self._clients: dict[str, AsyncInferenceClient] = {}

    async def sample(self, ask: Sample) -> list[Branch]:
        """One branch per seed. Raises RowError, EndpointError."""
        start = (ask.prompt + ask.prefix).removeprefix(self._bos)

        async def branch(seed: int) -> Branch:
            async def more(text: str, tokens: int, piece_seed: int) -> Piece:
                wishes = self._wishes(ask, tokens, piece_seed)
                return await self._endpoints.ask(ask.prompt, lambda end: self._piece(end, start + text, wishes))

            return await whole_branch(ask.chunk, seed, more, most=MOST_TOKENS)

        return await together([branch(seed) for seed in ask.seeds])

    async def served(self) -> Served:
        return await self._endpoints.served()

    async def close(self) -> None:
        await self._endpoints.close()

    def _wishes(self, ask: Sample, tokens: int, seed: int) -> dict[str, Any]:
        stop = list(ask.chunk.stop) or None
        return {"max_new_tokens": tokens, "stop": stop, "return_full_text": False, **_sampling(ask.sampling, seed)}

    async def _piece(self, endpoint: Endpoint, inputs: str, wishes: dict[str, Any]) -> Piece:
        reply = await self._client(endpoint).text_generation(inputs, details=True, **wishes)
        return read_piece(reply, wishes["max_new_tokens"], wishes["stop"] or ())

    def _client(self, endpoint: Endpoint) -> AsyncInferenceClient:
        client = self._clients.get(endpoint.url)
        if client is None:
            constants.HF_HUB_DISABLE_TELEMETRY = True  # else the first request looks the user agent up on the Hub
            timeout: Any = endpoint.http.timeout
            client = AsyncInferenceClient(base_url=f"{endpoint.url}/generate", token="unused", timeout=timeout)
            if not hasattr(client, "_async_client"):
                raise EndpointError("this version of huggingface_hub cannot be given a connection; install 2.4")
            client._async_client = endpoint.http
            self._clients[endpoint.url] = client
        return client

    async def _identify(self, endpoint: Endpoint) -> Served:
        info = (await endpoint.http.get(f"{endpoint.url}/info")).json()
        if not isinstance(info, dict) or "model_id" not in info:
            raise Failure(Reaction.stop, "/info names no model")
        return check_served(self._model, endpoint.url, str(info.get("model_id")), info.get("model_sha"))


def _sampling(sampling: Sampling, seed: int) -> dict[str, Any]:
    """TGI's words; a setting that is off is left out, since TGI refuses its neutral value."""
    if sampling.temperature == 0:
        return {"do_sample": False}
    top_p = {"top_p": sampling.top_p} if sampling.top_p < 1 else {}
    top_k = {"top_k": sampling.top_k} if sampling.top_k else {}
    return {"do_sample": True, "temperature": sampling.temperature, "seed": seed, **top_p, **top_k}


def read_piece(reply: Any, most: int, stops: Sequence[str]) -> Piece:
    """TGI's answer as a piece. Raises RowError for one that does not make sense.

    `length` is tested before the end token and the stops, so both are looked for on the last place; a character that
    the cut left incomplete is held back with its tokens.
    """
    details, text = getattr(reply, "details", None), getattr(reply, "generated_text", None)
    tokens = getattr(details, "tokens", None)
    if details is None or not isinstance(text, str) or not isinstance(tokens, list):
        raise RowError("the endpoint's answer has no text or no details", curable=True)
    finish = FINISHES.get(str(details.finish_reason))
    count = details.generated_tokens
    if finish is None:
        raise RowError(f"the endpoint ended a text for an unknown reason: {details.finish_reason!r}", curable=True)
    if type(count) is not int or not 1 <= count <= most or len(tokens) != count:
        raise RowError(f"the endpoint counts {count!r} tokens, lists {len(tokens)}, asked for {most}", curable=True)
    if finish == "eos" or (finish == "length" and tokens[-1].special):
        return Piece(text.rstrip(PARTIAL), count - 1, count - 1, "eos")
    if finish == "stop" or text.endswith(tuple(stops)):
        return Piece(text, count, count, "stop")
    if not text.endswith(PARTIAL):
        return Piece(text, count, count, "length")
    held = 0
    while held < min(LONGEST_PARTIAL, count) and tokens[-1 - held].text in ("", PARTIAL):
        held += 1
    return Piece(text.rstrip(PARTIAL), count - held, count, "length")


def check_served(model: Model, url: str, served: str, revision: str | None) -> Served:
    """Whether an endpoint's model is the recipe's. Raises EndpointError for another name or another commit.

    What cannot be compared (a local path, a name of the user's own, no commit) is unverifiable.
    """
    expected = model.runtime.served_name or model.repo
    if expected is not None and served != expected:
        raise EndpointError(
            f"model {model.name}: {url} serves {served!r}, not {expected!r}; "
            f"if that is the same model, set runtime.models.{model.name}.served_name"
        )
    if model.repo is None or not revision:
        return Served(served, revision or None, "unverifiable")
    if revision != model.revision:
        raise EndpointError(f"model {model.name}: {url} serves commit {revision}, not {model.revision}")
    return Served(served, revision, "verified")
