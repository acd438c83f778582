"""Many texts in one row: a forward pass over new tokens alone, each text after its own keys and values of before.

Padding and masks would make a batch as dear as its longest member, and copying what was read before dearer still. Here
all new tokens of all texts are one row, so that every layer but attention is dense and without waste. Attention takes
each text by itself: what all its new tokens see (the past) needs no mask, what a branch sees of itself is plainly
causal, and the two are put together by their log-sum-exp (as in arXiv 2402.05099 and cascade inference); both parts
are the fused kernels of torch, over keys and values where they lie. Logits reach float32 in slices of tokens: of
150,000 words they would not fit otherwise. This file does not know texts, tokenisers, or which memory is kept.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.modeling_utils import AttentionInterface

from ssd_pipeline.errors import ModelError
from ssd_pipeline.models.memory import Memory, States

NAME = "ssd_packed"
SLICE = 1 << 24  # logits in float32 at once: 64 MB
FOREIGN = "its attention is not that of transformers; serve it with vLLM (api: completions)"
KNOWN = {"is_causal", "position_ids", "use_cache", "output_attentions", "output_hidden_states", "return_dict"}


@dataclass
class Part:
    """New tokens of one text: `runs`, each of which comes right after the first `past` tokens of the memory.

    `into`: it is one run, and its states go into the memory; otherwise they are left in `states`, per layer. `wanted`:
    (place in the part, tokens): the log-probabilities of tokens that follow each other, the first after that place.
    """

    memory: Memory
    past: int
    runs: list[list[int]]
    into: bool
    wanted: list[tuple[int, list[int]]]
    states: list[States] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(map(len, self.runs))

    def as_tails(self) -> list[tuple[list[int], list[States]]]:
        """Each run with its own states, once they were read."""
        lengths = [len(run) for run in self.runs]
        layers = [list(zip(*(one.split(lengths, dim=1) for one in layer), strict=True)) for layer in self.states]
        return [(run, [layer[i] for layer in layers]) for i, run in enumerate(self.runs)]


class PackedModel:
    """A causal language model that reads `Part`s. Raises ModelError for one whose attention it would get wrong."""

    def __init__(self, lm: Any) -> None:
        _refuse(lm.config.get_text_config())
        lm.set_attn_implementation(NAME)
        self._lm, self._head = lm, _head(lm)
        probe = Part(Memory([]), 0, [[0]], into=False, wanted=[(0, [0])])
        with torch.inference_mode():
            self.measure([probe], ranks=False)
        if len(probe.states) != lm.config.get_text_config().num_hidden_layers:
            raise ModelError(FOREIGN)
        self._like = probe.states

    @property
    def token_bytes(self) -> int:
        """What the memory of one token takes."""
        return sum(one.nbytes for layer in self._like for one in layer)

    def memory(self) -> Memory:
        """An empty memory."""
        return Memory(self._like)

    def measure(self, parts: Sequence[Part], *, ranks: bool) -> list[list[tuple[list[float], list[int]]]]:
        """One forward pass: for each part, for each of its `wanted`, log-probabilities and ranks (empty without)."""
        ids = [token for part in parts for run in part.runs for token in run]
        at = [part.past + i for part in parts for run in part.runs for i in range(len(run))]
        hidden = self._lm.base_model(
            input_ids=self._tensor([ids]),
            position_ids=self._tensor([at]),
            use_cache=False,
            packed=Packed(parts, self._lm.device),
        ).last_hidden_state[0]
        places: list[int] = []
        start = 0
        for part in parts:
            for place, tokens in part.wanted:
                places += range(start + place, start + place + len(tokens))
            start += len(part)
        wanted = [token for part in parts for _, tokens in part.wanted for token in tokens]
        logprobs, order = self._log_softmax(hidden, self._tensor(places), self._tensor(wanted), ranks=ranks)
        found, start = [], 0
        for part in parts:
            of_part = []
            for _, tokens in part.wanted:
                of_part.append((logprobs[start : start + len(tokens)], order[start : start + len(tokens)]))
                start += len(tokens)
            found.append(of_part)
        return found

    def _tensor(self, numbers: Any) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self._lm.device)

    def _log_softmax(self, hidden: Any, places: Any, wanted: Any, *, ranks: bool) -> tuple[list[float], list[int]]:
        """log softmax(logits at places)[wanted] and 1 + how many are larger, in float32, a slice at a time."""
        logprobs: list[torch.Tensor] = []
        order: list[torch.Tensor] = []
        size = max(1, SLICE // int(self._lm.config.get_text_config().vocab_size))
        for place, token in zip(places.split(size), wanted.split(size), strict=True):
            logits = self._head(inputs_embeds=hidden[place][None]).logits[0].float()
            logprobs.append(-torch.nn.functional.cross_entropy(logits, token, reduction="none"))
            if ranks:
                order.append(1 + (logits > logits.gather(-1, token[:, None])).sum(dim=-1))
        return torch.cat(logprobs).tolist(), torch.cat(order).tolist() if ranks else []


class _Given(torch.nn.Module):
    """Stands in the place of a model's body and gives back what it is given."""

    def forward(self, *_: Any, inputs_embeds: Any = None, **__: Any) -> _Output:
        return _Output(inputs_embeds)


@dataclass(frozen=True)
class _Output:
    """What a body gives back: its last hidden states, and None for all else that any head passes on."""

    last_hidden_state: torch.Tensor

    def __getitem__(self, _: Any) -> torch.Tensor:
        return self.last_hidden_state

    def __getattr__(self, _: str) -> None:
        return None


def _head(lm: Any) -> Any:
    """The model without its body: hidden states -> logits, with whatever this model does to them."""
    head = copy.copy(lm)
    head._modules = {**lm._modules, lm.base_model_prefix: _Given()}
    return head


def _refuse(config: Any) -> None:
    """Raises ModelError for layers and positions with which a past cannot be kept, or not in this way."""
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds:
        raise ModelError(f"its layers are of kind {', '.join(sorted(kinds))}; serve it with vLLM (api: completions)")
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type")
    if rope in ("dynamic", "longrope"):
        raise ModelError(f"its positions ({rope}) depend on the length of the whole text, so no past can be kept")


# ---------------------------------------------------------------------------------------------------- attention


class Packed:
    """The parts of one forward pass, and how their runs lie side by side for what each sees of itself.

    Runs of about one length are one batch: those that are shorter repeat their last token, which no token before it
    sees. `parts`: each with its place in the row. `shapes`: (runs, longest) of each batch. `gather`: the place in the
    row of each of their tokens; `order`: the place among them of each token of the row; None where both are as they
    are.
    """

    def __init__(self, parts: Sequence[Part], device: torch.device) -> None:
        ends = list(itertools.accumulate(map(len, parts)))
        self.parts = [(part, end - len(part), end) for part, end in zip(parts, ends, strict=True)]
        lengths = [len(run) for part in parts for run in part.runs if run]
        starts = [end - length for end, length in zip(itertools.accumulate(lengths), lengths, strict=True)]
        batches: dict[int, list[int]] = {}
        for i, length in enumerate(lengths):
            batches.setdefault(length.bit_length(), []).append(i)
        gather: list[int] = []
        order = [0] * sum(lengths)
        self.shapes = [(len(batch), max(lengths[i] for i in batch)) for batch in batches.values()]
        for batch, (_, longest) in zip(batches.values(), self.shapes, strict=True):
            for i in batch:
                order[starts[i] : starts[i] + lengths[i]] = range(len(gather), len(gather) + lengths[i])
                gather += [starts[i] + min(place, lengths[i] - 1) for place in range(longest)]
        plain = len(self.shapes) == 1 and len(gather) == len(order)
        self.gather, self.order = (None if plain else torch.tensor(one, device=device) for one in (gather, order))

    def own(self, q: Any, k: Any, v: Any, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """What each token sees of its own run: [heads, row, size] -> [row, heads, size], log-sum-exp [row, heads]."""
        groups = q.shape[0] // k.shape[0]
        given = [q, _repeated(k, groups), _repeated(v, groups)]
        if self.gather is not None:
            given = [states.index_select(1, self.gather) for states in given]
        sizes = [runs * longest for runs, longest in self.shapes]
        outs, weights = [], []
        batches = zip(self.shapes, *(states.split(sizes, dim=1) for states in given), strict=True)
        for shape, *batch in batches:
            q, k, v = (states.unflatten(1, shape).transpose(0, 1) for states in batch)
            out, weight = _fused(q, k, v, scale, causal=True)
            outs.append(out.transpose(1, 2).flatten(0, 1))
            weights.append(weight.transpose(1, 2).flatten(0, 1))
        if self.order is None:
            return outs[0], weights[0]
        return torch.cat(outs).index_select(0, self.order), torch.cat(weights).index_select(0, self.order)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scaling: float,
    packed: Packed | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function of transformers: query [1, heads, row, size] -> output [1, row, heads, size]."""
    if packed is None:
        raise ModelError(FOREIGN)
    unknown = [name for name, said in rest.items() if said is not None and name not in KNOWN]
    if unknown or mask is not None:
        raise ModelError(f"its attention has {', '.join(unknown) or 'a mask'}: it would be scored wrongly")
    out, weight = packed.own(query[0], key[0], value[0], scaling)
    for part, start, end in packed.parts:
        q, k, v = (states[0, :, start:end] for states in (query, key, value))
        if part.into:
            part.memory.write(module.layer_idx, part.past, (k, v))
        else:
            part.states.append((k.clone(), v.clone()))
        past = part.memory.first(module.layer_idx, part.past) if part.past else None
        if sliding_window is not None and part.past + max(map(len, part.runs)) > sliding_window:
            lengths = [len(run) for run in part.runs]
            seen = [
                _windowed(q_run, k_run, v_run, past, scaling, sliding_window)
                for q_run, k_run, v_run in zip(*(states.split(lengths, dim=1) for states in (q, k, v)), strict=True)
            ]
            out[start:end] = torch.cat(seen, dim=1).transpose(0, 1)
        elif past is not None:
            _add_past(out[start:end], weight[start:end], q, past, scaling)
    return out[None], None


def _add_past(out: torch.Tensor, weight: torch.Tensor, q: torch.Tensor, past: States, scale: float) -> None:
    """Put what all tokens of a part see of the past [tokens, heads, size] to what they see of themselves, `out`."""
    k, v = past  # all heads of a group see the same keys: they are more queries of one head
    seen, past_weight = _fused(q.reshape(1, k.shape[0], -1, q.shape[2]), k[None], v[None], scale, causal=False)
    seen, past_weight = seen[0].reshape(*q.shape[:2], -1), past_weight[0].reshape(q.shape[:2])
    share = torch.sigmoid(weight - past_weight.T)[..., None]
    out.copy_(torch.lerp(seen.transpose(0, 1).float(), out.float(), share))


def _repeated(states: torch.Tensor, groups: int) -> torch.Tensor:
    return states if groups == 1 else states.repeat_interleave(groups, 0)


def _fused(q: Any, k: Any, v: Any, scale: float, *, causal: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention [rows, heads, tokens, size] and the log-sum-exp of its scores [rows, heads, tokens] (float32)."""
    if q.shape[-1] == v.shape[-1] and q.device.type == "cpu":
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, weight = fused(q, k, v, 0.0, causal, scale=scale)
        return out, weight
    if q.shape[-1] == v.shape[-1] and q.device.type == "cuda":
        fused = torch.ops.aten._scaled_dot_product_efficient_attention
        out, weight, _, _ = fused(q, k, v, None, True, 0.0, causal, scale=scale)
        return out, weight[..., : q.shape[2]]  # it is padded to a multiple of 32
    scores = (q @ k.mT).float() * scale
    if causal:
        scores = scores.masked_fill(scores.new_ones(scores.shape[-2:]).triu(1).bool(), -torch.inf)
    return scores.softmax(dim=-1).to(v.dtype) @ v, scores.logsumexp(dim=-1)


def _windowed(q: Any, k: Any, v: Any, past: States | None, scale: float, window: int) -> torch.Tensor:
    """One run where a token sees the last `window` tokens alone, itself among them."""
    kept = 0
    if past is not None:
        kept = min(past[0].shape[1], window - 1)
        k, v = (torch.cat([old[:, old.shape[1] - kept :], new], dim=1) for old, new in zip(past, (k, v), strict=True))
    own = torch.arange(q.shape[1], device=q.device)[:, None] + kept
    seen = torch.arange(k.shape[1], device=q.device)[None, :]
    k, v = (_repeated(states, q.shape[0] // k.shape[0]) for states in (k, v))
    mask = (seen <= own) & (seen > own - window)
    return torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask, scale=scale)[0]


AttentionInterface.register(NAME, attend)
