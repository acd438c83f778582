"""Recipe files and command line -> one tree: `extends`, `--set`, `${ENV}`, and no secrets.

The tree is merged before anything is typed, so that every value, wherever it comes from, is checked in the same way
and is reported where it was written. Text that looks like a token is refused and blotted out before it is parsed: no
later message can echo it. Relative paths belong to the file that says them; those in `--set` to the directory where
the command was typed. This file does not know what the keys of a recipe mean, except `extends` and `runtime`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ssd_pipeline.errors import Position, UserErrors, user_error
from ssd_pipeline.positions import LIMIT_BYTES, Key, Node, Report, compose, decode, nearest, resolve, shown

LIMIT_CHAIN = 16
_SECRET = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:hf|api_org)_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}"
    r"|github_pat_\w{16,}|AKIA[0-9A-Z]{16})"
    r"|(?<=://)[^\s/@\"'{}]+@|[?&](?:api_?key|key|token|access_token)=[^\s&\"'{}]+"
)
_NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}$]*))?\}")
_NAMED = re.compile(r"\$\{+[A-Za-z_]")


@dataclass(frozen=True)
class Source:
    """What was read: the merged tree, and each text as it was read, by a name that holds no place of this machine."""

    tree: Node
    texts: dict[str, str]


def gather(path: Path, sets: Sequence[str], environ: Mapping[str, str], report: Report) -> Source:
    """Read a recipe with all it extends and its overrides. Raises UserErrors where nothing more can be read."""
    texts: dict[str, str] = {}
    tree = _read(path, path, texts, report, ())
    if not isinstance(tree.value, dict):
        if tree.value is None:
            raise user_error("has no stages", position=tree.at)
        raise user_error("a mapping is expected: `stages:` and what belongs to it", position=tree.at)
    given: dict[Key, tuple[Node, int]] = {}
    for number, text in enumerate(sets, 1):
        texts[f"--set #{number}"] = text
        tree = _override(tree, text, number, given, report)
    return Source(_environment(tree, environ, report), texts)


def _read(path: Path, root: Path, texts: dict[str, str], report: Report, seen: tuple[str, ...]) -> Node:
    """One file, merged over what it extends."""
    text = decode(_bytes(path), str(path))
    texts[os.path.relpath(path, root.parent).replace(os.sep, "/")] = text
    tree = compose(_blot(text, str(path), report), str(path), path.parent, report)
    parent = tree.value.pop("extends", None) if isinstance(tree.value, dict) else None
    if parent is None:
        return tree
    if not isinstance(parent.value, str) or not parent.value:
        report.add(parent.at, ("extends",), "the path of one other recipe is expected")
        return tree
    above = Path(os.path.normpath(path.parent / parent.value))
    chain = (*seen, os.path.realpath(path))
    if os.path.realpath(above) in chain:
        names = " -> ".join(shown(Path(p).name) for p in (*chain, os.path.realpath(above)))
        report.add(parent.at, ("extends",), f"recipes extend each other in a circle: {names}")
        return tree
    if len(chain) >= LIMIT_CHAIN:
        report.add(parent.at, ("extends",), f"more than {LIMIT_CHAIN} recipes extend one another")
        return tree
    if problem := _unreadable(above):
        report.add(parent.at, ("extends",), problem)
        return tree
    return merge(_read(above, root, texts, report, chain), tree)


def merge(above: Node, below: Node) -> Node:
    """`below` over `above`: mappings merge by key, null removes what is above, anything else replaces it."""
    if not isinstance(above.value, dict) or not isinstance(below.value, dict):
        return below
    merged = dict(above.value)
    for name, node in below.value.items():
        if name in merged and node.value is None:
            del merged[name]
        else:
            merged[name] = merge(merged[name], node) if name in merged else node
    return replace(below, value=merged)


def _unreadable(path: Path) -> str | None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return f"there is no file {shown(path, 200)}"
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
    if stat.S_ISDIR(mode):
        return f"{shown(path, 200)} is a directory; a recipe is a file"
    return None if stat.S_ISREG(mode) else f"{shown(path, 200)} is not an ordinary file"


def _bytes(path: Path) -> bytes:
    at = Position(shown(path, 200))
    if problem := _unreadable(path):
        raise user_error(problem, position=at)
    try:
        with open(path, "rb") as file:
            return file.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise user_error(f"cannot be read: {error.strerror}", position=at) from None


def _blot(text: str, file: str, report: Report, at: Position | None = None) -> str:
    """Report what looks like a secret and write x over it, length and so positions unchanged."""
    for match in _SECRET.finditer(text):
        line, before = text.count("\n", 0, match.start()) + 1, text.rfind("\n", 0, match.start())
        place = at or Position(file, line, match.start() - before)
        report.add(place, (), "looks like a secret; write ${NAME} under `runtime:` and keep it in the environment")
    return _SECRET.sub(lambda match: "x" * len(match.group()), text)


# ------------------------------------------------------------------------------------------------- --set


def _override(tree: Node, text: str, number: int, given: dict[Key, tuple[Node, int]], report: Report) -> Node:
    at = Position(f"--set #{number}")
    path, equals, value = _blot(text, at.file, report, at).partition("=")
    key: Key = tuple(path.strip().split("."))
    if key[0] == "sweep" and len(key) > 1:
        key = ("sweep", path.strip().partition(".")[2])  # its keys have dots
    if not equals or not value.strip():
        report.add(at, key if path.strip() else (), "has no value; write KEY=VALUE (null removes a key)")
        return tree
    if not all(key) or key[0] == "extends":
        report.add(at, (), "names no key that can be set; write stages.NAME.KEY=VALUE")
        return tree
    try:
        node = replace(compose(value, at.file, Path.cwd(), report, at), key_at=at)
    except UserErrors as errors:
        report.add(at, key, errors.mistakes[0].message)
        return tree
    other, first = given.setdefault(key, (node, number))
    if (other.plain(), other.quoted) != (node.plain(), node.quoted):
        report.add(at, key, f"--set #{first} gives it another value")
    if problem := no_way(tree, key):
        report.add(at, *problem)
        return tree
    return put(tree, key, node)


def no_way(tree: Node, key: Key) -> tuple[Key, str] | None:
    """Why nothing can be set at `key`: a stage or model that is not there, or a parent that has no keys."""
    for depth in range(1, len(key)):
        node, found = tree.find(key[:depth])
        if found and not isinstance(node.value, dict) and node.value is not None:
            return key[:depth], "has no keys of its own"
        if not found and depth == 2 and key[0] in ("stages", "models"):
            names = [str(name) for name, _ in node.items()] if tree.find(key[:1])[1] else []
            return key[:depth], f"there is none of this name. {nearest(key[1], names)}"
    return None


def put(tree: Node, key: Key, node: Node) -> Node:
    """The tree with `node` at `key`, where `no_way` has no objection; null removes what is there."""
    value = dict(tree.value or {})
    name, rest = key[0], key[1:]
    if rest:
        child = value.get(name) or Node({}, node.at, node.folder, node.at)
        value[name] = put(child, rest, node)
    elif node.value is None and name in value:
        del value[name]
    else:
        value[name] = node
    return replace(tree, value=value)


# ------------------------------------------------------------------------------------------- environment


def _environment(tree: Node, environ: Mapping[str, str], report: Report) -> Node:
    """Replace `${NAME}` under `runtime`; refuse it elsewhere."""
    value = dict(tree.value)
    for name, section in value.items():
        if name == "runtime":
            value[name] = _expand(section, (name,), environ, report)
            continue
        for key, node in section.walk((name,)):
            if isinstance(node.value, str) and _NAMED.search(node.value):
                message = "${...} stands only under `runtime:`; identity must not depend on the environment"
                report.add(node.at, key, message)
    return replace(tree, value=value)


def _expand(node: Node, key: Key, environ: Mapping[str, str], report: Report) -> Node:
    if isinstance(node.value, dict):
        return replace(node, value={k: _expand(v, (*key, k), environ, report) for k, v in node.value.items()})
    if isinstance(node.value, list):
        return replace(node, value=[_expand(v, (*key, i), environ, report) for i, v in enumerate(node.value)])
    if not isinstance(node.value, str) or "${" not in node.value:
        return node
    if "${" in _NAME.sub("", node.value) or "{" in _NAME.sub("", node.value):
        report.add(node.at, key, "`${` is not closed or stands inside another; write ${NAME} or ${NAME:-default}")
        return node
    for name in (match[1] for match in _NAME.finditer(node.value) if match[2] is None and match[1] not in environ):
        report.add(node.at, key, f"the environment has no variable {name}; set it, or write ${{{name}:-default}}")
        return node
    text = _NAME.sub(lambda match: environ.get(match[1]) or match[2] or "", node.value)
    value = text if node.quoted else resolve(text)[0]
    if value == "" and not (key[-1] == "token" and ":-" in node.value):  # no token is a choice, if it is written down
        report.add(node.at, key, f"{shown(node.written)} is empty here")
    return replace(node, value=value, doubtful=False)
