"""One small training that several tests run: two dozen rows, a dozen updates, dropout on so that every draw counts."""

from __future__ import annotations

from pathlib import Path

from ssd_pipeline.models.trainer import Settings
from ssd_pipeline.models.training_rows import Example
from ssd_pipeline.stage import Model, ModelRuntime

EXAMPLES = [
    Example(f"<|user|>What is {i}+{i + 1}?<|assistant|>", f"{i}+{i + 1}={2 * i + 1}.\nAnswer: {2 * i + 1}", True)
    for i in range(24)
]
SETTINGS = Settings(
    rank=4,
    alpha=8,
    dropout=0.1,
    target_modules="all-linear",
    epochs=3,
    max_steps=None,
    learning_rate=1e-2,
    floor=0.1,
    warmup=0.1,
    batch_size=6,
    accumulate=1,
    max_length=128,
    too_long="drop",
    weight_decay=0.0,
    clip=1.0,
    precision="float32",
    seed=5,
)


def model(folder: Path, **more: object) -> Model:
    return Model(**{"name": "tiny", "path": folder, "runtime": ModelRuntime(device="cpu"), **more})
