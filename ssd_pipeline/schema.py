"""The JSON Schema of recipes, for editors: made from the same classes that read a recipe, so it cannot fall behind.

A stage's keys depend on its `uses`, said with if/then, which editors complete by and which names one mistake instead
of one per kind. A recipe that `extends` another may leave out anything and say null, so its sections are not looked
into; under `runtime` any value may be `${NAME}`. What a schema cannot say (references, columns, rules between keys)
is left to the reader. This file does not know files and reads no recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ssd_pipeline.checks import NAME
from ssd_pipeline.document import HeadKeys, HubRuntime, ModelKeys, Runtime, StageKeys
from ssd_pipeline.stage import ModelRuntime, Price, Stage
from ssd_pipeline.sweep import IN_VARIANTS

Schema = dict[str, Any]
_ENVIRONMENT: Schema = {"type": "string", "pattern": r"\$\{"}


def recipe_schema(kinds: Mapping[str, Stage]) -> Schema:
    """A JSON Schema (2020-12) that accepts every recipe of these kinds that `recipe.load` accepts."""
    sections: list[type[BaseModel]] = [HeadKeys, ModelKeys, StageKeys, Runtime, HubRuntime, ModelRuntime, Price]
    params = {name: kind.params for name, kind in kinds.items()}
    wanted = dict.fromkeys([*sections, *params.values()])
    found, shared = models_json_schema([(cls, "validation") for cls in wanted], ref_template="#/$defs/{model}")
    defs: Schema = shared.get("$defs", {})

    def of(cls: type[BaseModel]) -> tuple[str, Schema]:
        name = str(found[(cls, "validation")]["$ref"]).rpartition("/")[2]
        return name, defs[name]

    for cls in (Runtime, HubRuntime, ModelRuntime, Price):
        properties = of(cls)[1]["properties"]
        properties |= {name: {"anyOf": [inner, _ENVIRONMENT]} for name, inner in properties.items()}
    common = of(StageKeys)[1]
    stages = {f"stage.{name}": _stage(name, kinds[name], common, of(cls)[1]) for name, cls in params.items()}
    model, runtime = of(ModelKeys)[0], of(Runtime)[0]
    whole = {"models": _section(f"#/$defs/{model}"), "stages": _section("#/$defs/stage")}
    whole["stages"] |= {"type": "object", "minProperties": 1}
    whole["runtime"] = {"anyOf": [{"$ref": f"#/$defs/{runtime}"}, {"type": "null"}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ssd_pipeline recipe",
        "type": "object",
        "properties": {
            **of(HeadKeys)[1]["properties"],
            "extends": {"type": "string", "minLength": 1, "description": "a recipe that this one changes"},
            **_sweep(),
            **{name: {"type": ["object", "null"]} for name in whole},
        },
        "additionalProperties": False,
        "if": {"not": {"required": ["extends"]}},
        "then": {"properties": whole, "required": ["stages"]},
        "$defs": defs | stages | {"stage": _by_kind(kinds, common)},
    }


def _section(ref: str) -> Schema:
    names = {"pattern": f"^{NAME}$"}
    return {"type": ["object", "null"], "propertyNames": names, "additionalProperties": {"$ref": ref}}


def _sweep() -> Schema:
    values = {"type": "array", "minItems": 1, "uniqueItems": True}
    grid = {"type": "object", "minProperties": 1, "additionalProperties": values}
    variant = {"type": "object", "propertyNames": {"enum": list(IN_VARIANTS)}}
    told = "keys (seed, models.NAME.KEY, stages.NAME.KEY), or a name for `variants`, with the values that each takes"
    return {
        "sweep": {
            "anyOf": [grid, {"type": "array", "minItems": 1, "items": grid}, {"type": "null"}],
            "description": told,
        },
        "variants": {
            "type": ["object", "null"],
            "propertyNames": {"pattern": f"^{NAME}$"},
            "additionalProperties": variant,
            "description": "partial recipes, merged over this one by a sweep that names them",
        },
    }


def _stage(name: str, kind: Stage, common: Schema, params: Schema) -> Schema:
    """All keys of a stage of one kind."""
    uses = {"uses": {"const": name, "description": (kind.params.__doc__ or name).strip().partition("\n")[0]}}
    return {
        "type": "object",
        "properties": {**common["properties"], **uses, **params.get("properties", {})},
        "required": ["uses", *params.get("required", [])],
        "additionalProperties": False,
    }


def _by_kind(kinds: Mapping[str, Stage], common: Schema) -> Schema:
    cases = [
        {
            "if": {"properties": {"uses": {"const": name}}, "required": ["uses"]},
            "then": {"$ref": f"#/$defs/stage.{name}"},
        }
        for name in kinds
    ]
    described = {name: {"description": key["description"]} for name, key in common["properties"].items()}
    return {
        "type": "object",
        "properties": {**described, "uses": {**described["uses"], "enum": sorted(kinds)}},
        "required": ["uses"],
        "allOf": cases,
    }
