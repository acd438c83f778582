"""The engine with counted toy kinds on a store of its own; see fakes/kinds.py."""

from pathlib import Path

from fakes.kinds import RECIPE, Kinds

from ssd_pipeline import planner, runner
from ssd_pipeline.store import artifact
from ssd_pipeline.store.local import Store


class Bench:
    """One store, one recipe file, one set of counted kinds."""

    def __init__(self, folder: Path) -> None:
        self.store, self.kinds, self.path = Store(folder / "store"), Kinds(), folder / "recipe.yaml"
        self.path.write_text(RECIPE)
        self.events: list[dict] = []

    def plan(self, *sets: str, **choice) -> planner.Plan:
        chosen = planner.Choice(**choice)
        return planner.plan(self.path, self.kinds.all(), sets=sets, choice=chosen, store=self.store)

    def run(self, *sets: str, **choice) -> dict[str, dict]:
        self.events = []
        runner.run(self.plan(*sets, **choice), self.events.append)
        return {e["stage"]: e for e in self.events if e["event"] == "stage_finished"}

    def rows(self, address: str) -> list[dict]:
        return list(artifact.read_rows(self.store.root / "artifacts" / address))
