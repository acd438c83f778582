"""A node and a parameter class -> an instance, or mistakes in plain words at the right place.

pydantic decides what is right: its strict JSON mode takes a list for a tuple and an int for a float, and refuses text
for a number. Here its errors are found again in the tree and said in words. Of a union's branches only the one that
was meant is heard. Then come a class's own rules (`mistakes()`), paths (made absolute, must exist) and repo ids.
This file does not know recipes, models or stages; it never shows a value that an environment variable gave.
"""

from __future__ import annotations

import json
import os
import re
import types
import typing
from collections.abc import Collection, Iterator
from typing import Any, TypeVar

from pydantic import ValidationError

from ssd_pipeline.positions import Key, Node, Report, nearest, resolve, shown
from ssd_pipeline.stage import FileMark, HubMark, Params, marked

P = TypeVar("P", bound=Params)
_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "missing": "",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "must be at least {}"),
    "greater_than": ("gt", "must be above {}"),
    "less_than_equal": ("le", "must be at most {}"),
    "less_than": ("lt", "must be below {}"),
    "too_short": ("min_length", "must have at least {} entries"),
    "too_long": ("max_length", "may have at most {} entries"),
    "string_too_short": ("min_length", "must have at least {} characters"),
    "string_too_long": ("max_length", "may have at most {} characters"),
}


def read(cls: type[P], node: Node, key: Key, report: Report, *, also: Collection[str] = ()) -> P | None:
    """The instance that `node` describes, or None and mistakes in `report`.

    `also`: keys that belong beside those of `cls` and are read elsewhere. FileMark paths come out absolute.
    """
    if not isinstance(node.value, dict):
        report.add(node.at, key, f"a mapping is wanted, {_got(node, 'a mapping')}")
        return None
    before = report.told
    own = Node({k: v for k, v in node.value.items() if k not in also}, node.at, node.folder, node.key_at)
    params = _validate(cls, own.plain(), own, key, report, also)
    for path, child in own.walk():
        if child.doubtful:
            told = f"YAML readers disagree on what {shown(child.written)} is: put it in quotes"
            report.add(child.at, (*key, *path), told)
    if params is None:
        return None
    for path, message in _own_rules(params):
        report.add(node.place(path), (*key, *path), message)
    data = own.plain()
    for path, mark, value in marked(params):
        if isinstance(mark, HubMark) and (problem := _repo_problem(value, node.find(path)[0].written)):
            report.add(node.place(path), (*key, *path), problem)
        if isinstance(mark, FileMark) and own.find(path)[1]:
            _absolute(data, path, own, key, report)
    return _validate(cls, data, own, key, report, also) if report.told == before else None


def _repo_problem(repo: str, written: str) -> str | None:
    """What is wrong with a Hub repo id: the Hub wants owner/name, 96 characters at most, no `--` or `..`."""
    part = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
    good = re.fullmatch(f"{part}/{part}", repo) and "--" not in repo and ".." not in repo
    if good and len(repo) <= 96 and not repo.endswith(".git"):
        return None
    return f"`{shown(written)}` is not a Hub repo; write owner/name (letters, digits, `-_.`; at most 96 characters)"


def _validate(cls: type[P], data: Any, node: Node, key: Key, report: Report, also: Collection[str]) -> P | None:
    try:
        return cls.model_validate_json(json.dumps(data))
    except ValidationError as error:
        found = _meant([_Found(cls, node, dict(e)) for e in error.errors(include_url=False, include_input=False)])
        unknown = {(f.path[:-1], f.proposal(())) for f in found if f.type == "extra_forbidden"}
        for one in found:
            if one.type == "missing" and (one.path[:-1], f"Did you mean `{one.path[-1]}`?") in unknown:
                continue  # it is there, but misspelt
            report.add(one.position(), (*key, *one.path), one.message(also))
        return None


def _own_rules(params: Params) -> Iterator[tuple[Key, str]]:
    """The mistakes of parameters and of all parameters below them."""
    yield from params.mistakes()
    for name in type(params).model_fields:
        for path, inner in _below(getattr(params, name), (name,)):
            yield from (((*path, *rest), message) for rest, message in _own_rules(inner))


def _below(value: Any, path: Key) -> Iterator[tuple[Key, Params]]:
    if isinstance(value, Params):
        yield path, value
    elif isinstance(value, (tuple, list)):
        for i, inner in enumerate(value):
            yield from _below(inner, (*path, i))
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _below(inner, (*path, name))


def _absolute(data: Any, path: Key, node: Node, key: Key, report: Report) -> None:
    child, _ = node.find(path)
    for part in path[:-1]:
        data = data[part]
    data[path[-1]] = absolute = os.path.abspath(child.folder / child.value)
    if not child.value or not os.path.exists(absolute):
        where = f"looked for from the folder of the file that says it, {shown(child.folder, 200)}"
        report.add(child.at, (*key, *path), f"there is no file or directory {shown(child.value, 200)} ({where})")


class _Found:
    """One error of pydantic, found again in the tree: `path` in it, and the union branch (`label`) it comes from."""

    def __init__(self, cls: type[Params], node: Node, error: dict[str, Any]) -> None:
        self.type, self.ctx, self.text = error["type"], error.get("ctx", {}), error["msg"]
        self.node = node
        self.path: Key = ()
        self.union: Key = ()
        self.label: str | None = None
        self.siblings: list[str] = []
        loc: tuple[str | int, ...] = error["loc"]
        annotations: list[Any] = [cls]
        for i, part in enumerate(loc):
            there = node.find((*self.path, part))[1] or (self.type == "missing" and i == len(loc) - 1)
            if part != "[key]" and not there:
                if self.label is None:
                    self.union, self.label = self.path, str(part)
                annotations = [a for a in _open(annotations) if getattr(a, "__name__", "") == part] or annotations
            elif part != "[key]":
                self.siblings = _fields(annotations)
                annotations = list(_inner(annotations, part))
                self.path = (*self.path, part)

    @property
    def here(self) -> Node:
        return self.node.find(self.path)[0]

    @property
    def of_union(self) -> bool:
        """The branch is wrong as a whole: it wants another type."""
        return self.path == self.union and self.type in _WANTED

    def position(self) -> Any:
        key_at = self.here.key_at if self.type == "extra_forbidden" else None
        return key_at or self.node.place(self.path)

    def proposal(self, also: Collection[str]) -> str:
        return nearest(self.path[-1], [*self.siblings, *(also if len(self.path) == 1 else ())])

    def message(self, also: Collection[str]) -> str:
        node = self.here
        if self.type == "extra_forbidden":
            return f"unknown key. {self.proposal(also)}"
        if self.type == "missing":
            return "is missing"
        if self.type in _WANTED or self.type == "union":
            wanted = self.text if self.type == "union" else _WANTED[self.type]
            return f"{wanted} is wanted, {_got(node, wanted)}"
        if self.type in _BOUNDS:
            name, words = _BOUNDS[self.type]
            return words.format(format(self.ctx[name], ".15g")) + (
                f", not {shown(node.written)}" if node.written else ""
            )
        if self.type in ("literal_error", "enum"):
            choices = re.findall(r"'([^']*)'", self.ctx["expected"]) or [self.ctx["expected"]]
            match = nearest(node.written, choices, "")
            hint = f" {match}" if match.startswith("Did") else ""
            return f"must be one of {', '.join(choices)}, not {_name(node)}.{hint}"
        if self.type == "finite_number":
            return "must be a finite number"
        if self.type == "string_pattern_mismatch":
            return f"{_name(node)} does not fit the pattern {self.ctx['pattern']}"
        return self.text.removeprefix("Value error, ")


def _meant(found: list[_Found]) -> list[_Found]:
    """Of each union keep the errors of the branch that was meant: the right type first, then the fewest errors."""
    kept = [f for f in found if f.label is None]
    unions: dict[Key, dict[str, list[_Found]]] = {}
    for one in found:
        if one.label is not None:
            unions.setdefault(one.union, {}).setdefault(one.label, []).append(one)
    for branches in unions.values():
        best = min(branches.values(), key=lambda errors: (any(e.of_union for e in errors), len(errors)))
        if best[0].of_union and len(branches) > 1:
            wanted = dict.fromkeys(_WANTED[e.type] for errors in branches.values() for e in errors if e.of_union)
            best[0].type, best[0].text = "union", " or ".join(wanted)
        kept += best
    return kept


def _got(node: Node, wanted: str) -> str:
    """What stands there instead, and what to write if it is only the wrong kind of scalar."""
    value = node.value
    if value is None:
        return "not nothing"
    if isinstance(value, (dict, list)):
        return "not a mapping" if isinstance(value, dict) else "not a list"
    if wanted == "text":
        what = "true or false" if isinstance(value, bool) else "a number"
        return f"but YAML reads {shown(node.written)} as {what}: put it in quotes"
    if isinstance(value, str):
        bare = resolve(value)[0]
        meant = isinstance(bare, bool) if wanted == "true or false" else type(bare) in (int, float)
        if node.quoted and meant and wanted in ("true or false", "a number", "a whole number"):
            return f"not text: write {shown(node.written)} without quotes"
        return f"not the text {_name(node)}"
    return f"not {shown(node.written)}"


def _name(node: Node) -> str:
    return f"`{shown(node.written)}`" if node.written else "an empty text"


def _open(annotations: Collection[Any]) -> Iterator[Any]:
    """Annotations with marks and unions taken off."""
    for one in annotations:
        origin = typing.get_origin(one)
        if origin in (typing.Union, types.UnionType):
            yield from _open(typing.get_args(one))
        elif origin is typing.Annotated:
            yield from _open(typing.get_args(one)[:1])
        else:
            yield one


def _inner(annotations: Collection[Any], part: str | int) -> Iterator[Any]:
    """The annotations of what lies at `part` of values so annotated."""
    for one in _open(annotations):
        if isinstance(one, type) and issubclass(one, Params):
            yield from (info.annotation for name, info in one.model_fields.items() if part in (name, info.alias))
        elif typing.get_origin(one) is dict:
            yield typing.get_args(one)[1]
        else:
            yield from (a for a in typing.get_args(one) if a is not Ellipsis)


def _fields(annotations: Collection[Any]) -> list[str]:
    classes = [a for a in _open(annotations) if isinstance(a, type) and issubclass(a, Params)]
    return [info.alias or name for cls in classes for name, info in cls.model_fields.items()]
