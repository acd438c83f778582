"""What a stage is, as a hash: its kind, version, parameters, models and, where it draws at random, the seed.

Parameters that stand at their default are left out, so that a new parameter with a default changes nothing. What a
parameter names is replaced by what that thing is: a model by its weights and the way it is asked, a file by its
content, a Hub repo by its commit, an input by its place, a stage by the content it gave. Nothing here comes from
`runtime:`. This file does not know where artifacts are kept or what is missing: it asks, and `Waiting` is raised for
what does not exist yet.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ssd_pipeline.names import selects
from ssd_pipeline.recipe import Document, ModelDef, StageDef
from ssd_pipeline.stage import FileMark, HubMark, InputMark, ModelMark, Params, PromptFormat, Stage, marked
from ssd_pipeline.store.identity import canonical, digest_of, tree_digest


class Waiting(Exception):
    """The identity needs the output of a stage that is not there yet; `stage` names it."""

    def __init__(self, stage: str) -> None:
        super().__init__(stage)
        self.stage = stage


@dataclass
class Identities:
    """Identities of one document's stages and models.

    `content(stage)`: the content digest of a finished stage, or raises Waiting. `commit(type, repo, revision)`: the
    commit of a Hub revision.
    """

    document: Document
    content: Callable[[str], str]
    commit: Callable[[Any, str, str], str]

    def __post_init__(self) -> None:
        self._trees: dict[Path, str] = {}

    def stage(self, definition: StageDef, take: int = 0) -> dict[str, Any]:
        """The identity of a stage as plain data. Raises Waiting."""
        kind, params = definition.kind, definition.params
        said = params.model_dump(mode="json", exclude_defaults=True)
        for path, mark, value in marked(params):
            _put(said, path, self._stands_for(definition, path, mark, value))
            if isinstance(mark, HubMark):
                _drop(said, (*path[:-1], mark.revision))
        identity: dict[str, Any] = {"kind": kind.kind, "version": kind.version, "params": said}
        if definition.seed is not None:
            identity["seed"] = definition.seed
        if take:
            identity["take"] = take
        return identity

    def _stands_for(self, definition: StageDef, path: tuple[Any, ...], mark: Any, value: Any) -> Any:
        match mark:
            case ModelMark():
                return self.model(value)
            case FileMark():
                return {"content": self._tree(Path(value))}
            case HubMark():
                revision = sibling(definition.params, path, mark) or "main"
                return {"repo": value, "revision": self.commit(mark.repo_type, value, revision)}
            case InputMark():
                places = [i for i, name in enumerate(definition.inputs) if selects(value, name)]
                return definition.inputs.index(value) if value in definition.inputs else places
            case _:
                return {"content": self.content(value.stage)}

    def model(self, name: str) -> dict[str, Any]:
        """The identity of a model: weights, adapters and the way it is asked. Raises Waiting for a missing adapter."""
        definition = self.document.models[name]
        identity = self.weights(definition)
        default = PromptFormat()
        asked = {
            f.name: getattr(definition.format, f.name)
            for f in dataclasses.fields(PromptFormat)
            if getattr(definition.format, f.name) != getattr(default, f.name)
        }
        return {**identity, "format": asked} if asked else identity

    def weights(self, definition: ModelDef) -> dict[str, Any]:
        """The identity of what a model computes, however it is asked."""
        if definition.base:
            identity = dict(self.weights(self.document.models[definition.base]))
        elif definition.path:
            identity = {"content": self._tree(definition.path)}
        else:
            commit = self.commit("model", str(definition.repo), definition.revision or "main")
            identity = {"repo": definition.repo, "revision": commit}
        if definition.adapter:
            identity["adapters"] = [*identity.get("adapters", []), self._adapter(definition)]
        if definition.dtype != "auto":
            identity["dtype"] = definition.dtype
        if definition.trust_remote_code:
            identity["trust_remote_code"] = True
        return identity

    def _adapter(self, definition: ModelDef) -> dict[str, Any]:
        adapter = definition.adapter
        if adapter is None:
            raise ValueError("no adapter")
        if adapter.stage:
            return {"content": self.content(adapter.stage)}
        if adapter.path:
            return {"content": self._tree(adapter.path)}
        return {
            "repo": adapter.repo,
            "revision": self.commit("model", str(adapter.repo), adapter.revision or "main"),
        }

    def _tree(self, path: Path) -> str:
        if path not in self._trees:
            self._trees[path] = tree_digest(path)
        return self._trees[path]


def artifact_key(identity: dict[str, Any], inputs: Sequence[dict[str, Any]]) -> str:
    """H(stage identity, contents of its inputs with the `where` and weight under which they are read)."""
    return digest_of({"stage": identity, "inputs": list(inputs)})


def differences(old: Any, new: Any, defaults: Any = None, path: str = "") -> list[str]:
    """What differs between two identities, a line each: `branches 4 -> 2`.

    `defaults`: what stands for a key that an identity leaves out, as `defaults_of` gives it.
    """
    defaults = defaults if isinstance(defaults, dict) else {}
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in sorted(old.keys() | new.keys()):
            inner = key if path in ("", "params") else f"{path}.{key}"
            usual = defaults.get(key)
            lines += differences(old.get(key, usual), new.get(key, usual), usual, inner)
        return lines
    if old == new:
        return []
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True), 1)
        return [line for place, (was, now) in pairs for line in differences(was, now, None, f"{path} #{place}")]
    return [f"{path} {_short(old)} -> {_short(new)}"]


def defaults_of(kind: Stage) -> dict[str, Any]:
    """The defaults of a kind's parameters, in the shape of its identity."""
    fields = {name: info for name, info in kind.params.model_fields.items() if not info.is_required()}
    values = {name: info.get_default(call_default_factory=True) for name, info in fields.items()}
    said = {n: v.model_dump(mode="json") if isinstance(v, Params) else v for n, v in values.items()}
    return {"params": json.loads(canonical(said))}  # tuples as lists, as in a record


def left_at_default(params: type[Params], said: dict[str, Any]) -> dict[str, Any]:
    """The parameters that an identity leaves out because they stand at their default; `said`: those that it holds."""
    found: dict[str, Any] = {}
    for name, info in params.model_fields.items():
        if name not in said and not info.is_required():
            value = info.get_default(call_default_factory=True)
            found[name] = value.model_dump(mode="json") if isinstance(value, Params) else value
        elif isinstance(said.get(name), dict):
            inner = [t for t in (info.annotation, *get_args(info.annotation)) if _is_params(t)]
            below = left_at_default(inner[0], said[name]) if len(inner) == 1 else {}
            found |= {name: below} if below else {}
    return found


def _is_params(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Params)


def _short(value: Any) -> str:
    text = _said(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _said(value: Any) -> str:
    """Plain data in words: digests by their first digits, no brackets but around lists."""
    match value:
        case None:
            return "none"
        case dict():
            return ", ".join(f"{key} {_said(inner)}" for key, inner in value.items()) or "nothing"
        case list() | tuple():
            return f"[{'; '.join(map(_said, value))}]"
        case str():
            if re.fullmatch(r"[0-9a-f]{40,}", value):
                return value[:12]
            return value if value.isprintable() and value.strip() else json.dumps(value)
        case _:
            return json.dumps(value)


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def _drop(tree: dict[str, Any], path: tuple[str, ...]) -> None:
    for name in path[:-1]:
        tree = tree.get(name, {})
    tree.pop(path[-1], None)


def sibling(params: Any, path: tuple[str, ...], mark: HubMark) -> str | None:
    """The revision that stands beside a Hub repo parameter."""
    for part in path[:-1]:
        params = getattr(params, part)
    found: str | None = getattr(params, mark.revision, None)
    return found
