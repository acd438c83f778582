"""Loading a model: where from, which dtype and device, and adapters merged into it."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fakes import tiny
from fakes.adapters import adapter
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ssd_pipeline import models
from ssd_pipeline.errors import EndpointError, ModelError
from ssd_pipeline.models.loading import end_ids, load_causal_lm, load_tokenizer, pick_device
from ssd_pipeline.stage import Model, ModelRuntime

CPU = torch.device("cpu")


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("asked", ["auto", "float32", "bfloat16"])
def test_the_dtype_is_the_recipes_or_the_checkpoints(stored: str, asked: str, tmp_path: Path) -> None:
    folder = tiny.make(tmp_path / "m", dtype=stored)
    lm = load_causal_lm(Model("m", path=folder, dtype=asked), CPU)
    assert {p.dtype for p in lm.parameters()} == {getattr(torch, stored if asked == "auto" else asked)}
    assert not lm.training
    assert not any(p.requires_grad for p in lm.parameters())


def logits(lm: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return lm(torch.tensor([[5, 6, 7, 8]])).logits.float()


def test_adapters_are_merged_lowest_first_in_float32(tmp_path: Path) -> None:
    base = tiny.make(tmp_path / "base", dtype="bfloat16")
    low = adapter(base, tmp_path / "low", 1)
    plain = load_causal_lm(Model("m", path=base, dtype="float32"), CPU)
    merged_low = load_causal_lm(Model("m", path=base, dtype="float32", adapters=(low,)), CPU)
    merged_low.save_pretrained(tmp_path / "merged_low")
    high = adapter(tmp_path / "merged_low", tmp_path / "high", 2)
    stacked = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "merged_low", dtype=torch.float32), high
    )
    both = load_causal_lm(Model("m", path=base, dtype="float32", adapters=(low, high)), CPU)
    assert torch.allclose(logits(both), logits(stacked.eval()), atol=1e-4)
    assert not torch.allclose(logits(both), logits(merged_low), atol=0.1)
    assert not torch.allclose(logits(merged_low), logits(plain), atol=0.1)
    auto = load_causal_lm(Model("m", path=base, adapters=(low, high)), CPU)
    assert auto.dtype is torch.bfloat16
    for one, other in zip(auto.parameters(), both.parameters(), strict=True):
        assert torch.equal(one, other.to(torch.bfloat16))


def test_only_safetensors_are_loaded(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    base = tiny_model()
    folder = adapter(base, tmp_path / "a", 1)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors"):
        load_causal_lm(Model("m", path=base, adapters=(folder,)), CPU)
    with pytest.raises(ModelError, match="no such folder"):
        load_causal_lm(Model("m", path=base, adapters=(tmp_path / "none",)), CPU)
    pickled = tiny.make(tmp_path / "pickled")
    torch.save(AutoModelForCausalLM.from_pretrained(pickled).state_dict(), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        load_causal_lm(Model("m", path=pickled), CPU)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no folder"):
        load_tokenizer(Model("m", path=tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="loading model m"):
        load_causal_lm(Model("m", path=tmp_path / "empty"), CPU)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == CPU
    for name in ("cuda", "cuda:1", "mps"):
        with pytest.raises(ModelError, match="device: auto"):
            pick_device(name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device("cuda") == torch.device("cuda")
    with pytest.raises(ModelError, match="sees 1 GPUs"):
        pick_device("cuda:1")


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_a_missing_library_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[..., Path]
) -> None:
    folder, real = tiny_model(), builtins.__import__

    def absent(name: str, *rest: object, **more: object) -> object:
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "ssd_pipeline.models.scorer", raising=False)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ModelError, match="pip install"):
        models.open_scorer(Model("m", path=folder))
    with pytest.raises(ModelError, match=r'pip install "ssd-pipeline\[local\]"'):
        load_causal_lm(Model("m", path=folder), CPU)


def test_every_end_token_counts(tiny_model: Callable[..., Path]) -> None:
    model = Model("m", path=tiny_model())
    lm, tokenizer = load_causal_lm(model, CPU), load_tokenizer(model)
    lm.generation_config.eos_token_id = [7, 8]
    lm.config.eos_token_id = None
    assert end_ids(lm, tokenizer) == {7, 8, tokenizer.eos_token_id}


def test_the_recipe_picks_who_answers(tiny_model: Callable[..., Path]) -> None:
    from ssd_pipeline.models.completions import Completions
    from ssd_pipeline.models.remote import RemoteSampler
    from ssd_pipeline.models.scorer import TransformersScorer
    from ssd_pipeline.models.tgi import Tgi
    from ssd_pipeline.models.transformers_sampler import TransformersSampler

    def model(**runtime: object) -> Model:
        return Model("m", path=tiny_model(), runtime=ModelRuntime(device="cpu", **runtime))

    urls = {"endpoints": ("http://127.0.0.1:1",)}
    assert isinstance(models.open_sampler(model()), TransformersSampler)
    for api, wire in (("tgi", Tgi), ("completions", Completions)):
        opened = models.open_sampler(model(api=api, **urls))
        assert isinstance(opened, RemoteSampler)
        assert isinstance(opened._wire, wire)
    assert isinstance(models.open_scorer(model()), TransformersScorer)
    assert models.open_prompts(model()).render("q") == "<|user|>q<|assistant|>"
    with pytest.raises(EndpointError):
        models.open_sampler(model(api="tgi"))
