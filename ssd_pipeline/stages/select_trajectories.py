"""select_trajectories: of all solutions of a problem keep one, afterwards, by the criteria that `sample_branches` uses.

Post-hoc best-of-N for solutions that exist already. Rows of one problem are those with one uuid; they need not stand
together, and the kept one keeps its place. `where` says among which rows is chosen. Memory is bounded but for a few
numbers a row. This file does not know who wrote or scored.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import Field

from ssd_pipeline.criteria import CRITERIA, Candidate, Select
from ssd_pipeline.errors import RunError
from ssd_pipeline.stage import Params, StageContext, Summary, WholeStage
from ssd_pipeline.store import artifact


class SelectParams(Params):
    """Which solution of a problem is kept."""

    criterion: Literal["perplexity", "highest", "random", "first", "longest", "shortest"] = Field(
        "perplexity", description="what solutions are compared by: the column `perplexity`, its opposite, or a control"
    )


def run(params: SelectParams, ctx: StageContext) -> Summary:
    """Write the chosen rows with all their columns. Raises RunError when there are none."""
    (source,) = ctx.inputs
    criterion, select = CRITERIA[params.criterion], Select()
    best: dict[str, tuple[float, int]] = {}
    place = -1
    for place, row in enumerate(source.rows(["uuid", "solution", "perplexity", "scored_tokens"])):
        draw = int.from_bytes(hashlib.sha256(f"select {row['uuid']} {row['solution']}".encode()).digest()[:6]) / 2**48
        candidate = Candidate(place, row["scored_tokens"] or 0, draw)
        measured = row["perplexity"] if criterion.needs else criterion.value(candidate, select)
        value = criterion.order(None if row["solution"] is None else measured)
        if row["uuid"] not in best or value < best[row["uuid"]][0]:
            best[row["uuid"]] = (value, place)
    if not best:
        raise RunError(f"{source.name} gives no rows to choose from")
    kept = {place for _, place in best.values()}
    chosen = (row for place, row in enumerate(source.rows()) if place in kept)
    written = ctx.write_rows(artifact.read_schema(source.directory.parent), chosen)
    return {"rows": written, "of": place + 1}


STAGE = WholeStage(
    kind="select_trajectories",
    version=1,
    params=SelectParams,
    run=run,
    gives="rows",
    reads=lambda params: ("uuid", "solution", "perplexity", "scored_tokens"),
)
