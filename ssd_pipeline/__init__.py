"""Gen-SSD distillation (arXiv 2604.02819) as recipes: `plan` a recipe, `run` the plan, `load` what was published.

    import ssd_pipeline

    planned = ssd_pipeline.plan("recipes/quickstart.yaml")
    stages = ssd_pipeline.run(planned)
    rows = ssd_pipeline.load("owner/repo", "verified", version="v1")

Nothing else is public. Importing this imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

    from ssd_pipeline.planner import Plan
    from ssd_pipeline.resolver import Planned

__all__ = ["load", "plan", "run"]


def plan(
    path: str | Path,
    *,
    sets: str | Sequence[str] = (),
    only: str | Sequence[str] = (),
    start: str | Sequence[str] = (),
    force: str | Sequence[str] = (),
    limit: int | None = None,
    refresh: bool = False,
    hub_cache: bool = True,
) -> Plan:
    """Read a recipe and look every stage up. Arguments as the options of `ssd-run` (`start` is `--from`, and
    `hub_cache=False` is `--no-hub-cache`).

    Raises ssd_pipeline.errors.UserErrors with all mistakes at once.
    """
    from ssd_pipeline import planner
    from ssd_pipeline.stages import KINDS

    choice = planner.Choice(_names(only), _names(start), _names(force), limit, refresh, hub_cache)
    return planner.plan(path, KINDS, sets=_names(sets), choice=choice)


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def run(plan: Plan, listen: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Planned]:
    """Run a plan and return its stages as they stand then; `listen` gets every event as a dict.

    Raises RunError when it failed while running, Interrupted when it was stopped; the same call goes on.
    """
    from ssd_pipeline import runner

    return runner.run(plan, listen or (lambda event: None))


def load(repo: str, output: str | None = None, *, version: str | None = None) -> Dataset:
    """One output of a published version (a tag or a commit) as a `datasets.Dataset`, every byte verified.

    Raises UserErrors naming the versions or outputs that there are, HubError when the Hub refuses.
    """
    from ssd_pipeline import published

    dataset: Dataset = published.load(repo, output, version=version)
    return dataset
