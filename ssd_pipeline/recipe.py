"""A recipe -> a Document: models with what they inherit, stages with typed parameters, and every mistake at once.

Nothing stops at the first mistake: each section is read as far as it goes, what is broken is left out of the document
but stays known by name, so that one mistake gives one message. Only when there is none is the document handed out.
This file does not know any stage kind (they come in as an argument), the store, or the Hub.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ssd_pipeline.checks import NAME, check
from ssd_pipeline.document import (
    SECTIONS,
    AdapterDef,
    Document,
    HeadKeys,
    ModelDef,
    ModelKeys,
    Runtime,
    StageDef,
    StageKeys,
)
from ssd_pipeline.errors import UserErrors
from ssd_pipeline.instances import united
from ssd_pipeline.positions import Node, Report, nearest, shown
from ssd_pipeline.sources import gather
from ssd_pipeline.stage import ModelRuntime, Params, PromptFormat, Stage, draws
from ssd_pipeline.sweep import runs
from ssd_pipeline.typed import read

__all__ = ["AdapterDef", "Document", "ModelDef", "Runtime", "StageDef", "load"]


def load(
    path: str | Path, kinds: Mapping[str, Stage], *, sets: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> Document:
    """Read a recipe with all it extends and its overrides (`sets`: KEY=VALUE texts), typed and checked.

    `environ` stands for the environment (default: this process's) and is used under `runtime` alone.

    Raises UserErrors with all mistakes, each with file:line:column, or "--set #1" for the first override.
    """
    report = Report()
    try:
        source = gather(Path(path), sets, os.environ if environ is None else environ, report)
    except UserErrors as errors:
        raise UserErrors([*report.found.values(), *errors.mistakes]) from None
    combinations = runs(source.tree, report)
    readings = [(labels, _read(Path(path), tree, source.texts, kinds, report)) for labels, tree in combinations]
    report.raise_any()
    return united(readings)


def _read(path: Path, tree: Node, texts: dict[str, str], kinds: Mapping[str, Stage], report: Report) -> Document:
    """The document of a tree in which nothing is swept any more."""
    head = read(HeadKeys, tree, (), report, also=SECTIONS)
    stages, broken = _stages(tree, kinds, head.seed if head else 0, report)
    runtime = _runtime(tree, report)
    document = Document(
        path=path,
        name=_name(head, path, tree, report) if head else "",
        seed=head.seed if head else 0,
        models=_models(tree, head.prompt if head else "", runtime, report),
        stages=stages,
        runtime=runtime,
        texts=texts,
        tree=tree,
    )
    check(document, broken, report)
    return document


def section(tree: Node, name: str, report: Report) -> dict[str, Node]:
    """The entries of a section, none if it is absent."""
    node = tree.value.get(name)
    if node is None or node.value is None:
        return {}
    if not isinstance(node.value, dict):
        report.add(node.at, (name,), "a mapping of names is wanted")
        return {}
    return node.value


def _name(head: HeadKeys, path: Path, tree: Node, report: Report) -> str:
    name = path.stem if head.name is None else head.name
    if not re.fullmatch(NAME, name):
        report.add(tree.place(("name",)), ("name",), f"`{shown(name)}` is no name; letters, digits, `-` and `_` are")
    return name


def _runtime(tree: Node, report: Report) -> Runtime:
    node = tree.value.get("runtime")
    if node is None or node.value is None:
        return Runtime()
    for key, child in node.walk(("runtime",)):
        literal = child.value is not None and not child.written.startswith("${")
        if key[-1] == "token" and literal and child.written.strip("x"):  # x: it looked like one, and was reported
            report.add(child.at, key, "a token is not written in a recipe; write ${NAME} and set it in the environment")
    return read(Runtime, node, ("runtime",), report) or Runtime()


# ------------------------------------------------------------------------------------------------- models


def _models(tree: Node, prompt: str, runtime: Runtime, report: Report) -> dict[str, ModelDef]:
    nodes = section(tree, "models", report)
    read_in = {name: read(ModelKeys, node, ("models", name), report) for name, node in nodes.items()}
    known = {name: keys for name, keys in read_in.items() if keys is not None}
    made: dict[str, ModelDef] = {}
    for name in known:
        chain = _chain(name, known, nodes, tree, report)
        for above in reversed(chain):
            if above not in made:
                base = made.get(known[above].base or "")
                made[above] = _model(above, known[above], base, prompt, runtime)
    return {name: made[name] for name in known if name in made}


def _chain(name: str, known: dict[str, ModelKeys], every: Mapping[str, Node], tree: Node, report: Report) -> list[str]:
    """A model and its bases, the lowest last; empty, and a mistake, where the bases lead nowhere."""
    chain = [name]
    while base := known[chain[-1]].base:
        key = ("models", chain[-1], "base")
        if base not in every:
            message = f"`{shown(base)}` is not a model. {nearest(base, every, 'Models', listed=True)}"
            report.add(tree.place(key), key, message)
            return []
        if base in chain:
            circle = " -> ".join(shown(n) for n in [*chain[chain.index(base) :], base])
            if base == min(chain[chain.index(base) :]):  # said once, not by every model in it
                report.add(tree.place(key), key, f"models are based on each other in a circle: {circle}")
            return []
        if base not in known:
            return []
        chain.append(base)
    return chain


def _model(name: str, keys: ModelKeys, base: ModelDef | None, prompt: str, runtime: Runtime) -> ModelDef:
    above = base.format if base else PromptFormat(prompt=prompt)
    said = {k: getattr(keys, k) for k in ("prompt", "system", "template", "think", "reasoning")}
    shape = PromptFormat(**{k: getattr(above, k) if v is None else v for k, v in said.items()})
    adapter = keys.adapter
    trust = keys.trust_remote_code
    return ModelDef(
        name=name,
        repo=keys.repo,
        revision=keys.revision,
        path=Path(keys.path) if keys.path else None,
        base=keys.base,
        adapter=AdapterDef(adapter.stage, adapter.repo, adapter.revision, Path(adapter.path) if adapter.path else None)
        if adapter
        else None,
        dtype=keys.dtype or (base.dtype if base else "auto"),
        format=shape,
        trust_remote_code=trust if trust is not None else base is not None and base.trust_remote_code,
        runtime=runtime.models.get(name) or (base.runtime if base else ModelRuntime()),
    )


# ------------------------------------------------------------------------------------------------- stages


def _stages(
    tree: Node, kinds: Mapping[str, Stage], seed: int, report: Report
) -> tuple[dict[str, StageDef], dict[str, StageDef]]:
    """The stages, and those with broken parameters, whose references can still be checked."""
    nodes = section(tree, "stages", report)
    if not nodes and not report.found:
        report.add(tree.place(("stages",)), ("stages",), "has no stages")
    good: dict[str, StageDef] = {}
    broken: dict[str, StageDef] = {}
    for name, node in nodes.items():
        before = report.told
        if (stage := _stage(name, node, kinds, seed, report)) is not None:
            (good if report.told == before else broken)[name] = stage
    return good, broken


def _stage(name: str, node: Node, kinds: Mapping[str, Stage], seed: int, report: Report) -> StageDef | None:
    key = ("stages", name)
    if not isinstance(node.value, dict):
        report.add(node.key_at or node.at, key, "a mapping is wanted: `uses:` and the stage's parameters")
        return None
    common = {k: v for k, v in node.value.items() if k in StageKeys.model_fields}
    keys = read(StageKeys, Node(common, node.at, node.folder, node.key_at), key, report)
    uses = common["uses"].value if "uses" in common else None
    if not isinstance(uses, str):
        return None  # its parameters cannot be told from mistakes
    if uses not in kinds:
        proposal = nearest(uses, kinds, "Kinds", listed=True)
        report.add(common["uses"].at, (*key, "uses"), f"`{shown(uses)}` is no kind of stage. {proposal}")
        return None
    kind = kinds[uses]
    params = read(kind.params, node, key, report, also=tuple(StageKeys.model_fields)) or _texts(kind, node)
    if keys is None:
        return None
    inputs = (keys.input,) if isinstance(keys.input, str) else keys.input
    drawn = seed if draws(kind, params) else None
    return StageDef(name, kind, params, inputs, keys.weights, keys.where, keys.keep_errors, drawn)


def _texts(kind: Stage, node: Node) -> Params:
    """Of broken parameters the texts alone: enough to see whether the models and inputs that they name exist."""
    fields = {name: node.find((name,)) for name in kind.params.model_fields}
    said = {name: n.value if found and isinstance(n.value, str) else None for name, (n, found) in fields.items()}
    return kind.params.model_construct(**said)
