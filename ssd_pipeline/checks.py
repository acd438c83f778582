"""Do the parts of a recipe fit together? References, circles, columns, names, and where models run.

Everything here could otherwise be found out only after tokens were spent. Each check looks at what could be read and
passes over what is known to be broken, so that one mistake gives one message. What cannot be known before a run (the
columns of a stage that declares none) is passed over too. This file does not know YAML, files, or any stage kind.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from ssd_pipeline.document import Document, ModelDef, StageDef
from ssd_pipeline.names import stage_of
from ssd_pipeline.positions import Key, Node, Report, nearest, shown
from ssd_pipeline.records import columns
from ssd_pipeline.stage import EffectStage, InputMark, ModelMark, Params, RowStage, WholeStage, marked

NAME = r"[A-Za-z][A-Za-z0-9_-]{0,63}"
_RESERVED = re.compile(r"(?i)con|prn|aux|nul|com[0-9]|lpt[0-9]")
_METADATA_HOSTS = {"metadata.google.internal", "metadata", "100.100.100.200", "fd00:ec2::254"}
Say = Callable[[Key, str], None]


def check(document: Document, broken: Mapping[str, StageDef], report: Report) -> None:
    """Report what does not fit together in `document`.

    Broken stages and models are left out of it; of `broken` stages only the references count, not the parameters.
    """

    def say(key: Key, message: str) -> None:
        report.add(document.position(*key), key, message)

    for section in ("models", "stages"):
        _names(section, document, report)
    stages, models = _declared(document, "stages"), _declared(document, "models")
    for model in document.models.values():
        _adapter(model, document, stages, say)
        _runs(model, document, say)
        _folders(model, say)
    for name, runtime in document.runtime.models.items():
        if name not in models:
            say(("runtime", "models", name), f"is not a model. {nearest(name, models, 'Models', listed=True)}")
        for i, url in enumerate(runtime.endpoints):
            if problem := _url_problem(url, bool(runtime.token)):
                say(("runtime", "models", name, "endpoints", i), problem)
    for stage in (*document.stages.values(), *broken.values()):
        _inputs(stage, document, stages, say)
        _references(stage, document, stages, models, say)
    for stage in document.stages.values():
        if isinstance(stage.kind, WholeStage) and stage.kind.check is not None:
            for path, message in stage.kind.check(stage.params):
                say(("stages", stage.name, *path), message)
    given = _given(document, _circles(document, say))
    for stage in document.stages.values():
        _columns(stage, given, say)


def _declared(document: Document, section: str) -> Collection[str]:
    """The names in a section, those of broken entries included."""
    return [str(name) for name, _ in _entries(document, section)]


def _entries(document: Document, section: str) -> Iterator[tuple[str | int, Node]]:
    node, found = document.tree.find((section,))
    return node.items() if found and isinstance(node.value, dict) else iter(())


def _names(section: str, document: Document, report: Report) -> None:
    folded: dict[str, str] = {}
    for part, child in _entries(document, section):
        name, at = str(part), child.key_at or child.at
        if not re.fullmatch(NAME, name):
            rule = "a name begins with a letter and holds letters, digits, `-` and `_`, 64 at most"
            report.add(at, (section, name), f"`{shown(name)}` is no name: {rule}")
        elif _RESERVED.fullmatch(name):
            report.add(at, (section, name), "Windows keeps this name for a device")
        elif name.lower() in folded:
            report.add(at, (section, name), f"differs from `{folded[name.lower()]}` only in upper and lower case")
        folded.setdefault(name.lower(), name)


# ------------------------------------------------------------------------------------------------- models


PLAIN = {str: "text", int: "whole numbers", float: "numbers", bool: "true and false"}


def _adapter(model: ModelDef, document: Document, stages: Collection[str], say: Say) -> None:
    if model.adapter is None or model.adapter.stage is None:
        return
    key: Key = ("models", model.name, "adapter", "stage")
    name = model.adapter.stage
    if name not in stages:
        say(key, f"`{shown(name)}` is not a stage. {nearest(name, stages, 'Stages', listed=True)}")
    elif name in document.stages and document.stages[name].kind.gives != "adapter":
        kind = document.stages[name].kind
        say(key, f"an adapter is wanted, but `{name}` ({kind.kind}) gives {kind.gives}")
    elif name in document.stages:
        params = document.stages[name].params
        trained = [v for _, mark, v in marked(params) if isinstance(mark, ModelMark) and mark.trains]
        if trained and model.base not in trained and trained[0] in document.models:
            told = f"the adapter of `{name}` was trained on `{trained[0]}`, not on `{model.base}`"
            say(("models", model.name, "base"), f"{told}; write base: {trained[0]}")


def _folders(model: ModelDef, say: Say) -> None:
    """A local model or adapter is the folder of one."""
    if model.path is not None and not (model.path / "config.json").is_file():
        say(("models", model.name, "path"), "is not the folder of a model: it has no config.json")
    adapter = model.adapter.path if model.adapter else None
    if adapter is not None and not (adapter / "adapter_model.safetensors").is_file():
        key: Key = ("models", model.name, "adapter", "path")
        say(key, "is not the folder of an adapter: it has no adapter_model.safetensors")


def _runs(model: ModelDef, document: Document, say: Say) -> None:
    """An endpoint needs an address, a local model has none, and nobody gives an adapter to an endpoint."""
    own = model.name in document.runtime.models
    key: Key = ("runtime", "models", model.name)
    api, endpoints = model.runtime.api, model.runtime.endpoints
    if own and api != "transformers" and not endpoints:
        say(key, f"api {api} needs `endpoints`, the URLs of the servers")
    if own and api == "transformers" and endpoints:
        say((*key, "endpoints"), "api transformers runs here and has no endpoints; write api: tgi or completions")
    if not own and api != "transformers" and model.adapter:
        told = f"its base runs behind {api}, which serves it without the adapter"
        say(("models", model.name, "adapter"), f"{told}; say in runtime.models.{model.name} where it runs")


def _url_problem(url: str, token: bool) -> str | None:
    """Why an endpoint URL cannot be used. The URL is not repeated: it may come from the environment."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("http", "https") or not host:
        return "is not an http:// or https:// URL"
    if "@" in parts.netloc or parts.query or parts.fragment:
        return "holds more than an address; a password or key belongs in `token: ${NAME}`"
    address = _address(host)
    if host.lower().rstrip(".") in _METADATA_HOSTS or (address and (address.is_link_local or address.is_multicast)):
        return "is an address of cloud metadata, not of a model"
    if token and parts.scheme == "http" and host != "localhost" and not (address and address.is_loopback):
        return "a token is sent only over https"
    return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a host spells out, in any of the ways that the system's resolver reads (also 0xa9fea9fe)."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError:
            return None
    return getattr(address, "ipv4_mapped", None) or address


# ------------------------------------------------------------------------------------- inputs and references


def _inputs(stage: StageDef, document: Document, stages: Collection[str], say: Say) -> None:
    key: Key = ("stages", stage.name, "input")
    count, (least, most) = len(stage.inputs), (1, None) if isinstance(stage.kind, RowStage) else stage.kind.inputs
    if count < least:
        say(key, f"is missing: {stage.kind.kind} reads {'a stage' if least == 1 else f'{least} stages'}")
    elif most is not None and count > most:
        say(key, f"{stage.kind.kind} reads {'no stage' if most == 0 else f'{most} at most'}, not {count}")
    given = document.tree.find(key)[0].value
    for i, name in enumerate(stage.inputs):
        place = (*key, i) if isinstance(given, list) else key
        if name not in stages:
            say(place, f"`{shown(name)}` is not a stage. {nearest(name, stages, 'Stages', listed=True)}")
        elif name in stage.inputs[:i]:
            say(place, f"`{name}` stands here twice")
        elif name in document.stages:
            gives = document.stages[name].kind.gives
            if gives == "nothing" or (gives != "rows" and not isinstance(stage.kind, EffectStage)):
                say(place, f"rows are wanted, but `{name}` ({document.stages[name].kind.kind}) gives {gives}")
    if stage.weights is not None and (not isinstance(given, list) or len(stage.weights) != count):
        say((*key[:2], "weights"), f"one weight for each of a list of inputs is wanted: {count}")
    if stage.keep_errors and not isinstance(stage.kind, RowStage):
        say((*key[:2], "keep_errors"), f"{stage.kind.kind} is not computed row by row")


def _references(
    stage: StageDef, document: Document, stages: Collection[str], models: Collection[str], say: Say
) -> None:
    for path, mark, value in marked(stage.params):
        key = ("stages", stage.name, *path)
        if isinstance(mark, ModelMark):
            _model(key, mark, value, document, models, say)
        elif isinstance(mark, InputMark) and (stage_of(value) if stage.gathers else value) not in stage.inputs:
            say(key, f"`{shown(value)}` is not an input. {nearest(value, stage.inputs, 'Inputs', listed=True)}")
        elif mark is None and value.stage not in stages:
            proposal = nearest(value.stage, stages, "Stages", listed=True)
            say((*key, "stage"), f"`{shown(value.stage)}` is not a stage. {proposal}")
        elif mark is None and value.stage in document.stages:
            kind = document.stages[value.stage].kind
            if kind.gives == "nothing":
                say((*key, "stage"), f"`{value.stage}` ({kind.kind}) gives nothing")


def _model(key: Key, mark: ModelMark, name: str, document: Document, models: Collection[str], say: Say) -> None:
    if name not in models:
        say(key, f"`{shown(name)}` is not a model. {nearest(name, models, 'Models', listed=True)}")
    elif name in document.models and (mark.scores or mark.trains):
        api = document.models[name].runtime.api
        if api != "transformers":
            why = "log-probabilities of given text" if mark.scores else "weights that can be trained"
            say(key, f"`{name}` runs behind {api}, which does not give {why}; it must run here (api: transformers)")


# ------------------------------------------------------------------------------------------------ circles


def edges(document: Document, stage: StageDef) -> Iterator[tuple[str, Key]]:
    """The stages that `stage` needs, each with the key that says so: inputs, references, adapters of its models."""
    key: Key = ("stages", stage.name)
    yield from ((name, (*key, "input")) for name in stage.inputs)
    for path, mark, value in marked(stage.params):
        if mark is None:
            yield value.stage, (*key, *path)
        elif isinstance(mark, ModelMark):
            model = document.models.get(value)
            while model is not None:
                if model.adapter and model.adapter.stage:
                    yield model.adapter.stage, (*key, *path)
                model = document.models.get(model.base or "")


def _circles(document: Document, say: Say) -> list[str]:
    """Say each circle once. Depth first, in file order and without recursion; returns the stages, needed ones first."""
    below = {name: dict(reversed(list(edges(document, stage)))) for name, stage in document.stages.items()}
    done: dict[str, None] = {}
    for start in below:
        trail, ahead = [start], [iter(below[start] if start not in done else ())]
        while trail:
            name = next(ahead[-1], None)
            if name is None:
                done.setdefault(trail.pop())
                ahead.pop()
            elif name in trail:
                circle = [*trail[trail.index(name) :], name]
                say(below[trail[-1]][name], f"the stages need each other in a circle: {' -> '.join(circle)}")
            elif name in below and name not in done:
                trail.append(name)
                ahead.append(iter(below[name]))
    return list(done)


# ------------------------------------------------------------------------------------------------ columns


def _given(document: Document, order: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """The columns that the rows of each stage have, with their types, where that is known before a run."""
    given: dict[str, Mapping[str, Any]] = {}
    for name in order:
        stage = document.stages[name]
        if stage.kind.gives != "rows" or stage.kind.adds is None:
            continue
        own = {c.name: c.type for c in columns(stage.kind.adds) if c.table is None}
        if isinstance(stage.kind, WholeStage):
            given[name] = own
        elif stage.inputs and all(i in given for i in stage.inputs):
            first, *others = (given[i] for i in stage.inputs)
            given[name] = {c: t for c, t in first.items() if all(c in other for other in others)} | own
    return given


def _columns(stage: StageDef, given: Mapping[str, Mapping[str, Any]], say: Say) -> None:
    """What a stage reads and filters by must be in each of its inputs."""
    optional = () if isinstance(stage.kind, EffectStage) else stage.kind.optional(stage.params)
    named = {v: mark.columns for _, mark, v in marked(stage.params) if isinstance(mark, InputMark) and mark.columns}
    for name in (i for i in stage.inputs if i in given):
        have = given[name]
        reads = named.get(name) or stage.kind.reads(stage.params)
        lacking = [f"`{c}`" for c in reads if c not in have and c not in optional]
        if lacking:
            message = f"`{name}` gives no {', '.join(lacking)}, which {stage.kind.kind} reads"
            say(("stages", stage.name, "input"), f"{message}; it has {', '.join(sorted(have))}")
        for column, values in stage.where.items():
            key: Key = ("stages", stage.name, "where", column)
            if column in have:
                _values(key, values, have[column], say)
            else:
                say(key, f"`{name}` gives no such column. {nearest(column, have, 'It has', listed=True)}")
    for path, mark, value in marked(stage.params):
        wanted = wanted_column(stage.params, path) if mark is None else None
        if wanted and value.stage in given and wanted not in given[value.stage]:
            others = ", ".join(sorted(given[value.stage]))
            say(("stages", stage.name, *path, "stage"), f"`{value.stage}` gives no `{wanted}`; it has {others}")
    if stage.where and not stage.inputs:
        say(("stages", stage.name, "where"), "there is no input whose rows could be chosen from")


def wanted_column(params: Params, path: tuple[str, ...]) -> str | None:
    """The column that the stage named at `path` must give, if the parameter says so."""
    for name in path[:-1]:
        params = getattr(params, name)
    extra = type(params).model_fields[path[-1]].json_schema_extra
    return str(extra["column"]) if isinstance(extra, dict) and "column" in extra else None


def _values(key: Key, values: tuple[Any, ...], hint: Any, say: Say) -> None:
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    for one in typing.get_args(hint) if union else (hint,):
        if one in (str, int, float, bool):
            for i, value in enumerate(values):
                if value is not None and type(value) is not one and not (one is float and type(value) is int):
                    say((*key, i), f"`{shown(str(value))}` does not occur here: the column holds {PLAIN[one]}")
        if isinstance(one, type) and issubclass(one, StrEnum):
            for i, value in enumerate(values):
                if value is not None and value not in list(one):
                    proposal = nearest(value, list(one), "It is one of", listed=True)
                    say((*key, i), f"`{shown(value)}` does not occur here. {proposal}")
