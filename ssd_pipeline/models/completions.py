"""What OpenAI-compatible servers speak, POST /v1/completions, and llama.cpp's own POST /completion, with httpx.

Raw completions, never chat. What a server is, it says in /v1/models, and that decides what one request may ask for:
vLLM gives branch i the seed + i; SGLang gives all branches the same seed, so it is asked once a branch, as is whoever
is not known; llama.cpp tells what ended a text, and the tokens, of the first branch alone, unless it is asked in its
own format. `transformers serve` refuses every field that OpenAI does not have, and is told in a configuration of its
own that it shall sample. What tells an end of text from a stop differs: `stop_reason` (vLLM), `matched_stop` (SGLang),
`stop_type` (llama.cpp), the stop kept in the text (transformers); a server that has none of them is refused, since its
chunks could not be told from finished texts. This file does not know prefixes, branches or pieces.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ssd_pipeline.models.failures import Failure, Reaction
from ssd_pipeline.models.joins import PARTIAL
from ssd_pipeline.models.pieces import Piece
from ssd_pipeline.models.remote import check_served, counted, smaller, unknown_end
from ssd_pipeline.models.retry import Endpoint
from ssd_pipeline.stage import Finish, Model, Sample, Sampling, Served

Reply = Mapping[str, Any]

VLLM, LLAMA, SERVE = "vllm", "llamacpp", "transformers serve"
MOST_BRANCHES = 64  # vLLM's own limit on `n`
LLAMA_TELLS = {
    "return_tokens": True,
    "response_fields": ["index", "content", "tokens", "stop_type", "stopping_word"],
}


class Completions:
    """A `Wire`. `ends`: the ids that end a text of this model, for a server that must be told."""

    speaks = "OpenAI-compatible completions"
    warms = False
    most_tokens: int | None = None
    most_branches = MOST_BRANCHES
    context: int | None = None

    def __init__(self, model: Model, ends: Sequence[int] = ()) -> None:
        self._model, self._ends = model, list(ends)
        self._id = model.runtime.served_name or model.repo
        self._kinds: dict[str, str] = {}
        self._alone: dict[str, asyncio.Lock] = {}

    async def identify(self, endpoint: Endpoint) -> Served:
        said = (await endpoint.http.get(f"{_root(endpoint)}/v1/models")).json()
        data = said.get("data") if isinstance(said, dict) else None
        listed = data if isinstance(data, list) else []
        models = {str(entry.get("id")): entry for entry in listed if isinstance(entry, dict)}
        if not models:
            raise Failure(Reaction.stop, "/v1/models lists no model", status=200)
        name = self._id if self._id in models else next(iter(models))
        served = check_served(self._model, name, None)
        self._id = name
        kind, meta = str(models[name].get("owned_by")), models[name].get("meta")
        most = models[name].get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)
        if kind == LLAMA:
            props = (await endpoint.http.get(f"{_root(endpoint)}/props")).json()
            slots = props.get("total_slots") if isinstance(props, dict) else None
            self.most_branches = min(self.most_branches, slots if type(slots) is int and slots > 0 else 1)
        elif kind != VLLM:
            self.most_branches = 1
        self.context = smaller(self.context, most)
        self._kinds[endpoint.url] = kind
        return served

    async def pieces(
        self, endpoint: Endpoint, text: str, tokens: int, seeds: Sequence[int], ask: Sample
    ) -> list[Piece]:
        kind = self._kinds[endpoint.url]
        if kind == SERVE:
            return await self._serve(endpoint, text, tokens, seeds[0], ask)
        stop = {"stop": list(ask.chunk.stop)} if ask.chunk.stop else {}
        asked = {"prompt": text, "seed": seeds[0], "stream": False, **_sampling(ask.sampling), **stop}
        if kind == LLAMA:
            own = {"n_predict": tokens, "n_cmpl": len(seeds), "repeat_penalty": 1, **LLAMA_TELLS}
            return read_llama(await _post(endpoint, "/completion", {**asked, **own}), tokens, ask.chunk.stop)
        kept = {"include_stop_str_in_output": True, "no_stop_trim": True, "return_token_ids": True}
        many = {"n": len(seeds)} if len(seeds) > 1 else {}
        body = {"model": self._id, "max_tokens": tokens, "repetition_penalty": 1, **asked, **kept, **many}
        try:
            reply = await _post(endpoint, "/v1/completions", body)
        except Failure as refused:
            if refused.reaction is Reaction.row and "Unexpected fields in the request" in str(refused):
                self._kinds[endpoint.url] = SERVE
                return await self._serve(endpoint, text, tokens, seeds[0], ask)
            raise
        choices = _choices(reply)
        if len(choices) > 1 and not any(isinstance(choice.get("token_ids"), list) for choice in choices):
            raise Failure(Reaction.stop, "it does not tell the tokens of each branch: a newer vLLM is needed")
        counts = reply if len(choices) == 1 else {}  # of several branches it is their sum
        return [read_piece(choice, counts, tokens, ask.chunk.stop) for choice in choices]

    async def _serve(self, endpoint: Endpoint, text: str, tokens: int, seed: int, ask: Sample) -> list[Piece]:
        """One branch of `transformers serve`. Its seed is the process's: one request at a time, or they mix."""
        sampling = ask.sampling
        config: dict[str, Any] = {"do_sample": False}
        if sampling.temperature:
            neutral = {"top_p": sampling.top_p, "top_k": sampling.top_k}
            config = {"do_sample": True, "temperature": sampling.temperature, **neutral}
        if self._ends:
            config |= {"eos_token_id": self._ends, "pad_token_id": self._ends[0]}
        stop = {"stop": list(ask.chunk.stop)} if ask.chunk.stop else {}
        body = {"model": self._id, "prompt": text, "max_tokens": tokens, "seed": seed, "stream": False, **stop}
        async with self._alone.setdefault(endpoint.url, asyncio.Lock()):
            reply = await _post(endpoint, "/v1/completions", {**body, "generation_config": json.dumps(config)})
        return [read_piece(choice, reply, tokens, ask.chunk.stop, keeps_stops=True) for choice in _choices(reply)]


def _root(endpoint: Endpoint) -> str:
    return endpoint.url.removesuffix("/v1")


async def _post(endpoint: Endpoint, path: str, body: dict[str, Any]) -> Any:
    return (await endpoint.http.post(_root(endpoint) + path, json=body)).json()


def _sampling(sampling: Sampling) -> dict[str, Any]:
    """Every setting is said, since the defaults are the server's or the model's own; top_k -1 is off for all."""
    return {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k or -1, "min_p": 0}


def _choices(reply: Any) -> list[Reply]:
    """The branches of a reply, by their index. Raises Failure."""
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise Failure(Reaction.again, "the reply has no choices")
    return _in_order(choices)


def _in_order(branches: list[Any]) -> list[Reply]:
    indices = [branch.get("index") if isinstance(branch, dict) else None for branch in branches]
    if sorted(i for i in indices if type(i) is int) != list(range(len(branches))):
        raise Failure(Reaction.again, "the branches of the reply are not numbered from 0 on")
    return sorted(branches, key=lambda branch: int(branch["index"]))


def read_llama(reply: Any, most: int, stops: Sequence[str]) -> list[Piece]:
    """llama.cpp's own answer as pieces, a list of it for several branches. Raises Failure."""
    pieces = []
    for said in _in_order(reply if isinstance(reply, list) else [reply]):
        ids, kind, word = said.get("tokens"), said.get("stop_type"), said.get("stopping_word")
        if kind not in ("eos", "word", "limit") or (kind == "word" and word not in stops):
            raise unknown_end(kind)
        finish: Finish = "eos" if kind == "eos" else "stop" if kind == "word" else "length"
        pieces.append(_piece(said.get("content"), ids, None, finish, str(word or ""), most, stops))
    return pieces


def read_piece(choice: Reply, reply: Reply, most: int, stops: Sequence[str], *, keeps_stops: bool = False) -> Piece:
    """One choice as a piece. `keeps_stops`: a text without a stop did not meet one. Raises Failure."""
    usage = reply.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    finish, stop = _finish(choice, stops, keeps_stops)
    return _piece(choice.get("text"), choice.get("token_ids"), count, finish, stop, most, stops)


def _piece(text: Any, ids: Any, count: Any, finish: Finish, stop: str, most: int, stops: Sequence[str]) -> Piece:
    """A piece, if it makes sense. `count`: its tokens with the end token, where `ids` are not told.

    A stop that the server cut off is put back; an incomplete character at a cut is taken off.
    """
    if not isinstance(text, str):
        raise Failure(Reaction.again, "the answer has no text")
    told = ids if isinstance(ids, list) and all(type(i) is int and i >= 0 for i in ids) else []
    tokens = counted(len(told) if told else count, most)
    if finish == "eos":
        return Piece(text.rstrip(PARTIAL), tokens - 1, tokens - 1, "eos", tuple(told[:-1]))
    if finish == "stop" and not any(known in text for known in stops):
        text += stop
    whole = text.rstrip(PARTIAL)
    ended = finish == "stop" or whole.endswith(tuple(stops))  # some look at the length first
    return Piece(whole, tokens, tokens, "stop" if ended else "length", tuple(told))


def _finish(choice: Reply, stops: Sequence[str], keeps_stops: bool) -> tuple[Finish, str]:
    """Why a choice ended, and the stop that ended it."""
    reason = choice.get("finish_reason")
    if reason == "length":
        return "length", ""
    if reason != "stop":
        raise unknown_end(reason)
    for key in ("stop_reason", "matched_stop"):  # a text: that stop; an id or null: an end token
        if key in choice:
            return ("stop", str(choice[key])) if choice[key] in stops else ("eos", "")
    if any(stop in str(choice.get("text")) for stop in stops):
        return "stop", ""
    if keeps_stops or not stops:
        return "eos", ""
    raise Failure(
        Reaction.stop,
        "it does not say whether a text ended or met a stop; serve it with vLLM, SGLang, llama.cpp or TGI",
    )
