"""The shared repo of a running plan: what it holds is fetched, what is finished goes there.

A push comes after its stage is finished and kept, and nothing that goes wrong with it stops a run: it is told, and
remembered until it is made (by the next run, or by `ssd push`), so that a death between commit and tag is mended too.
Once the Hub could not be reached or said no, nothing more is sent in that run. A trial (`--limit`) is not published.
What the plan promised and cannot be fetched does stop the run: the work would have to be paid for again, and that is
for the user to say. This file does not know how an artifact is sent.
"""

from __future__ import annotations

import time

from ssd_pipeline.errors import HubError, RunError, StoreError
from ssd_pipeline.events import Listen, finished_event
from ssd_pipeline.planner import Plan
from ssd_pipeline.records import Paid
from ssd_pipeline.stage import EffectStage
from ssd_pipeline.store.local import Artifact

OWED = "pushes"  # runs/<recipe>/pushes.json: address -> the name under which it is published


class Sharing:
    """Fetches and pushes of one run; for a plan with a shared repo."""

    def __init__(self, plan: Plan, listen: Listen) -> None:
        if plan.resolver.shared is None:
            raise ValueError("the plan shares nothing")
        self.plan, self.listen, self.shared = plan, listen, plan.resolver.shared
        self._owed = plan.store.remembered(plan.resolver.recipe, OWED)
        self._trial = plan.choice.limit is not None
        self._stopped = self.shared.problem  # why no push is tried any more

    def settle(self) -> None:
        """Make the pushes that earlier runs could not."""
        for address, name in dict(self._owed).items():
            if isinstance(self.plan.store.find(address), Artifact):
                self._push(address, name)

    def fetch(self, name: str) -> None:
        """Put an artifact of the shared repo into the store. Raises RunError, with the way on."""
        began, stage = time.monotonic(), self.plan.stages[name]
        if stage.remote is None:
            raise ValueError(f"{name} is not in the shared repo")
        try:
            self.shared.fetch(stage.remote, self.plan.store)
        except (HubError, StoreError) as cause:
            raise RunError(f"{name}: {cause}; to make it here instead, run with --no-hub-cache") from cause
        self.plan.refresh()
        self.plan.resolver.remember(name, self.plan.stages[name])
        self.listen(finished_event(self.plan, name, began, computed=0, paid=Paid()))

    def owe(self, name: str) -> None:
        """Remember, before it is made, that an artifact is to be published."""
        address = self.plan.stages[name].address
        if address and not self._trial:
            self._remember({**self._owed, address: name})

    def push(self, name: str) -> None:
        """Publish what a stage has made."""
        address = self.plan.stages[name].address
        if address in self._owed and not self._trial:
            self._push(address, name)

    def push_all(self) -> int:
        """Publish every artifact of the recipe that is here; how many there are. Raises RunError when some are not."""
        problems, pushed = [], 0
        for name, stage in self.plan.stages.items():
            if stage.found is None or isinstance(self.plan.document.stages[name].kind, EffectStage):
                continue
            if problem := self._push(stage.found.address, name):
                problems.append(problem)
            pushed += 1
        if problems:
            raise RunError(f"{len(problems)} of {pushed} artifacts were not published: {problems[0]}")
        return pushed

    def close(self) -> None:
        """Say what is still to be published."""
        if self._owed and not self._trial:
            what = f"{len(self._owed)} finished artifacts are not in {self.shared.repo} yet"
            why = f" ({self._stopped})" if self._stopped else ""
            self._note(next(iter(self._owed.values())), f"{what}{why}: the next run or `ssd push` brings them there")

    def _push(self, address: str, name: str) -> str | None:
        """Publish one artifact; why it could not be, in words."""
        found = self.plan.store.find(address)
        if self._stopped is None and isinstance(found, Artifact):
            try:
                self.shared.push(self.plan.store, found, name)
            except RunError as cause:
                if (
                    isinstance(cause, HubError) and cause.__cause__
                ):  # it was the Hub that said no, and not this artifact
                    self._stopped = str(cause)
                self._note(name, f"not published: {cause}")
                return str(cause)
            self._remember({a: n for a, n in self._owed.items() if a != address})
        return self._stopped

    def _remember(self, owed: dict[str, str]) -> None:
        if owed != self._owed:
            self._owed = owed
            self.plan.store.remember(self.plan.resolver.recipe, OWED, owed)

    def _note(self, name: str, text: str) -> None:
        self.listen({"event": "progress", "stage": name, "done": 0, "total": None, "note": text})
