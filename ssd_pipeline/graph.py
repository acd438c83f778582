"""How the stages of a recipe hang together: what each uses, in which order they run, which models they ask.

Read off the document alone: an input, a `{stage: x}` value and the adapters of a model are all edges. This file does
not know what exists already.
"""

from __future__ import annotations

import hashlib

from ssd_pipeline.recipe import Document, StageDef
from ssd_pipeline.stage import EffectStage, ModelMark, Price, RowStage, marked


def dependencies(document: Document, name: str) -> list[str]:
    """The stages whose output a stage uses: inputs, `{stage: x}` values, adapters of its models."""
    definition = document.stages[name]
    found = list(definition.inputs)
    for _, mark, value in marked(definition.params):
        if mark is None:
            found.append(value.stage)
        elif isinstance(mark, ModelMark):
            found += model_stages(document, value)
    return list(dict.fromkeys(found))


def model_stages(document: Document, name: str) -> list[str]:
    """The stages that train the adapters of a model, the lowest first."""
    definition = document.models[name]
    below = model_stages(document, definition.base) if definition.base else []
    return [*below, definition.adapter.stage] if definition.adapter and definition.adapter.stage else below


def ordered(document: Document) -> list[str]:
    """All stages, dependencies first, otherwise in the order of the file; effects last, so that none holds up work."""
    done: dict[str, None] = {}

    def visit(name: str) -> None:
        if name not in done:
            for above in dependencies(document, name):
                visit(above)
            done[name] = None

    for name in sorted(document.stages, key=lambda n: isinstance(document.stages[n].kind, EffectStage)):
        visit(name)
    return list(done)


def sampled_models(definition: StageDef) -> list[str]:
    """The models that a row stage asks for text."""
    if not isinstance(definition.kind, RowStage):
        return []
    named = [(mark, value) for _, mark, value in marked(definition.params) if isinstance(mark, ModelMark)]
    return list(dict.fromkeys(value for mark, value in named if not mark.scores and not mark.trains))


def price_of(document: Document, definition: StageDef) -> Price | None:
    """What the tokens that a stage samples cost; None where nobody has said."""
    prices = [document.models[name].runtime.price for name in sampled_models(definition)]
    return next((price for price in prices if price), None)


def recipe_id(document: Document) -> str:
    """The name of a recipe's folder under runs/: two recipes with one name do not share it."""
    return f"{document.name}-{hashlib.sha256(str(document.path.resolve()).encode()).hexdigest()[:8]}"
