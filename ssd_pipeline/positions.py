"""YAML text -> values that know where they stand, read strictly.

PyYAML reads YAML 1.1: `on` is true, `12:30` is 750, `1e-4` is text, the last of two equal keys wins and an alias may
contain itself. A recipe is an identity, so nothing in it may change silently. We take only the parser's events, build
the tree here without recursion, and resolve scalars as YAML 1.2 does; plain text that another reader would turn into
something else stays text and is marked `doubtful`. No aliases, tags, merge keys, duplicate keys or non-text keys.
Mistakes that leave the tree intact are collected; syntax errors end the reading. This file does not know what a
recipe is, nor the disk.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ssd_pipeline.errors import Mistake, Position, UserErrors

LIMIT_BYTES, LIMIT_DEPTH, LIMIT_NODES = 1_000_000, 64, 10_000
PROSE = {"prompt", "system", "template"}  # keys whose text goes to a model as it is
Key = tuple[str | int, ...]

_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,29})|0x[0-9a-fA-F]{1,16}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_DIGITS = re.compile(r"[-+]?[0-9]+|0o[0-7]+")
_WORDS: dict[str, Any] = {f"{sign}.inf": float(f"{sign}inf") for sign in ("", "+", "-")}
_WORDS |= {"true": True, "false": False, "~": None, "null": None, "": None, ".nan": float("nan")}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")
_BIDI = re.compile(r"[\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Node:
    """A value with its place. `value`: None, bool, int, float, text, dict[str, Node] or list[Node].

    `key_at`: where its key stands, in a mapping. `folder`: what relative paths in it are relative to. `written`: a
    scalar as it stands in the file, which is what messages show. `doubtful`: unquoted text that other YAML readers
    turn into a number, a date or true/false.
    """

    value: Any
    at: Position
    folder: Path
    key_at: Position | None = None
    written: str = ""
    quoted: bool = False
    doubtful: bool = False

    def items(self) -> Iterator[tuple[str | int, Node]]:
        """Children with their keys or indices; nothing for a scalar."""
        if isinstance(self.value, dict):
            yield from self.value.items()
        elif isinstance(self.value, list):
            yield from enumerate(self.value)

    def walk(self, key: Key = ()) -> Iterator[tuple[Key, Node]]:
        """This node and all below it, each with its key."""
        yield key, self
        for part, child in self.items():
            yield from child.walk((*key, part))

    def plain(self) -> Any:
        """The bare value, without positions."""
        if isinstance(self.value, dict):
            return {k: v.plain() for k, v in self.value.items()}
        return [v.plain() for v in self.value] if isinstance(self.value, list) else self.value

    def _child(self, part: str | int) -> Node | None:
        if isinstance(self.value, list):
            return self.value[part] if isinstance(part, int) and 0 <= part < len(self.value) else None
        return self.value.get(part) if isinstance(self.value, dict) else None

    def find(self, key: Key) -> tuple[Node, bool]:
        """The node at `key` and True, or its nearest existing ancestor and False."""
        node = self
        for part in key:
            child = node._child(part)
            if child is None:
                return node, False
            node = child
        return node, True

    def place(self, key: Key) -> Position:
        """Where the value at `key` stands; for what is absent, and for blocks, the key under which it would stand."""
        node, found = self.find(key)
        block = node.key_at is not None and (not found or node.at.line != node.key_at.line)
        return node.key_at if block and node.key_at is not None else node.at


@dataclass
class Report:
    """Collects mistakes. The first one about a key at a place wins: what follows from it is not news.

    `told` counts all, also those that are no news: a sweep reads a part that is wrong once for each of its values.
    """

    found: dict[tuple[Position, str], Mistake] = field(default_factory=dict)
    told: int = 0

    def add(self, at: Position, key: Key, message: str) -> None:
        self.told += 1
        self.found.setdefault((at, dotted(key)), Mistake(at, dotted(key), message))

    def raise_any(self) -> None:
        """Raises UserErrors if anything was found."""
        if self.found:
            raise UserErrors(list(self.found.values()))


def shown(text: object, limit: int = 60) -> str:
    """Text of a file as a message may show it: on one line, control characters escaped, not endless."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text)[: limit + 1])
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def dotted(key: Key) -> str:
    return ".".join(shown(part) for part in key)


def nearest(name: object, known: Collection[str], what: str = "Known", *, listed: bool = False) -> str:
    """The proposal after an unknown name: the nearest known one, and what is known if none is or if `listed`."""
    folded = {k.lower(): k for k in known}
    match = difflib.get_close_matches(str(name).lower(), folded, n=1)
    proposal = [f"Did you mean `{shown(folded[match[0]])}`?"] if match else []
    if listed or not match:
        names = sorted(map(shown, known))
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        proposal.append(f"{what}: {', '.join(names[:20]) or 'none'}{more}.")
    return " ".join(proposal)


def resolve(text: str) -> tuple[Any, bool]:
    """An unquoted scalar as YAML 1.2 reads it, and whether it is text that YAML 1.1 reads as something else."""
    if text.lower() in _WORDS and text in (text.lower(), text.title(), text.upper(), ".NaN"):
        return _WORDS[text.lower()], False
    if _INT.fullmatch(text):
        return int(text, 0), False
    if _FLOAT.fullmatch(text) and not _DIGITS.fullmatch(text):
        return float(text), False
    known = yaml.SafeLoader.yaml_implicit_resolvers
    other = any(pattern.match(text) for _, pattern in [*known.get(text[:1], []), *known.get(None, [])])
    return text, other or bool(_DIGITS.fullmatch(text))


def decode(data: bytes, file: str) -> str:
    """UTF-8 bytes, with or without a byte order mark, as text. Raises UserErrors naming another encoding."""
    if len(data) > LIMIT_BYTES:
        raise _wrong(Position(file), f"larger than {LIMIT_BYTES:,} bytes, the limit of a recipe")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in data[:2]:
        raise _wrong(Position(file), "is UTF-16; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = _at(data[: error.start].decode("utf-8", "replace"), file)
        raise _wrong(at, f"byte 0x{data[error.start]:02x} is not UTF-8 (Latin-1?); save it as UTF-8") from None
    if bad := yaml.reader.Reader.NON_PRINTABLE.search(text):
        raise _wrong(_at(text[: bad.start()], file), f"the character {shown(bad.group())} may not stand in YAML")
    return text


def compose(text: str, file: str, folder: Path, report: Report, at: Position | None = None) -> Node:
    """Read one document. `at`: a fixed position for text that stands in no file. Raises UserErrors on syntax."""
    composer = _Composer(file, folder, report, at)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            composer.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        if error.context_mark and (error.context or "").endswith(("flow sequence", "flow mapping", "quoted scalar")):
            mark = error.context_mark  # where it was opened says more than where it was missed
        raise _wrong(composer.position(mark), _syntax(error)) from None
    except (ValueError, OverflowError, yaml.YAMLError):  # "\UFFFFFFFF", "\x00" in a text given with --set
        raise _wrong(at or composer.last, "a character here does not exist") from None
    return composer.root or Node(None, at or Position(file, 1, 1), folder)


def _wrong(at: Position, message: str) -> UserErrors:
    return UserErrors([Mistake(at, "", message)])


def _at(before: str, file: str) -> Position:
    return Position(file, before.count("\n") + 1, len(before) - before.rfind("\n"))


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem, context = error.problem or "", error.context or ""
    if "'\\t'" in problem:
        return "a tab stands here; YAML is indented with spaces"
    if "quoted scalar" in context and "end of stream" in problem:
        return "this quote is not closed"
    if "flow" in context and error.problem_mark:
        hint = " (text with a brace must stand in quotes)" if "'{'" in problem else ""
        return f"this bracket is not closed, or line {error.problem_mark.line + 1} lacks a comma{hint}"
    if "mapping values are not allowed" in problem:
        return "text that contains `: ` must stand in quotes, or the indentation does not fit"
    if "tag" in problem or "tag" in context:
        return "unknown tag: tags are not used here"
    if "block" in context:
        return f"the indentation does not fit here ({problem})"
    return shown(f"not valid YAML: {problem or context}", 200)


@dataclass
class _Open:
    """A collection that is being filled; `key` is the key or index whose value comes next."""

    node: Node
    key: str | int | None = None
    key_at: Position | None = None
    dropped: bool = False  # the value that comes next belongs to a key that was refused


class _Composer:
    def __init__(self, file: str, folder: Path, report: Report, fixed: Position | None) -> None:
        self.file, self.folder, self.report, self.fixed = file, folder, report, fixed
        self.open: list[_Open] = []
        self.root: Node | None = None
        self.documents = self.count = 0
        self.last = Position(file, 1, 1)

    def position(self, mark: Any) -> Position:
        if self.fixed or mark is None:
            return self.fixed or self.last
        return Position(self.file, mark.line + 1, mark.column + 1)

    @property
    def key(self) -> Key:
        return tuple(o.key for o in self.open if o.key is not None)

    def take(self, event: yaml.Event) -> None:
        self.last = at = self.position(event.start_mark)
        match event:
            case yaml.DocumentStartEvent():
                self.documents += 1
                if self.documents > 1:
                    raise _wrong(at, "a second document begins here; a recipe is one document")
            case yaml.AliasEvent():
                raise _wrong(at, "aliases are not used here; put text that begins with `*` in quotes")
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._check(event, at)
                self._begin(Node({} if isinstance(event, yaml.MappingStartEvent) else [], at, self.folder))
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._end()
            case yaml.ScalarEvent():
                self._check(event, at)
                self._scalar(event, at)

    def _check(self, event: Any, at: Position) -> None:
        if event.anchor is not None:
            raise _wrong(at, "anchors and aliases are not used here; put text that begins with `&` in quotes")
        if event.tag is not None:
            self.report.add(at, self.key, f"unknown tag `{shown(event.tag)}`: tags are not used here")
        if len(self.open) >= LIMIT_DEPTH:
            raise _wrong(at, f"nested deeper than {LIMIT_DEPTH}, the limit of a recipe")

    def _begin(self, node: Node) -> None:
        parent = self.open[-1] if self.open else None
        if parent and isinstance(parent.node.value, dict) and parent.key is None:
            raise _wrong(node.at, "a key must be text (text with a brace or bracket must stand in quotes)")
        self.open.append(_Open(node, 0 if isinstance(node.value, list) else None))

    def _end(self) -> None:
        self._put(self.open.pop().node)

    def _scalar(self, event: Any, at: Position) -> None:
        unquoted = event.style is None
        value, doubtful = resolve(event.value) if unquoted and event.tag is None else (event.value, False)
        parent = self.open[-1] if self.open else None
        if parent and isinstance(parent.node.value, dict) and parent.key is None:
            parent.key, parent.key_at = event.value, at
            parent.dropped = not self._good_key(parent.node, value, event, at)
        else:
            if not self._characters(value, at):
                value = value.encode("utf-8", "replace").decode()  # what follows need not know halves of characters
            self._put(Node(value, at, self.folder, None, event.value, not unquoted, doubtful))

    def _good_key(self, parent: Node, value: Any, event: Any, at: Position) -> bool:
        if event.style is None and event.value == "<<":
            self.report.add(at, self.key, "merge keys are not used here; see `extends`")
        elif not isinstance(value, str):
            self.report.add(at, self.key, "a key must be text: put it in quotes")
        elif value in parent.value:
            first = parent.value[value].key_at
            where = f" on line {first.line}" if first and first.line else ""
            self.report.add(at, self.key, f"stands here a second time; the first is{where or ' before it'}")
        else:
            return self._characters(value, at, is_key=True)
        return False

    def _characters(self, value: Any, at: Position, *, is_key: bool = False) -> bool:
        """Texts may not hide anything; prose for a model may hold what is written as an escape."""
        if not isinstance(value, str):
            return True
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            self.report.add(at, self.key, "half of a character (\\ud800 to \\udfff); write the character itself")
            return False
        prose = not is_key and self.key[-1:] != () and self.key[-1] in PROSE
        if (bad := _CONTROL.search(value)) and not prose:
            what = (
                "a character that turns the direction of writing" if _BIDI.match(bad.group()) else "a control character"
            )
            self.report.add(at, self.key, f"contains {what}, {shown(bad.group())}")
            return False
        return True

    def _put(self, node: Node) -> None:
        self.count += 1
        if self.count > LIMIT_NODES:
            raise _wrong(node.at, f"more than {LIMIT_NODES:,} values, the limit of a recipe")
        if not self.open:
            self.root = node
            return
        parent = self.open[-1]
        if isinstance(parent.node.value, list):
            parent.node.value.append(node)
            parent.key = len(parent.node.value)
        else:
            if not parent.dropped:
                parent.node.value[parent.key] = replace(node, key_at=parent.key_at)
            parent.key, parent.key_at, parent.dropped = None, None, False
