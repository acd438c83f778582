"""What text-generation-inference speaks: POST /generate, with httpx.

`huggingface_hub.AsyncInferenceClient.text_generation` speaks it too, and a test holds this file to the names and values
that it sends. It is not used, since it would need more guarding than this one POST is long: over a connection of its
own it sends any token of the machine to any URL, follows redirects with it, refuses even the loopback when the Hub is
off-line, asks the Hub who it is, waits for ever and drops the status of an error; a private attribute would have to
be replaced against all that. And on a certain 400, as on a log-probability that is NaN, it calls itself without end.

A branch is one request with its own seed. TGI misses a stop that ends inside a token; the chunk then goes on to the
next. It keeps what it has read of a text when a request is over. This file does not know prefixes or branches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ssd_pipeline.models.failures import Failure, Reaction
from ssd_pipeline.models.joins import PARTIAL
from ssd_pipeline.models.pieces import Piece
from ssd_pipeline.models.remote import check_served, counted, smaller, unknown_end
from ssd_pipeline.models.retry import Endpoint
from ssd_pipeline.stage import Finish, Model, Sample, Sampling, Served

SLACK = 1e-3  # above 0, that rounding may put a log-probability
FINISHES: dict[str, Finish] = {"length": "length", "eos_token": "eos", "stop_sequence": "stop"}


class Tgi:
    """A `Wire`."""

    speaks = "text-generation-inference"
    warms = True
    most_branches = 1
    most_tokens: int | None = 1024  # the router splits longer answers and tokenises them anew
    context: int | None = None

    def __init__(self, model: Model) -> None:
        self._model = model

    async def pieces(
        self, endpoint: Endpoint, text: str, tokens: int, seeds: Sequence[int], ask: Sample
    ) -> list[Piece]:
        stop = {"stop": list(ask.chunk.stop)} if ask.chunk.stop else {}
        wishes = {"details": True, "return_full_text": False, "max_new_tokens": tokens, **stop}
        body = {"inputs": text, "parameters": {**wishes, **_sampling(ask.sampling, seeds[0])}}
        reply = (await endpoint.http.post(f"{endpoint.url}/generate", json=body)).json()
        return [read_piece(reply[0] if isinstance(reply, list) else reply, tokens, ask.chunk.stop)]

    async def identify(self, endpoint: Endpoint) -> Served:
        info = (await endpoint.http.get(f"{endpoint.url}/info")).json()
        if not isinstance(info, dict) or "model_id" not in info:
            raise Failure(Reaction.stop, "/info names no model", status=200)
        served = check_served(self._model, str(info["model_id"]), info.get("model_sha"))
        self.context = smaller(self.context, info.get("max_total_tokens"))
        return served


def _sampling(sampling: Sampling, seed: int) -> dict[str, Any]:
    """TGI's words; a setting that is off is left out, since TGI refuses its neutral value."""
    if sampling.temperature == 0:
        return {"do_sample": False}
    top_p = {"top_p": sampling.top_p} if sampling.top_p < 1 else {}
    top_k = {"top_k": sampling.top_k} if sampling.top_k else {}
    return {"do_sample": True, "temperature": sampling.temperature, "seed": seed, **top_p, **top_k}


def read_piece(reply: dict[str, Any], most: int, stops: Sequence[str]) -> Piece:
    """TGI's answer as a piece. Raises Failure for one that does not make sense.

    `length` is tested before the end token and the stops, so both are looked for on the last place.
    """
    text, details = reply.get("generated_text"), reply.get("details")
    details = details if isinstance(details, dict) else {}
    tokens = details.get("tokens")
    if not isinstance(text, str) or not isinstance(tokens, list) or not all(isinstance(t, dict) for t in tokens):
        raise Failure(Reaction.again, "the answer has no text or no details")
    finish = FINISHES.get(str(details.get("finish_reason")))
    if finish is None:
        raise unknown_end(details.get("finish_reason"))
    count = counted(details.get("generated_tokens"), most)
    ids = tuple(token["id"] for token in tokens if type(token.get("id")) is int)
    if len(ids) != count or not all(_believable(token.get("logprob")) for token in tokens):
        raise Failure(Reaction.again, f"its {count} tokens are {len(ids)}, or have no log-probability")
    if finish == "eos" or (finish == "length" and tokens[-1].get("special") is True):
        return Piece(text.rstrip(PARTIAL), count - 1, count - 1, "eos", ids[:-1])
    if finish == "stop" or text.endswith(tuple(stops)):
        return Piece(text, count, count, "stop", ids)
    return Piece(text.rstrip(PARTIAL), count, count, "length", ids)


def _believable(logprob: Any) -> bool:
    return type(logprob) in (int, float) and -math.inf < logprob <= SLACK
