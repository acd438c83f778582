"""As much of trackio as the trainer uses: writes what it is told into `trackio.jsonl`, and prints as the real one does.

Its folder is put on the path of a process that shall find it. What is used in another way fails.
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace

nothing = SimpleNamespace(get=lambda: None)
context_vars = SimpleNamespace(current_space_id=nothing, current_run=nothing)


class Config(dict):
    def update(self, given: dict, *, allow_val_change: bool) -> None:
        assert allow_val_change


config = Config()


def _write(**said: object) -> None:
    with (Path(os.environ["HOME"]) / "trackio.jsonl").open("a") as file:
        file.write(json.dumps(said) + "\n")


def init(*, project: str, name: str, space_id: None, resume: str, private: None, bucket_id: None) -> None:
    assert (space_id, resume, private, bucket_id) == (None, "allow", None, None)
    _write(project=project, name=name)
    print(f"* Trackio project initialized: {project}")


def log(told: dict) -> None:
    _write(step=told["train/global_step"], loss=told.get("train/loss"))


def finish() -> None:
    print("* Run finished. Uploading logs to Trackio (please wait...)")
