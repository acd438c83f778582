"""What the fault tests share: an endpoint, a room in memory, a printed seed. `--long` runs the numbers of the nightly.

A draw's seed is printed with the command that repeats it; pytest shows it when the test fails.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import asking, trials
from hypothesis import Phase, settings

MEMORY = Path("/dev/shm")

# For the mutants: that a test is red is all that is asked, not for which smallest example.
settings.register_profile("unshrunk", phases=[Phase.explicit, Phase.reuse, Phase.generate])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the nightly numbers of the fault tests")


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long", default=False))


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[asking.Endpoint]:
    with asking.endpoint() as running:
        # A first run in this process imports all that the forked children would otherwise import, each for itself.
        trials.Bench(tmp_path_factory.mktemp("imports") / "bench", running, asking.RECORDED).here()
        yield running


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """A folder; in memory where there is such a place, since thousands of fsyncs prove nothing here but patience."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(dir=MEMORY, prefix="faults-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def golden(endpoint: asking.Endpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The digests of undisturbed runs, by the text of the recipe."""
    folder = tmp_path_factory.mktemp("golden")
    return {
        text: trials.golden(trials.Bench(folder / f"golden{i}", endpoint, text))
        for i, text in enumerate((asking.RECIPE, asking.RECORDED))
    }


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> random.Random:
    seed = int(os.environ.get("FAULTS_SEED", random.randrange(2**32)))
    print(f"repeat with: FAULTS_SEED={seed} pytest {request.node.nodeid!r}")
    return random.Random(seed)
