"""Walks a plan and makes what is missing, one stage after the other, telling what happens as events.

A stage that is a hit is only told, one that is in the shared repo is fetched, and of the others the needed ones run:
those that were selected, and whatever above them is missing. After each stage the rest of the plan is looked up again,
since a changed stage may well have given the same content as before. Events are plain dicts (see `--json`); this file
prints nothing, does not know who listens, and leaves to building.py how a stage is built.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ssd_pipeline.errors import RunError, UserErrors
from ssd_pipeline.events import Listen, finished_event
from ssd_pipeline.planner import Plan
from ssd_pipeline.records import Paid
from ssd_pipeline.resolver import Planned, fingerprint
from ssd_pipeline.sharing import Sharing


def run(plan: Plan, listen: Listen = lambda event: None) -> dict[str, Planned]:
    """Run a plan; the planned stages as they stand afterwards.

    Raises RunError, UserErrors, Interrupted or KeyboardInterrupt; whatever was finished is kept, and the same call goes
    on.
    """
    asked: list[str] = []

    def told(event: dict[str, Any]) -> None:
        if asked:  # a library's callback may have swallowed the interrupt
            raise KeyboardInterrupt(asked[0])
        listen(event)

    try:
        with _ended_like_ctrl_c(asked):
            return _run(plan, told)
    except UserErrors as late:
        raise RunError(f"{late}; what was finished is kept") from late


def _run(plan: Plan, listen: Listen) -> dict[str, Planned]:
    began = time.monotonic()
    plan.store.sweep()
    plan.resolver.owe()
    sharing = Sharing(plan, listen) if plan.resolver.shared else None
    if sharing:
        sharing.settle()
    for name in plan.order:
        if name not in needed(plan):
            continue
        stage = plan.stages[name]
        if stage.status == "hit":
            plan.store.settle(fingerprint(stage), str(stage.key))
            plan.resolver.remember(name, stage)
            listen(finished_event(plan, name, time.monotonic(), computed=0, paid=Paid()))
            continue
        from ssd_pipeline.building import StageRun  # only where something runs: a cached run stays light

        listen({"event": "stage_started", "stage": name, "kind": stage.kind})
        if stage.remote and sharing:
            sharing.fetch(name)
            continue
        if sharing:
            sharing.owe(name)
        StageRun(plan, name, listen).run()
        plan.refresh()
        if sharing:
            sharing.push(name)
    plan.resolver.settle()
    if sharing:
        sharing.close()
    listen({"event": "run_finished", "seconds": round(time.monotonic() - began, 3)})
    return plan.stages


@contextmanager
def _ended_like_ctrl_c(asked: list[str]) -> Iterator[None]:
    """While a plan runs, being asked to end is the same as Ctrl-C, where nobody has said otherwise (nohup does).

    What was said goes into `asked` too.
    """
    usual = (signal.SIG_DFL, signal.default_int_handler)
    in_main = threading.current_thread() is threading.main_thread()
    signs = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ours = {sign: signal.getsignal(sign) for sign in signs if in_main and signal.getsignal(sign) in usual}

    def stop(number: int, frame: Any) -> None:
        name = signal.Signals(number).name
        asked.append(f"stopped by {name}: what is finished is kept, run the same command to go on")
        raise KeyboardInterrupt(asked[0])

    for sign in ours:
        signal.signal(sign, stop)
    try:
        yield
    finally:
        for sign, before in ours.items():
            signal.signal(sign, before)


def needed(plan: Plan) -> set[str]:
    """The selected stages, and above those that are made anew whatever is not here. A stage of which only the content
    is known is made for one of these, or when it was chosen by name."""
    found: set[str] = set()

    def visit(name: str) -> None:
        if name in found:
            return
        found.add(name)
        if plan.stages[name].status not in ("hit", "remote"):
            for above in plan.dependencies(name):
                if plan.stages[above].status != "hit":
                    visit(above)

    named = {*plan.choice.only, *plan.choice.start, *plan.choice.force}
    for name in plan.selected:
        if name in named or not plan.stages[name].known:
            visit(name)
    return found
