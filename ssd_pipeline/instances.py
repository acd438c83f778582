"""A recipe read under several values -> one document, in which equal stages are one stage.

Stages and models of all readings are compared by definition, from the top, with the names of what they need already
replaced; so what a value does not touch is planned once, whichever way the value came in. Of a stage that differs,
every instance is named by the axes that make a difference: `adapter[seed=1]`. A kind that `gathers` is not multiplied
by what is above it: it receives all instances of its inputs, and is told which of them another one was made from. This
file does not know YAML, any kind, or what a seed does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ssd_pipeline.checks import edges
from ssd_pipeline.document import Document, ModelDef, StageDef
from ssd_pipeline.errors import Mistake, UserErrors
from ssd_pipeline.names import instance, selects, stage_of
from ssd_pipeline.positions import nearest
from ssd_pipeline.stage import EffectStage, InputMark, ModelMark, StageRef, marked, replaced
from ssd_pipeline.sweep import Labels

Rename = Callable[[str], str]
Thing = tuple[str, str]  # section and name


def united(readings: Sequence[tuple[Labels, Document]]) -> Document:
    """One document of all readings, which have been checked one by one.

    Raises UserErrors for an effect that would be made several times, and for a selector that selects nothing.
    """
    document = _Union(readings).document() if len(readings) > 1 else readings[0][1]
    if wrong := [mistake for stage in document.stages.values() for mistake in _mistakes(readings[0][1], stage)]:
        raise UserErrors(wrong)
    stages = {n: replace(s, made_from=_made_from(document, s)) if s.gathers else s for n, s in document.stages.items()}
    return replace(document, stages=stages)


class _Union:
    """Finds the instances of everything; while it does, they go by number: `adapter[0]`."""

    def __init__(self, readings: Sequence[tuple[Labels, Document]]) -> None:
        self._readings = readings
        self._made: dict[Thing, list[Any]] = {}
        self._number: dict[Thing, dict[int, int]] = {}  # reading -> instance

    def document(self) -> Document:
        both = ("models", "stages")
        things = dict.fromkeys((s, name) for s in both for _, d in self._readings for name in getattr(d, s))
        for section, name in things:
            for reading, (_, document) in enumerate(self._readings):
                if name in getattr(document, section):
                    self._numbered(section, name, reading)
        names: dict[str, dict[str, str]] = {section: {} for section in both}
        for section, name in things:
            names[section] |= {f"{name}[{i}]": final for i, final in enumerate(self._names((section, name)))}
        rename = names["models"].__getitem__, names["stages"].__getitem__
        found: dict[str, dict[str, Any]] = {section: {} for section in both}
        for section, name in things:
            for number, definition in enumerate(self._made[section, name]):
                final = names[section][f"{name}[{number}]"]
                found[section][final] = replace(_renamed(definition, *rename), name=final)
        return replace(self._readings[0][1], models=found["models"], stages=found["stages"])

    def _numbered(self, section: str, name: str, reading: int) -> str:
        """The instance of a stage or model in one reading, by number."""
        made, known = self._made.setdefault((section, name), []), self._number.setdefault((section, name), {})
        if reading not in known:
            said = getattr(self._readings[reading][1], section)[name]
            definition = _renamed(
                said,
                lambda n: self._numbered("models", n, reading),
                lambda n: self._numbered("stages", n, reading),
            )
            alike = [reading]
            if section == "stages" and said.gathers:
                alike = [i for i, (_, d) in enumerate(self._readings) if d.stages.get(name) == said]
                inputs = (self._numbered("stages", n, i) for n in said.inputs for i in alike)
                definition = replace(definition, inputs=tuple(dict.fromkeys(inputs)), weights=None)
            if definition not in made:
                made.append(definition)
            known |= dict.fromkeys(alike, made.index(definition))
        return f"{name}[{known[reading]}]"

    def _names(self, thing: Thing) -> list[str]:
        """Of each instance: its name, with the labels of the first reading that has it on the axes that matter."""
        number = self._number[thing]
        firsts = [self._readings[min(r for r in number if number[r] == i)][0] for i in range(len(self._made[thing]))]
        axes = dict.fromkeys(axis for labels, _ in self._readings for axis in labels)
        telling = [axis for axis in axes if self._tells(axis, number)]
        names = [instance(thing[1], {a: labels[a] for a in telling if a in labels}) for labels in firsts]
        return names if len(set(names)) == len(names) else [instance(thing[1], labels) for labels in firsts]

    def _tells(self, axis: str, number: dict[int, int]) -> bool:
        """Whether two readings that differ in this axis alone have different instances."""
        seen: dict[frozenset[tuple[str, str]], int] = {}
        for reading, found in number.items():
            others = frozenset((a, v) for a, v in self._readings[reading][0].items() if a != axis)
            if seen.setdefault(others, found) != found:
                return True
        return False


def _renamed(definition: Any, model: Rename, stage: Rename) -> Any:
    """A stage or model with everything that it names renamed, but for its own name."""
    if isinstance(definition, ModelDef):
        adapter = definition.adapter
        if adapter and adapter.stage:
            adapter = replace(adapter, stage=stage(adapter.stage))
        return replace(definition, base=model(definition.base) if definition.base else None, adapter=adapter)
    params = definition.params
    for path, mark, value in marked(params):
        if isinstance(mark, ModelMark):
            params = replaced(params, path, model(value))
        elif mark is None:
            params = replaced(params, path, StageRef(stage=stage(value.stage)))
        elif isinstance(mark, InputMark) and not definition.gathers:
            params = replaced(params, path, stage(value))
    return replace(definition, params=params, inputs=tuple(map(stage, definition.inputs)))


def _made_from(document: Document, stage: StageDef) -> tuple[tuple[int, ...], ...]:
    """For each input of a stage: the places of those other inputs that it was made from."""
    found = []
    for name in stage.inputs:
        needed, ahead = {name}, [name]
        while ahead:
            new = {above for above, _ in edges(document, document.stages[ahead.pop()])} - needed
            needed |= new
            ahead += new
        found.append(tuple(i for i, other in enumerate(stage.inputs) if other in needed and other != name))
    return tuple(found)


def _mistakes(document: Document, stage: StageDef) -> Iterator[Mistake]:
    name = stage_of(stage.name)
    if isinstance(stage.kind, EffectStage) and stage.name != name:
        message = "the sweep makes several of it, all for one place; give one of them away: --set sweep=null --set ..."
        yield document.mistake(("stages", name), message)
    for path, mark, value in marked(stage.params) if stage.gathers else ():
        if isinstance(mark, InputMark) and not any(selects(value, one) for one in stage.inputs):
            proposal = nearest(value, stage.inputs, "Instances", listed=True)
            yield document.mistake(("stages", name, *path), f"selects no input. {proposal}")
