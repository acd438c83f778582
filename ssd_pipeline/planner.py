"""Document + stage kinds + what was chosen -> a plan: stages in order, each as it stands.

The same look-up is made again while running, after each stage, with what is there by then. This file does not know how
a stage is looked up (resolver.py) or run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssd_pipeline import recipe
from ssd_pipeline.errors import user_error
from ssd_pipeline.graph import dependencies, ordered, price_of
from ssd_pipeline.names import selects, stage_of
from ssd_pipeline.recipe import Document
from ssd_pipeline.resolver import Planned, Resolver
from ssd_pipeline.stage import EffectStage, Stage, WholeStage
from ssd_pipeline.store.local import Store


@dataclass(frozen=True)
class Choice:
    """What the command line chose: see the options of `ssd-run`."""

    only: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    force: tuple[str, ...] = ()
    limit: int | None = None
    refresh: bool = False
    hub_cache: bool = True


@dataclass
class Plan:
    """A recipe, resolved against a store. `stages` in the order in which they run; `selected` are looked at."""

    document: Document
    store: Store
    choice: Choice
    resolver: Resolver
    order: list[str]
    selected: set[str]
    stages: dict[str, Planned]

    def refresh(self) -> None:
        """Look everything up again, with what exists by now."""
        self.stages = self.resolver.resolve_all(self.order)

    def dependencies(self, name: str) -> list[str]:
        return dependencies(self.document, name)


def plan(
    path: str | Path,
    kinds: Mapping[str, Stage],
    *,
    sets: Sequence[str] = (),
    choice: Choice | None = None,
    store: Store | None = None,
) -> Plan:
    """Read a recipe and look every stage up. Raises UserErrors with all mistakes at once."""
    planned = unresolved(path, kinds, sets=sets, choice=choice, store=store)
    planned.refresh()
    return planned


def unresolved(
    path: str | Path,
    kinds: Mapping[str, Stage],
    *,
    sets: Sequence[str] = (),
    choice: Choice | None = None,
    store: Store | None = None,
) -> Plan:
    """A plan in which nothing was looked up yet, neither here nor on the Hub. Raises UserErrors as `plan`."""
    choice, store = choice or Choice(), store or Store.default()
    document = limited(recipe.load(path, kinds, sets=sets), choice.limit)
    choice = dataclasses.replace(
        choice,
        only=named(document, "--only", choice.only),
        start=named(document, "--from", choice.start),
        force=named(document, "--force", choice.force),
    )
    order = ordered(document)
    for name in set(choice.force) - select(document, order, choice):
        raise user_error(f"{name} is not among the stages that are chosen", key="--force")
    resolver = Resolver(document, store, frozenset(choice.force), refresh=choice.refresh, hub_cache=choice.hub_cache)
    stages = {n: Planned(n, document.stages[n].kind.kind, "waits", None, "not looked up") for n in order}
    return Plan(document, store, choice, resolver, order, select(document, order, choice), stages)


def named(document: Document, option: str, names: Iterable[str]) -> tuple[str, ...]:
    """The stages that names on the command line mean: of a sweep all instances with the labels that are said.

    Raises UserErrors for a name that means none.
    """
    found: dict[str, None] = {}
    for name in names:
        meant = [stage for stage in document.stages if selects(name, stage)]
        if not meant:
            import difflib

            whole = dict.fromkeys(map(stage_of, document.stages))
            near = difflib.get_close_matches(name, [*whole, *document.stages], 1)
            hint = f"did you mean {near[0]}?" if near else f"stages are: {', '.join(whole)}"
            raise user_error(f"no stage is called {name}; {hint}", key=option)
        found |= dict.fromkeys(meant)
    return tuple(found)


def select(document: Document, order: Sequence[str], choice: Choice) -> set[str]:
    """The stages that the user asked for: all, or `--only` ones, or `--from` ones with what is built on them."""
    chosen = set(choice.only)
    for name in choice.start:
        chosen |= _below(document, order, name)
    if not choice.only and not choice.start:
        chosen = set(order)
    if choice.limit is not None:
        chosen -= {n for n in order if isinstance(document.stages[n].kind, EffectStage)}
    return chosen


def _below(document: Document, order: Sequence[str], name: str) -> set[str]:
    found = {name}
    for other in order:
        if found & set(dependencies(document, other)):
            found.add(other)
    return found


def limited(document: Document, limit: int | None) -> Document:
    """`--limit N`: every stage that loads problems to learn from gives at most N of them; evaluations keep theirs."""
    if limit is None:
        return document
    if limit < 1:
        raise user_error(f"{limit} is not a number of rows; at least 1", key="--limit")
    stages = dict(document.stages)
    for name, definition in stages.items():
        if not isinstance(definition.kind, WholeStage) or not definition.kind.loads:
            continue
        users = [n for n in stages if name in dependencies(document, n)]
        if not users or any(stages[n].kind.kind != "evaluate" for n in users):
            had = definition.params.limit
            params = definition.params.model_copy(update={"limit": min(limit, had) if had else limit})
            stages[name] = dataclasses.replace(definition, params=params)
    return dataclasses.replace(document, stages=stages)


def most_cost(plan: Plan, name: str) -> float | None:
    """An upper bound of what the tokens cost that a stage has still to sample, prompts left out; None if unknown."""
    stage, price = plan.stages[name], price_of(plan.document, plan.document.stages[name])
    return price.of(stage.most_tokens) if price and stage.most_tokens is not None else None
