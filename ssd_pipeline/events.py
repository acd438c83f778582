"""What a run tells while it goes on: plain dicts, one for each thing that happens (see `--json`).

This file does not know who listens, nor how a stage is built.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ssd_pipeline.planner import Plan
from ssd_pipeline.records import Paid, Spend

Listen = Callable[[dict[str, Any]], None]


def finished_event(plan: Plan, name: str, began: float, *, computed: int, paid: Paid) -> dict[str, Any]:
    """`stage_finished` for a stage whose artifact is there."""
    found = plan.stages[name].found
    record = found.record if found else {}
    rows = record.get("rows")
    return {
        "event": "stage_finished",
        "stage": name,
        "kind": plan.stages[name].kind,
        "address": found.address if found else None,
        "digest": record.get("digest"),
        "rows": rows,
        "computed": computed,
        "reused": max(0, (rows or 0) - computed),
        "fates": record.get("fates", {}),
        "errors": record.get("errors", {}),
        "spend": record.get("spend", asdict(Spend())),
        "paid": asdict(paid),
        "summary": record.get("summary", {}),
        "served": record.get("served") or {},
        "seconds": round(time.monotonic() - began, 3),
    }
