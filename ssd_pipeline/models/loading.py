"""A model of the recipe -> a tokeniser, or a causal language model that is ready to be run.

Weights come from safetensors alone (a pickle runs code when it is loaded), and code from a repo runs only where the
recipe says so. Adapters are merged lowest first in float32 and cast once at the end: merging in bfloat16 moves
log-probabilities by more than the branches differ. The one global thing that is set is the number of threads: a tiny
model on a CPU gains nothing from a second one, and on busy cores the two wait for each other ten times as long.
This file does not know what the model is used for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd_pipeline.errors import ModelError, boundary
from ssd_pipeline.stage import Model

if TYPE_CHECKING:
    import torch

INSTALL = 'it needs torch and transformers: pip install "ssd-pipeline[local]"'
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TINY = 10_000_000  # parameters


@contextmanager
def local_extra(name: str) -> Iterator[None]:
    """Turn a missing torch, transformers or peft into the command that installs them."""
    try:
        yield
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] not in ("torch", "transformers", "peft", "accelerate"):
            raise
        raise ModelError(f"model {name}: {INSTALL}") from missing


def source(model: Model) -> dict[str, Any]:
    """Where the model lies, as arguments of `from_pretrained`. Raises ModelError for a folder that is not there."""
    if model.path is not None and not model.path.is_dir():
        raise ModelError(f"model {model.name}: there is no folder {model.path}")
    place = {"pretrained_model_name_or_path": str(model.path or model.repo)}
    revision = {} if model.path is not None else {"revision": model.revision}
    return {**place, **revision, "trust_remote_code": model.trust_remote_code}


def load_tokenizer(model: Model) -> Any:
    """The model's own fast tokeniser. Raises ModelError, also for one that cannot tell offsets."""
    with boundary(ModelError, f"loading the tokeniser of model {model.name}"), local_extra(model.name):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(**source(model))
    if not tokenizer.is_fast:
        raise ModelError(f"model {model.name}: its tokeniser is not a fast one, so tokens cannot be placed in text")
    return tokenizer


def pick_device(name: str) -> torch.device:
    """The device of a recipe's `device`: auto is cuda, then mps, then cpu. Raises ModelError if it is not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device {name}: torch sees {torch.cuda.device_count()} GPUs; use `device: auto` or `cpu`")
    if device.type == "mps" and not _has_mps():
        raise ModelError("device mps: torch does not find it; use `device: auto` or `cpu`")
    return device


def pick_devices(name: str) -> list[torch.device]:
    """Every device that may have a copy of a model: all GPUs if there are any and it is `auto`, else `pick_device`."""
    import torch

    if name == "auto" and torch.cuda.is_available():
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [pick_device(name)]


def _has_mps() -> bool:
    import torch

    return bool(torch.backends.mps.is_available())


@cache
def _threads() -> int:
    """How many threads torch would take, asked before the first model changes it."""
    import torch

    return int(torch.get_num_threads())


def load_causal_lm(model: Model, device: torch.device) -> Any:
    """The model with its adapters merged, in its dtype, on `device`, in eval mode and without gradients.

    What full training left in the place of an adapter is a whole model, which replaces what is below it. `dtype: auto`
    is the checkpoint's. Raises ModelError.
    """
    with boundary(ModelError, f"loading model {model.name}"), local_extra(model.name):
        import torch
        import transformers

        transformers.utils.logging.disable_progress_bar()  # nothing but the command line prints
        transformers.utils.logging.set_verbosity_error()
        dtype = dtype_of(model)
        whole = [place for place, folder in enumerate(model.adapters) if (folder / "config.json").is_file()]
        adapters = model.adapters[whole[-1] + 1 :] if whole else model.adapters
        place = {"pretrained_model_name_or_path": str(model.adapters[whole[-1]])} if whole else source(model)
        lm = transformers.AutoModelForCausalLM.from_pretrained(
            **place, use_safetensors=True, dtype=torch.float32 if adapters else dtype
        )
        for folder in adapters:
            lm = _merged(lm, folder)
        if device.type == "cpu":
            usual = _threads()
            torch.set_num_threads(1 if lm.num_parameters() < TINY else usual)
        return lm.to(device=device, dtype=dtype).eval().requires_grad_(False)


def dtype_of(model: Model) -> Any:
    """The dtype that the recipe says or else the checkpoint's config, float32 if neither does."""
    import torch
    from transformers import AutoConfig

    if model.dtype != "auto":
        return getattr(torch, model.dtype)
    config = AutoConfig.from_pretrained(**source(model))
    named = getattr(config, "dtype", None) or torch.float32
    return getattr(torch, named) if isinstance(named, str) else named


def _merged(lm: Any, folder: Path) -> Any:
    """`lm` with one LoRA folder merged into its weights."""
    from peft import PeftModel

    if not (folder / ADAPTER_WEIGHTS).is_file():
        found = ", ".join(sorted(os.listdir(folder))) if folder.is_dir() else "no such folder"
        raise ModelError(f"adapter {folder.name}: {ADAPTER_WEIGHTS} is what is loaded, and it is not there ({found})")
    return PeftModel.from_pretrained(lm, str(folder)).merge_and_unload()


def context_length(lm: Any) -> int:
    """How many tokens the model can attend to; a very large number where its config does not say."""
    return int(getattr(lm.config.get_text_config(), "max_position_embeddings", None) or 1 << 40)


def end_ids(lm: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a text: the generation config's, the config's and the tokeniser's, where it is given."""
    of_tokenizer = getattr(tokenizer, "eos_token_id", None)
    named = (lm.generation_config.eos_token_id, lm.config.get_text_config().eos_token_id, of_tokenizer)
    flat = [i for value in named if value is not None for i in (value if isinstance(value, list) else [value])]
    return frozenset(flat)
