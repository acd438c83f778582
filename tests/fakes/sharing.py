"""People who share a repo on a loopback Hub: each has a store of their own, and the toy stages of fakes/kinds.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fakes.hub import FakeHub
from fakes.kinds import Kinds

from ssd_pipeline import planner, runner
from ssd_pipeline.stage import Params, WholeStage
from ssd_pipeline.store import artifact
from ssd_pipeline.store.local import Store

REPO = "me/cache"
RECIPE = """\
# a comment with a place: /home/somebody
name: numbers
stages:
  numbers: {uses: load_numbers, limit: 5}
  twice: {uses: double, input: numbers}
  total: {uses: sum_numbers, input: twice}
  weights: {uses: fit, input: twice}
runtime:
  hub: {repo: me/cache}
"""


class Person:
    """Somebody with a store, a recipe, and counted executions. `events` are those of the last run."""

    def __init__(self, folder: Path, text: str = RECIPE) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.store, self.kinds, self.fitted = folder, Store(folder / "store"), Kinds(), 0
        self.path, self.events = folder / "recipe.yaml", []
        self.path.write_text(text)

    def all(self) -> dict:
        return {**self.kinds.all(), "fit": WholeStage("fit", 1, Params, self.fit, "adapter")}

    def fit(self, params: Any, ctx: Any) -> dict:
        import numpy
        from safetensors.numpy import save_file

        self.fitted += 1
        total = sum(r["doubled"] or 0 for i in ctx.inputs for r in i.rows(["doubled"]))
        save_file({"w": numpy.array([float(total)])}, ctx.out / "adapter_model.safetensors")
        (ctx.out / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
        return {"total": total}

    def plan(self, *sets: str, **choice: Any) -> planner.Plan:
        chosen = planner.Choice(**choice)
        return planner.plan(self.path, self.all(), sets=sets, choice=chosen, store=Store(self.store.root))

    def run(self, *sets: str, **choice: Any) -> dict[str, dict]:
        self.events = []
        runner.run(self.plan(*sets, **choice), self.events.append)
        return {e["stage"]: e for e in self.events if e["event"] == "stage_finished"}

    def statuses(self, *sets: str, **choice: Any) -> dict[str, str]:
        return {name: stage.status for name, stage in self.plan(*sets, **choice).stages.items()}

    def notes(self) -> list[str]:
        return [e["note"] for e in self.events if e.get("note")]

    def executions(self) -> int:
        return self.kinds.loaded + self.kinds.doubled.total() + self.kinds.summed + self.fitted

    def rows(self, address: str) -> list[dict]:
        return list(artifact.read_rows(self.store.root / "artifacts" / address))

    def owed(self) -> dict[str, str]:
        (folder,) = (self.store.root / "runs").glob("numbers-*")
        return self.store.remembered(folder.name, "pushes")


def tags(hub: FakeHub, kind: str = "dataset", repo: str = REPO) -> dict[str, str]:
    return hub.repos[kind, repo].tags if (kind, repo) in hub.repos else {}


def replaced(hub: FakeHub, address: str, change: dict[str, bytes | None], kind: str = "dataset") -> None:
    """Somebody else puts other files under a tag that exists (None takes a file away)."""
    from fakes.hub_repos import Blob, is_lfs

    repo = hub.repos[kind, REPO]
    files = dict(repo.find(address).files)
    for path, data in change.items():
        files.pop(path)
        if data is not None:
            files[path] = Blob(data, is_lfs(path, len(data)))
    repo.tags[address] = repo.commit(files, "tampered")
