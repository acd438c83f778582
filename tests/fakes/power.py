"""A power cut, simulated: from a trace of durable operations, the states that a disk may be in at any of its moments.

The model is as hostile as POSIX allows: a write that was not synced may be lost, kept by half or whole, each for
itself (a hole reads as zeros); a name that was made, moved or removed since its directory was synced may be as before
or as after, each for itself. Only a rename is one thing: both of its directories see it, or neither.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fakes.faulty import Call


@dataclass
class Node:
    """A file (`writes`: [offset, bytes, synced]) or a directory (`entries` now; `kept` survive; `open` may)."""

    directory: bool
    writes: list[list[Any]] = field(default_factory=list)
    size: int = 0
    entries: dict[str, Node] = field(default_factory=dict)
    kept: dict[str, Node] = field(default_factory=dict)
    open: list[Change] = field(default_factory=list)


@dataclass(eq=False)
class Change:
    """Names that change together: (directory, name, what stands there afterwards)."""

    names: list[tuple[Node, str, Node | None]]


@dataclass
class Trace:
    """Records operations below `root` while `faulty.watched(trace.around)` is on; `note` puts marks between them."""

    root: Path
    steps: list[tuple[str, Any]] = field(default_factory=list)

    def around(self, call: Call, do: Callable[[], Any]) -> Any:
        name, path, args = call
        tree = [(p.relative_to(self.root), p.is_dir()) for p in below(path)] if name == "remove" else []
        done = do()
        data = bytes(args[1]) if name == "append" else None
        target = args[1].relative_to(self.root) if name in ("rename", "replace") else None
        self.steps.append((name, (path.relative_to(self.root), data, target, tree)))
        return done

    def note(self, mark: Any) -> None:
        self.steps.append(("note", mark))


def below(path: Path) -> list[Path]:
    """Everything in a tree, the deepest first, itself last."""
    if not path.is_dir() or path.is_symlink():
        return [path]
    return [*(p for inner in sorted(path.iterdir()) for p in below(inner)), path]


class Disk:
    """The disk after some steps of a trace."""

    def __init__(self) -> None:
        self.root = Node(directory=True)

    def play(self, name: str, details: Any) -> None:
        if name == "note":
            return
        path, data, target, tree = details
        match name:
            case "new_dir" | "create":
                self._change((path, Node(directory=name == "new_dir")))
            case "append":
                node = self._node(path)
                node.writes.append([node.size, data, False])
                node.size += len(data)
            case "sync":
                for write in self._node(path).writes:
                    write[2] = True
            case "sync_dir":
                self._settle(self._node(path))
            case "rename" | "replace":
                self._change((path, None), (target, self._node(path)))
            case "remove":
                for one, _ in tree:
                    self._change((one, None))
            case "remove_empty":
                if not self._node(path).entries:
                    self._change((path, None))

    def _node(self, path: Path) -> Node:
        node = self.root
        for part in path.parts:
            node = node.entries[part]
        return node

    def _change(self, *names: tuple[Path, Node | None]) -> None:
        change = Change([(self._node(path.parent), path.name, node) for path, node in names])
        for directory, name, node in change.names:
            if change not in directory.open:
                directory.open.append(change)
            if node is None:
                directory.entries.pop(name)
            else:
                directory.entries[name] = node

    def _settle(self, directory: Node) -> None:
        for change in list(directory.open):
            for where, name, node in change.names:
                if change in where.open:
                    where.open.remove(change)
                put(where.kept, name, node)

    def write_state(self, folder: Path, draw: random.Random) -> None:
        """One of the states that the disk may be in now."""
        fates: dict[int, bool] = {}
        self._write(self.root, folder, draw, fates, draw.choice((0.1, 0.5, 0.9)))

    def _write(self, node: Node, path: Path, draw: random.Random, fates: dict[int, bool], likely: float) -> None:
        entries = dict(node.kept)
        for change in node.open:
            if fates.setdefault(id(change), draw.random() < likely):
                for where, name, after in change.names:
                    if where is node:
                        put(entries, name, after)
        path.mkdir(exist_ok=True)
        for name, inner in entries.items():
            if inner.directory:
                self._write(inner, path / name, draw, fates, likely)
            else:
                (path / name).write_bytes(content(inner, draw))


def put(entries: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        entries.pop(name, None)
    else:
        entries[name] = node


def content(file: Node, draw: random.Random) -> bytes:
    data = bytearray()
    for offset, written, synced in file.writes:
        keep = len(written) if synced else draw.choice((0, len(written) // 2, len(written)))
        if keep:
            data.extend(bytes(max(0, offset - len(data))))
            data[offset : offset + keep] = written[:keep]
    return bytes(data)


def copy_index(source: Path, target: Path, draw: random.Random) -> None:
    """The index of the replies is no durable thing: as it was in the end, cut anywhere, or absent."""
    if source.exists() and target.parent.exists():
        data = source.read_bytes()
        cut = draw.choice((0, len(data), draw.randrange(len(data))))
        if cut:
            target.write_bytes(data[:cut])
