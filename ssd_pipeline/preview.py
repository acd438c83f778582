"""The first rows and prompts of a plan, looked at before it runs.

Rows are those of the store where a stage is made; problems that are not loaded yet are loaded here, a few of them, into
memory. Of everything else it is said what is missing. This file stores nothing and does not know who will answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ssd_pipeline import models
from ssd_pipeline.contexts import Inputs, StageWork
from ssd_pipeline.errors import RunError, SsdError, boundary
from ssd_pipeline.graph import sampled_models
from ssd_pipeline.planner import Plan
from ssd_pipeline.records import Row
from ssd_pipeline.stage import WholeStage

ROWS = 20  # of problems that are loaded to look at them


@dataclass(frozen=True)
class Prompted:
    """The first prompt of a model, exact text; or None and what is missing."""

    model: str
    stage: str
    prompt: str | None
    missing: str = ""


def first_prompts(plan: Plan) -> Iterator[Prompted]:
    """What each model that is sampled is asked first, by the first stage that samples it."""
    seen: set[str] = set()
    for stage in plan.order:
        for model in (m for m in sampled_models(plan.document.stages[stage]) if m not in seen):
            seen.add(model)
            try:
                with boundary(RunError, "it cannot be rendered"):
                    prompts = models.open_prompts(Inputs(plan).model(model, adapters=False))
                    yield Prompted(model, stage, prompts.render(first_problem(plan, stage)))
            except SsdError as missing:
                yield Prompted(model, stage, None, str(missing))


def first_problem(plan: Plan, stage: str) -> str:
    """The first statement that a stage reads. Raises RunError when its inputs are neither made nor can be loaded."""
    definition = plan.document.stages[stage]
    for name in definition.inputs:
        for row in first_rows(plan, name, definition.where):
            if row.get("error") is None and row.get("problem"):
                return str(row["problem"])
    raise RunError(f"{stage} finds no problem to ask among the first rows of {', '.join(definition.inputs)}")


def first_rows(plan: Plan, name: str, where: dict[str, tuple[Any, ...]] | None = None) -> list[Row]:
    """The first rows of a stage that another one reads with `where`, at most ROWS.

    Raises RunError for a stage that is not made and does not load problems, and what loading raises.
    """
    if plan.stages[name].found is not None:
        return list(islice(Inputs(plan).open(name, where).rows(), ROWS))
    rows = _loaded(plan, name)
    return [row for row in rows if all(row.get(key) in allowed for key, allowed in (where or {}).items())]


def _loaded(plan: Plan, name: str) -> list[Row]:
    definition = plan.document.stages[name]
    kind, rows = definition.kind, list[Row]()
    if not isinstance(kind, WholeStage) or not kind.loads:
        raise RunError(f"{name} is not made yet")

    def keep(schema: Any, given: Any) -> dict[str, int]:
        rows.extend(islice(given, ROWS))
        return {"rows": len(rows)}

    nowhere = Path()
    work = StageWork(
        Inputs(plan), definition, definition.seed or 0, 0, (), nowhere, nowhere, keep, lambda done, total: None
    )
    kind.run(definition.params, work)
    return rows
