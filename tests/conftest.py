"""Fixtures that many tests share. Models are made once per session and setting, never downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.bench import Bench
from fakes.shipped import Quickstart


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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For `pytest -n`: a file stays on one worker, and so do all tests of the shipped quickstart: it is made once."""
    for item in items:
        made = "quickstart" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("quickstart" if made else item.path.name))
