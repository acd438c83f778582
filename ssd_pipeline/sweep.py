"""`sweep:` a recipe under several values: `sweep: {seed: [1, 2, 3], stages.grown.branches: [2, 4]}`.

An axis is a key of the recipe, or any other name, whose values then name `variants:`, partial recipes that are merged
over this one. A list of such mappings is the union of what each gives. The recipe's tree is changed before anything
is typed, once for each combination of values, so that every value is checked where it stands. This file does not know
stages: what is the same under several combinations is found by instances.py.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from ssd_pipeline.checks import NAME
from ssd_pipeline.errors import Position
from ssd_pipeline.positions import Key, Node, Report, nearest, shown
from ssd_pipeline.sources import merge, no_way, put

LIMIT_RUNS = 256
IN_VARIANTS = ("prompt", "models", "stages")
Labels = Mapping[str, str]  # axis -> value, in the order of the sweep
Change = Callable[[Node], Node]
Axis = list[tuple[str, Change]]  # the values of one axis: what each is called and does to the recipe


def runs(tree: Node, report: Report) -> list[tuple[Labels, Node]]:
    """The recipe under each combination of values, in order; as it is, without labels, where nothing is swept.

    So too where the sweep is wrong, which is reported: the other mistakes are told at once.
    """
    plain = replace(tree, value={k: v for k, v in tree.value.items() if k not in ("sweep", "variants")})
    given = tree.value.get("sweep")
    if given is None or given.value is None:
        return [({}, plain)]
    before = report.told
    grids = given.value if isinstance(given.value, list) else [given]
    if not grids or not all(isinstance(grid.value, dict) and grid.value for grid in grids):
        report.add(given.at, ("sweep",), "a mapping of keys to lists of values is wanted, or a list of such mappings")
        return [({}, plain)]
    variants = _variants(tree, report)
    short = _short({name for grid in grids for name in grid.value})
    read = [{short[n]: _axis(n, node, plain, variants, report) for n, node in grid.value.items()} for grid in grids]
    if (count := sum(math.prod(map(len, grid.values())) for grid in read)) > LIMIT_RUNS:
        report.add(given.at, ("sweep",), f"makes {count:,} combinations, and {LIMIT_RUNS} are the limit")
    if report.told > before:
        return [({}, plain)]
    found: dict[frozenset[tuple[str, str]], tuple[Labels, Node]] = {}
    order = list(dict.fromkeys(axis for grid in read for axis in grid))
    for grid in read:
        for values in itertools.product(*grid.values()):
            labels = dict(zip(grid, (label for label, _ in values), strict=True))
            if (key := frozenset(labels.items())) not in found:
                changed = plain
                for _, change in values:
                    changed = change(changed)
                found[key] = {axis: labels[axis] for axis in order if axis in labels}, changed
    return list(found.values())


def _short(names: set[str]) -> dict[str, str]:
    """An axis is called by the last part of its key, where no other ends so."""
    ends = [name.rpartition(".")[2] for name in names]
    return {name: name if ends.count(end := name.rpartition(".")[2]) > 1 else end for name in names}


def _variants(tree: Node, report: Report) -> dict[str, Node]:
    node = tree.value.get("variants")
    if node is None or node.value is None:
        return {}
    if not isinstance(node.value, dict):
        report.add(node.at, ("variants",), "a mapping of names to partial recipes is wanted")
        return {}
    for name, part in node.value.items():
        if not re.fullmatch(NAME, name) or not isinstance(part.value, dict):
            report.add(part.key_at or part.at, ("variants", name), "a name with a partial recipe (a mapping) is wanted")
            continue
        for key, child in part.value.items():
            if key not in IN_VARIANTS:
                message = f"a variant may change {', '.join(IN_VARIANTS)}, and nothing else"
                report.add(child.key_at or child.at, ("variants", name, key), message)
    return dict(node.value)


def _axis(name: str, node: Node, tree: Node, variants: Mapping[str, Node], report: Report) -> Axis:
    """One axis, as far as it can be read."""
    key: Key = ("sweep", name)
    path: Key = tuple(name.split("."))
    at = node.key_at or node.at
    if not isinstance(node.value, list) or not node.value:
        report.add(node.at, key, "a list of values is wanted, one at least")
        return []
    of_recipe = path in (("seed",), ("prompt",)) or (path[0] in ("models", "stages") and len(path) > 1)
    named = any(isinstance(v.value, str) and v.value in variants for v in node.value)
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or not (of_recipe or named):
        hint = nearest(name, ("seed", "prompt"), "Keys that can are")
        report.add(at, key, f"cannot be swept. {hint} Also: models.NAME.KEY, stages.NAME.KEY, names of `variants`")
        return []
    if of_recipe and (problem := _in_the_way(tree, path)):
        report.add(problem[0] or at, key, problem[1])
        return []
    axis: Axis = []
    for place, value in enumerate(node.value):
        label = "null" if value.value is None else value.written
        label = label if re.fullmatch(r"[A-Za-z0-9_.+-]{1,40}", label) else f"#{place + 1}"
        if label in dict(axis) or any(repr(v.plain()) == repr(value.plain()) for v in node.value[:place]):
            report.add(value.at, (*key, place), "stands here twice")
        elif of_recipe:
            axis.append((label, _putting(path, value, at)))
        elif isinstance(value.value, str) and value.value in variants:
            axis.append((label, _merging(variants[value.value])))
        else:
            hint = nearest(value.written, variants, "Variants", listed=True)
            report.add(value.at, (*key, place), f"`{shown(value.written)}` is not a variant. {hint}")
    return axis


def _in_the_way(tree: Node, path: Key) -> tuple[Position | None, str] | None:
    """Why a key cannot be swept: it leads nowhere, or `--set` has given it its one value (then where)."""
    if not all(path):
        return None, "is no key: write stages.NAME.KEY"
    if problem := no_way(tree, path):
        return None, f"{'.'.join(map(str, problem[0]))}: {problem[1]}"
    there, found = tree.find(path)
    if found and there.at.file.startswith("--set "):
        return there.at, "the recipe sweeps it; write --set sweep.KEY=[VALUE, ...], or --set sweep=null to end that"
    return None


def _putting(path: Key, value: Node, key_at: Position) -> Change:
    """A key that is wrong is told once, where it stands, and not at each of its values."""
    node = replace(value, key_at=key_at if key_at.line == value.at.line else None)
    return lambda tree: put(tree, path, node)


def _merging(part: Node) -> Change:
    """What was said with `--set` holds in every variant."""

    def change(tree: Node) -> Node:
        merged = merge(tree, part)
        for key, node in tree.walk():
            if key and node.at.file.startswith("--set ") and no_way(merged, key) is None:
                merged = put(merged, key, node)
        return merged

    return change
