"""Fine-tuning with TRL's SFTTrainer, of a LoRA adapter or of all weights.

It is fed with token ids and labels (see training_rows.py), and everything that decides is said: seed, precision,
device, schedule. Checkpoints are taken by the clock and marked when whole, and only a whole one of the same rows and
settings is gone on with: on a CPU the result is byte for byte that of an undisturbed run. What is saved holds no path
and nothing else of this machine. This file does not know recipes, fates or verdicts.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import datasets
import safetensors.torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from peft import LoraConfig, get_peft_model_state_dict
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer, pack_dataset

from ssd_pipeline.errors import ModelError, RunError, boundary
from ssd_pipeline.models.loading import context_length, dtype_of, end_ids, load_causal_lm, load_tokenizer, pick_device
from ssd_pipeline.models.rendering import end_token
from ssd_pipeline.models.training_rows import Example, Rows, tokenised
from ssd_pipeline.stage import Model
from ssd_pipeline.store import durable
from ssd_pipeline.store.identity import canonical, digest_of, file_digest

SHORT = 1024  # tokens of a row up to which a whole matrix of attention weights may be held
DONE = "DONE.json"
MERGED = "merged"  # the folder of the merged model
UNTRAINED = 0.1  # share of the median norm of its matrix below which a token's row looks untrained
ALIKE = (
    0.985  # cosine of two output rows; in the shipped models above 0.99 for tokens that no text had, else below 0.98
)


@dataclass(frozen=True)
class Settings:
    """What decides the result; see TrainParams in stages/train_sft.py for the meaning of each."""

    rank: int
    alpha: int
    dropout: float
    target_modules: str | tuple[str, ...]
    epochs: float
    max_steps: int | None
    learning_rate: float
    floor: float
    warmup: float
    batch_size: int
    accumulate: int
    max_length: int
    too_long: Literal["drop", "cut", "error"]
    weight_decay: float
    clip: float
    precision: Literal["float32", "bfloat16"]
    seed: int
    method: Literal["lora", "full"] = "lora"
    packing: bool = False
    merge: bool = False


@dataclass(frozen=True)
class Trained:
    """What a training was. `curve`: one entry per optimiser update, with the mean loss per token of its rows."""

    rows: Rows
    curve: list[dict[str, float]] = field(default_factory=list)
    device: str = "cpu"
    warnings: tuple[str, ...] = ()


def sft(
    model: Model,
    examples: Iterable[Example],
    settings: Settings,
    out: Path,
    work: Path,
    progress: Callable[[int, int | None], None],
) -> Trained:
    """Train an adapter of `model` (its own adapters merged) and save it into `out`.

    `work` keeps the checkpoints of an interrupted call, which the same call goes on from. Raises ModelError, RunError.
    """
    device, world = pick_device(model.runtime.device), int(os.environ.get("WORLD_SIZE", "1"))
    if device.type == "cuda" and world > 1:
        device = pick_device(f"cuda:{os.environ['LOCAL_RANK']}")
    elif device.type == "cuda" and device.index:
        raise ModelError(f"training runs on the first visible GPU: use CUDA_VISIBLE_DEVICES={device.index} and `cuda`")
    exact = settings.precision == "float32" or settings.method == "full"  # full: autocast over weights in float32
    lm, tokenizer = load_causal_lm(replace(model, dtype="float32") if exact else model, device), load_tokenizer(model)
    limit = min(settings.max_length, context_length(lm))
    rows = tokenised(examples, tokenizer, model.format.template, limit, settings.too_long)
    if not rows.count:
        raise RunError(f"no row is left to train on: {rows.too_long} too long, {rows.control_text} with control text")
    if device.type == "cpu" and rows.longest <= SHORT and not settings.packing:
        lm.set_attn_implementation("eager")  # there and then nearly twice as fast as sdpa
    lm.name_or_path = None  # else every save asks the Hub about the base model
    lm.requires_grad_(settings.method == "full")
    warned = end_warning(lm, tokenizer, model.format.template) if settings.method == "lora" else None
    watch = _Watch(progress, model.runtime.checkpoint_s, digest_of({**asdict(settings), "rows": rows.digest}))
    with boundary(ModelError, f"training model {model.name}"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TRL about its own defaults
        dataset = _packed(rows, limit) if settings.packing else Dataset(rows.table)
        trainer = SFTTrainer(
            model=lm,
            args=_config(settings, len(dataset), limit, device.type, world, work, _tracking(model, watch.identity)),
            train_dataset=dataset,
            processing_class=tokenizer,
            peft_config=_lora(settings) if settings.method == "lora" else None,
            callbacks=[watch],
        )
        trainer.remove_callback(PrinterCallback)  # it prints on standard output
        watch.processes = trainer.accelerator
        with trainer.accelerator.main_process_first():
            whole = newest_checkpoint(work, watch.identity)
        trainer.train(resume_from_checkpoint=str(whole) if whole else None)
        curve = [entry for entry in trainer.state.log_history if "loss" in entry]
    if not all(math.isfinite(entry["loss"]) for entry in curve):
        raise ModelError("the loss is no longer a number: try a lower learning_rate or precision: float32")
    if not trainer.accelerator.is_main_process:
        return Trained(rows, curve, str(device))
    if settings.method == "full":
        save_model(lm.to(dtype_of(model)), tokenizer, model.format.template, out)
    else:
        save_adapter(trainer.model, model, settings, out)
    if settings.merge:
        merged = load_causal_lm(replace(model, adapters=(*model.adapters, out)), pick_device("cpu"))
        save_model(merged, tokenizer, model.format.template, out / MERGED)
    return Trained(rows, curve, str(device), (warned,) if warned else ())


def end_warning(lm: Any, tokenizer: Any, template: str | None) -> str | None:
    """What to do where a model was never taught to end a turn as its template does; None where it was.

    The signs: the model's configs do not say that it stops there (a base model's tokeniser may, for the sake of chats),
    or the token's weights are those of one that training never met.
    """
    text, end = end_token(tokenizer, template)
    own = end_ids(lm, None) or end_ids(lm, tokenizer)
    if end in own and not _untrained(lm, end):
        return None
    why = "was never trained in this model" if end in own else "is not one that this model's config says it writes"
    known = [str(tokenizer.convert_ids_to_tokens(i)) for i in sorted(own) if i != end and not _untrained(lm, i)]
    other = f"give it a `template` that ends turns with {known[0]}, " if known else ""
    return (
        f"the end token {text} {why}: after training it may never stop. Use an instruct model as the student, {other}"
        "or train all weights (method: full)"
    )


def _untrained(lm: Any, token: int) -> bool:
    """Whether a token's weights look as if no text of the training had it.

    Its input row decays to nothing, or its output row is another token's: training moves all that never come in one
    direction, and an adapter that raises one of them raises them all.
    """
    for weight in (lm.get_input_embeddings().weight.detach(), lm.get_output_embeddings().weight.detach()):
        norms = weight.float().norm(dim=1)
        if norms[token] < UNTRAINED * norms.median():
            return True
    alike = weight.float() @ weight[token].float() / (norms * norms[token])
    alike[token] = 0
    return bool(alike.max() > ALIKE)


# -------------------------------------------------------------------------------------------------- trainer


def _packed(rows: Rows, limit: int) -> Dataset:
    """Rows laid end to end up to `limit` tokens; each still sees itself alone, by positions that begin anew."""
    datasets.disable_progress_bars()
    return pack_dataset(Dataset(rows.table), limit, "bfd")


def _config(
    settings: Settings, rows: int, limit: int, device: str, world: int, work: Path, tracking: dict[str, Any]
) -> SFTConfig:
    """Every setting that matters, said; TRL's own defaults (lr, length, precision) are never relied on."""
    updates = settings.max_steps or math.ceil(
        settings.epochs * math.ceil(math.ceil(rows / settings.batch_size) / settings.accumulate)
    )
    dealt = not settings.accumulate % world  # among `world` processes: forward passes, else the rows of each
    return SFTConfig(
        output_dir=str(work),
        use_cpu=device == "cpu",
        bf16=settings.precision == "bfloat16",
        fp16=False,
        seed=settings.seed,
        data_seed=settings.seed,
        max_steps=updates,
        per_device_train_batch_size=settings.batch_size if dealt else settings.batch_size // world,
        gradient_accumulation_steps=settings.accumulate // world if dealt else settings.accumulate,
        ddp_find_unused_parameters=False if world > 1 else None,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": settings.floor},
        warmup_steps=round(settings.warmup * updates),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        gradient_checkpointing=device == "cuda",  # slower, the same result, and long rows fit
        max_length=limit if settings.packing else None,
        packing=settings.packing,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_pin_memory=device == "cuda",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        save_total_limit=2,
        disable_tqdm=True,
        **tracking,
    )


def _tracking(model: Model, identity: str) -> dict[str, Any]:
    """Where the curve goes besides the rows: nowhere, or to a trackio project of this machine."""
    if not model.runtime.trackio:
        return {"report_to": "none"}
    # One name, so that a training that goes on does so in its run. False: transformers would publish it otherwise.
    name = {"project": model.runtime.trackio, "run_name": f"{model.name}-{identity[:8]}"}
    return {"report_to": "trackio", **name, "trackio_static_space_id": False}


def _lora(settings: Settings) -> LoraConfig:
    modules = settings.target_modules
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        bias="none",
        task_type="CAUSAL_LM",
    )


class _Watch(TrainerCallback):
    """Tells the progress, asks for a checkpoint when the last one is old, and marks it when it is whole."""

    def __init__(self, progress: Callable[[int, int | None], None], every_s: float, identity: str) -> None:
        self.identity = identity
        self.processes: Any = None
        self._progress, self._every, self._saved = progress, every_s, time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._progress(state.global_step, state.max_steps)
        due = time.monotonic() - self._saved >= self._every and state.global_step < state.max_steps
        control.should_save = broadcast_object_list([due])[0]  # the first process's clock counts

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._saved = time.monotonic()
        self.processes.wait_for_everyone()
        if not self.processes.is_main_process:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        files = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
        durable.write_file(folder / DONE, canonical({"of": self.identity, "files": files}))


def newest_checkpoint(work: Path, identity: str) -> Path | None:
    """The newest whole checkpoint of this very training; those that are not (killed while saving) are removed."""
    newest = None
    for folder in sorted(work.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2])):
        if _whole(folder, identity):
            newest = folder
        else:
            durable.remove(folder)
    return newest


def _whole(folder: Path, identity: str) -> bool:
    try:
        mark = json.loads((folder / DONE).read_bytes())
        files = {p.name: file_digest(p) for p in folder.iterdir() if p.name != DONE}
    except (OSError, ValueError):
        return False
    return bool(mark == {"of": identity, "files": files})


# ---------------------------------------------------------------------------------------------- what is saved


def save_adapter(trained: Any, model: Model, settings: Settings, out: Path) -> None:
    """The adapter's weights and a config with nothing in it that differs between machines or libraries.

    The base is named when it is exactly a Hub commit; a local folder, or a base with adapters merged into it, has no
    name under which others could load it.
    """
    durable.make_dir(out)
    weights = get_peft_model_state_dict(trained, save_embedding_layers=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    durable.write_file(out / "adapter_model.safetensors", safetensors.torch.save(tensors, {"format": "pt"}))
    named = model.repo is not None and not model.adapters
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.repo if named else None,
        "revision": model.revision if named else None,
        "inference_mode": True,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": sorted(trained.peft_config["default"].target_modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }
    durable.write_file(out / "adapter_config.json", json.dumps(config, indent=1, sort_keys=True).encode())


def save_model(lm: Any, tokenizer: Any, template: str | None, out: Path) -> None:
    """A whole model and its tokeniser, ready for `from_pretrained`, with no library version or place in its configs.

    Its generation config names the token that ends a turn, for a server stops at nothing else.
    """
    durable.make_dir(out)
    lm.config.use_cache = True  # the trainer switched it off
    end = end_token(tokenizer, template)[1]
    if end not in (known := end_ids(lm, tokenizer)):
        lm.generation_config.eos_token_id = [end, *sorted(known)]
    lm.save_pretrained(out)
    tokenizer.save_pretrained(out)
    for path in out.glob("*config.json"):
        said = json.loads(path.read_bytes())
        plain = {key: value for key, value in said.items() if key not in ("transformers_version", "_name_or_path")}
        durable.remove(path)
        durable.write_file(path, json.dumps(plain, indent=1, sort_keys=True).encode())
