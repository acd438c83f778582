"""Fixtures that many tests share. Models are made once per session and setting, never downloaded."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.bench import Bench

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_model(arch="qwen3", ...)` gives the folder of a tiny random model, made at first use; see fakes/tiny.py."""
    from fakes import tiny

    made: dict[tuple, Path] = {}

    def get(**setting: object) -> Path:
        key = tuple(sorted(setting.items()))
        if key not in made:
            made[key] = tiny.make(tmp_path_factory.mktemp("tiny"), **setting)
        return made[key]

    return get


class Quickstart:
    """The shipped quickstart, made once for all tests, in a store of its own. `first`: how making it ended.

    Calls run from the project's root. Tests that damage the store must copy it.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self.first = self.call("ssd-run recipes/quickstart.yaml")

    def call(self, command: str, **more: str) -> subprocess.CompletedProcess:
        words = shlex.split(command)
        words[0] = str(Path(sys.executable).parent / words[0])
        environ = {**os.environ, "SSD_HOME": str(self.store), "COLUMNS": "120", "HF_HUB_OFFLINE": "1", **more}
        return subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)

    def events(self, command: str) -> list[dict]:
        """The events of a command that must succeed."""
        done = self.call(f"{command} --json")
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Quickstart:
    """See Quickstart."""
    made = Quickstart(tmp_path_factory.mktemp("quickstart"))
    assert made.first.returncode == 0, made.first.stderr
    return made


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """See fakes/bench.py."""
    return Bench(tmp_path)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with two problems and the smallest recipe; `fakes.command.call` runs commands in it."""
    (tmp_path / "problems.jsonl").write_text('{"problem": "1+1?", "answer": "2"}\n{"problem": "2+2?", "answer": "4"}\n')
    (tmp_path / "recipe.yaml").write_text("stages:\n  problems: {uses: load_problems, file: problems.jsonl}\n")
    return tmp_path
