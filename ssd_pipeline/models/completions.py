"""A sampler over the OpenAI-compatible POST /v1/completions of vLLM, SGLang and llama.cpp, with httpx.

Raw completions, never chat: the rendered prompt goes out as it is. The branches of a request are one request with
`n` where the server gives branch i the seed + i and counts the tokens of each (vLLM); a server that refuses or ignores
`n`, or counts the first branch alone (llama.cpp), is asked once per branch. What tells an end of text from a stop
differs: `stop_reason` (vLLM), `matched_stop` (SGLang), `stop_type` (llama.cpp); a server that has none of them is
refused, since its chunks could not be told from finished texts. Fields that a server does not know it ignores.
This file does not know templates, prefixes of a trajectory, or what is done with a branch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssd_pipeline.errors import EndpointError, RowError
from ssd_pipeline.models.failures import Failure, Reaction
from ssd_pipeline.models.pieces import Piece, whole_branch
from ssd_pipeline.models.retry import Endpoint, Endpoints, Pace, together
from ssd_pipeline.models.tgi import PARTIAL, check_served
from ssd_pipeline.stage import Branch, Finish, Model, Sample, Sampling, Served

Reply = Mapping[str, Any]


class CompletionsSampler:
    """`Sampler` over the servers of a model. `bos`: what they put before every text, '' for nothing."""

    def __init__(self, model: Model, *, bos: str = "", pace: Pace | None = None) -> None:
        self._model = model
        self._bos = bos
        self._id = model.runtime.served_name or model.repo
        self._one_by_one = False
        self._endpoints = Endpoints(model, "OpenAI-compatible completions", self._identify, pace)

    async def sample(self, ask: Sample) -> list[Branch]:
        """One branch per seed. Raises RowError, EndpointError."""
        start = (ask.prompt + ask.prefix).removeprefix(self._bos)
        firsts: list[Piece] | None = None
        many = len(ask.seeds) > 1 and list(ask.seeds) == list(range(ask.seeds[0], ask.seeds[0] + len(ask.seeds)))
        if many and not self._one_by_one:
            body = self._body(ask, start, ask.chunk.max_tokens, ask.seeds[0]) | {"n": len(ask.seeds)}
            firsts = await self._endpoints.ask(ask.prompt, lambda end: self._many(end, body))

        async def branch(i: int) -> Branch:
            async def more(text: str, tokens: int, seed: int) -> Piece:
                body = self._body(ask, start + text, tokens, seed)
                return await self._endpoints.ask(ask.prompt, lambda end: self._single(end, body))

            return await whole_branch(ask.chunk, ask.seeds[i], more, first=firsts[i] if firsts else None)

        branches = await together([branch(i) for i in range(len(ask.seeds))])
        self._one_by_one = self._one_by_one or (many and firsts is None)  # so it was `n` that was refused
        return branches

    async def served(self) -> Served:
        return await self._endpoints.served()

    async def close(self) -> None:
        await self._endpoints.close()

    def _body(self, ask: Sample, prompt: str, tokens: int, seed: int) -> dict[str, Any]:
        stop = {"stop": list(ask.chunk.stop)} if ask.chunk.stop else {}
        kept = {"include_stop_str_in_output": True, "no_stop_trim": True}
        told = {"return_token_ids": True, "verbose": True}
        body = {"prompt": prompt, "max_tokens": tokens, "seed": seed, "stream": False}
        return {**body, **_sampling(ask.sampling), **stop, **kept, **told}

    async def _many(self, endpoint: Endpoint, body: dict[str, Any]) -> list[Piece] | None:
        """All branches by one request, or None if this server cannot do that."""
        try:
            reply = await self._post(endpoint, body)
        except Failure as failure:
            if failure.reaction is Reaction.row:
                return None
            raise
        choices = _choices(reply)
        if len(choices) == 1 or any(not isinstance(choice.get("token_ids"), list) for choice in choices):
            return None
        if len(choices) != body["n"] or [choice.get("index") for choice in choices] != list(range(body["n"])):
            raise Failure(Reaction.again, f"{len(choices)} branches came, {body['n']} were asked for")
        return [read_piece(choice, reply, len(choice["token_ids"]), body) for choice in choices]

    async def _single(self, endpoint: Endpoint, body: dict[str, Any]) -> Piece:
        reply = await self._post(endpoint, body)
        choices = _choices(reply)
        if len(choices) != 1:
            raise Failure(Reaction.again, f"{len(choices)} branches came, 1 was asked for")
        ids, usage = choices[0].get("token_ids"), reply.get("usage")
        counted = usage.get("completion_tokens") if isinstance(usage, dict) else None
        return read_piece(choices[0], reply, len(ids) if isinstance(ids, list) else counted, body)

    async def _post(self, endpoint: Endpoint, body: dict[str, Any]) -> Reply:
        named = {"model": self._id, **body}  # known only once the endpoint was asked what it serves
        value = (await endpoint.http.post(f"{_root(endpoint)}/v1/completions", json=named)).json()
        if not isinstance(value, dict):
            raise Failure(Reaction.again, "the reply is not a JSON object")
        return value

    async def _identify(self, endpoint: Endpoint) -> Served:
        listed = (await endpoint.http.get(f"{_root(endpoint)}/v1/models")).json()
        data = listed.get("data") if isinstance(listed, dict) else None
        ids = [str(entry.get("id")) for entry in data or () if isinstance(entry, dict)]
        if not ids:
            raise Failure(Reaction.stop, "/v1/models lists no model")
        self._id = self._id or ids[0]
        found = self._id if self._id in ids else ids[0]
        return check_served(self._model, endpoint.url, found, None)


def _root(endpoint: Endpoint) -> str:
    return endpoint.url.removesuffix("/v1")


def _sampling(sampling: Sampling) -> dict[str, Any]:
    """Every setting is said, since the defaults are the server's or the model's own; top_k -1 is off for all three."""
    neutral = {"min_p": 0, "repetition_penalty": 1}
    return {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k or -1, **neutral}


def _choices(reply: Reply) -> list[dict[str, Any]]:
    """The branches of a reply, by their index. Raises Failure."""
    choices = reply.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise Failure(Reaction.again, "the reply has no choices")
    return sorted(choices, key=lambda choice: choice.get("index") if isinstance(choice.get("index"), int) else 0)


def read_piece(choice: Reply, reply: Reply, counted: Any, body: Mapping[str, Any]) -> Piece:
    """One choice as a piece. `counted`: its tokens, the end token among them. Raises RowError, EndpointError.

    A stop that the server cut off is put back. Which tokens make up an incomplete character at a cut is not told, so
    the character is taken off and its tokens stay counted.
    """
    text, most = choice.get("text"), body["max_tokens"]
    if not isinstance(text, str):
        raise RowError("the endpoint's answer has no text", curable=True)
    if type(counted) is not int or not 1 <= counted <= most:
        raise RowError(f"the endpoint counts {counted!r} tokens, asked for {most}", curable=True)
    stops = body.get("stop", [])
    finish, stop = _finish(choice, reply, stops)
    if finish == "eos":
        return Piece(text.rstrip(PARTIAL), counted - 1, counted - 1, "eos")
    if finish == "stop" and not any(known in text for known in stops):
        text += stop
    return Piece(text.rstrip(PARTIAL), counted, counted, finish)


def _finish(choice: Reply, reply: Reply, stops: list[str]) -> tuple[Finish, str]:
    """Why a choice ended, and the stop that ended it."""
    reason = choice.get("finish_reason")
    if reason == "length":
        return "length", ""
    if reason != "stop":
        raise RowError(f"the endpoint ended a text for an unknown reason: {reason!r}", curable=True)
    verbose = reply.get("__verbose")
    if isinstance(verbose, dict) and "stop_type" in verbose:
        word = verbose.get("stopping_word")
        return ("stop", word) if verbose["stop_type"] == "word" and word in stops else ("eos", "")
    for key in ("stop_reason", "matched_stop"):  # a text: that stop; an id or null: an end token
        if key in choice:
            return ("stop", choice[key]) if choice[key] in stops else ("eos", "")
    if not stops:
        return "eos", ""
    raise EndpointError(
        "this server does not say whether a text ended or met a stop; serve it with vLLM, SGLang, llama.cpp or TGI"
    )
