"""The names of a sweep's instances: `adapter[seed=1,criterion=random]` is the stage `adapter` under two values.

A name says its labels, so that whoever holds a name (an option, an event, a stage that compares) needs no second table.
This file knows text only, and neither recipes nor sweeps.
"""

from __future__ import annotations

from collections.abc import Mapping


def instance(name: str, labels: Mapping[str, str]) -> str:
    """The name under these labels (axis -> value, neither with `,` `=` `[` `]`); the plain name under none."""
    return f"{name}[{','.join(f'{axis}={value}' for axis, value in labels.items())}]" if labels else name


def stage_of(name: str) -> str:
    """The name that stands in the recipe."""
    return name.partition("[")[0]


def labels_of(name: str) -> dict[str, str]:
    """The labels of a name, or of a selector."""
    parts = (part.partition("=") for part in name.partition("[")[2].removesuffix("]").split(",") if part)
    return {axis.strip(): value.strip() for axis, _, value in parts}


def selects(selector: str, name: str) -> bool:
    """Whether a selector means `name`: the same stage, and all labels of the selector (none: every instance)."""
    return stage_of(selector) == stage_of(name) and labels_of(selector).items() <= labels_of(name).items()
