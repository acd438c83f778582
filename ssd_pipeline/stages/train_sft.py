"""train_sft: fine-tune a LoRA adapter, or all weights, on solutions, seen exactly as they were scored.

What is learned is the response text and, where the text ended by itself, its end token; the prompt carries no loss. An
unfinished text never gets an end token: that would teach to stop in mid-thought. Rows that cannot be used are counted
in the summary, never silently lost. `where` filters the input before it comes here. This file does not know torch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ssd_pipeline.errors import RowError, RunError
from ssd_pipeline.models import open_prompts
from ssd_pipeline.records import Fate, arrow_schema, column
from ssd_pipeline.stage import Input, Params, Prompts, StageContext, Summary, TrainedName, WholeStage

if TYPE_CHECKING:
    from ssd_pipeline.models.trainer import Settings, Trained
    from ssd_pipeline.models.training_rows import Example


class Lora(Params):
    """Size and place of the adapter."""

    rank: int = Field(16, ge=1, le=1024, description="rank of each update")
    alpha: int | None = Field(None, ge=1, description="its scale is alpha / rank; twice the rank, if left out")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the adapter's input")
    target_modules: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        "all-linear", description="names of the layers"
    )


class TrainParams(Params):
    """Every default is ours and untuned."""

    model: TrainedName = Field(description="what is trained; adapters that it has already are merged first")
    method: Literal["lora", "full"] = Field("lora", description="what is trained: an adapter, or all weights")
    lora: Lora = Lora()
    merge: bool = Field(
        False, description="also write the model with the adapter merged into it, in its folder merged/"
    )
    epochs: float = Field(1, gt=0, le=1000, description="how often each row is seen")
    max_steps: int | None = Field(None, ge=1, description="optimiser updates; instead of epochs")
    learning_rate: float = Field(2e-4, gt=0, description="at the peak")
    warmup: float = Field(0.05, ge=0, le=1, description="share of the updates in which it rises")
    floor: float = Field(0.1, ge=0, le=1, description="the share of it at which the cosine ends")
    batch_size: int = Field(8, ge=1, description="rows in one forward pass")
    accumulate: int = Field(1, ge=1, description="forward passes per optimiser update")
    max_length: int = Field(4096, ge=2, description="prompt and response, in the model's tokens")
    too_long: Literal["drop", "cut", "error"] = Field("drop", description="what becomes of longer rows")
    packing: bool = Field(False, description="fill each row of a batch up to max_length with several solutions")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    precision: Literal["float32", "bfloat16"] = Field("bfloat16", description="bfloat16: autocast; adapter in float32")
    fates: tuple[Literal["accepted", "given_up", "too_long"], ...] = Field(
        ("accepted",), min_length=1, description="rows that are trained on, where rows have a fate"
    )

    def mistakes(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        for name in ("lora", "merge"):
            if self.method == "full" and name in self.model_fields_set:
                yield (name,), "goes with method: lora; full training leaves a whole model"


@dataclass(frozen=True)
class Update:
    """One optimiser update of the loss curve. `loss`: mean negative log-likelihood per trained token."""

    step: int
    learning_rate: float
    loss: float = column(measured=True)
    grad_norm: float | None = column(measured=True)


def train(params: TrainParams, ctx: StageContext) -> Summary:
    """Train on all inputs together and leave the adapter in `ctx.out`. Raises RunError when no row can be used."""
    began = time.monotonic()
    model = ctx.model(params.model)
    if model.runtime.trackio and importlib.util.find_spec("trackio") is None:
        raise RunError(f'runtime.models.{model.name}.trackio: pip install "ssd-pipeline[trackio]", or leave it out')
    prompts = open_prompts(model)  # says what to install where nothing local is; so the import comes after it
    from ssd_pipeline.models.launched import sft_in_processes
    from ssd_pipeline.models.trainer import sft

    train = sft_in_processes if model.runtime.processes > 1 else sft
    unused: Counter[str] = Counter()
    examples = (e for source in ctx.inputs for e in usable(source, params, prompts, unused))
    first = next(examples, None)
    if first is None:
        raise RunError(f"no row to train on: {said(unused)}. Look at `where` and `fates`, or at the rows above")
    trained = train(model, _chain(first, examples), settings(params, ctx), ctx.out, ctx.work, ctx.progress)
    ctx.write_rows(
        arrow_schema(Update),
        (
            {"step": e["step"], "learning_rate": e["learning_rate"], "loss": e["loss"], "grad_norm": e.get("grad_norm")}
            for e in trained.curve
        ),
    )
    return {**summary(trained, unused), "seconds": round(time.monotonic() - began, 3)}


def usable(source: Input, params: TrainParams, prompts: Prompts, unused: Counter[str]) -> Iterator[Example]:
    """The rows of one input that can be trained on; the others are counted by reason.

    Weight w gives every row w times; a fraction takes an evenly spread part of the rows.
    """
    from ssd_pipeline.models.training_rows import Example

    place = 0
    for row in source.rows():
        fate, text = row.get("fate"), row["solution"]
        if fate is not None and fate not in params.fates:
            unused[f"fate {fate}"] += 1
        elif not text:
            unused["without a solution"] += 1
        else:
            copies = math.floor((place + 1) * source.weight) - math.floor(place * source.weight)
            place += 1
            try:
                prompt = prompts.before_response(row["problem"])
            except RowError:
                unused["a problem that cannot be rendered"] += 1
                continue
            yield from [Example(prompt, text, finished=fate in (None, Fate.accepted))] * copies


def settings(params: TrainParams, ctx: StageContext) -> Settings:
    """The trainer's settings; its seed is hashed from the recipe's and the take."""
    from ssd_pipeline.models.trainer import Settings

    seed = int.from_bytes(hashlib.sha256(f"train {ctx.seed} {ctx.take}".encode()).digest()[:4]) >> 1
    plain = params.model_dump(exclude={"model", "lora", "fates"})
    lora = params.lora.model_dump()
    lora["alpha"] = params.lora.alpha or 2 * params.lora.rank
    return Settings(**plain, **lora, seed=seed)


def said(unused: Counter[str]) -> str:
    """Why rows were not used, in words."""
    return ", ".join(f"{count} {reason}" for reason, count in unused.most_common()) or "the input is empty"


def summary(trained: Trained, unused: Counter[str]) -> dict[str, object]:
    """Rows and tokens by what became of them, and the ends of the loss curve."""
    rows, curve = trained.rows, trained.curve
    left_out = Counter(unused)
    left_out.update({"too long": rows.too_long, "with control text of this model": rows.control_text})
    return {
        "rows": rows.count,
        "tokens": rows.tokens,
        "longest": rows.longest,
        "cut": rows.cut,
        "left_out": {reason: count for reason, count in sorted(left_out.items()) if count},
        "steps": len(curve),
        "first_loss": curve[0]["loss"],
        "last_loss": curve[-1]["loss"],
        "device": trained.device,
        "warnings": list(trained.warnings),
    }


def _chain(first: Example, rest: Iterator[Example]) -> Iterator[Example]:
    yield first
    yield from rest


STAGE = WholeStage(
    "train_sft",
    version=2,
    params=TrainParams,
    run=train,
    gives="adapter",
    adds=Update,
    reads=lambda params: ("problem", "solution", "fate"),
    optional=lambda params: ("fate",),
    inputs=(1, None),
    random=True,
    extra="local:trl",
)
