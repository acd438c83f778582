"""The JSON Schema for editors: valid itself, true to what is read, and completing by kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes.recipe_kinds import KINDS
from jsonschema import Draft202012Validator
from test_recipe import GOOD

from ssd_pipeline.document import StageKeys
from ssd_pipeline.positions import Report, compose
from ssd_pipeline.recipe import load
from ssd_pipeline.schema import recipe_schema
from ssd_pipeline.stages import KINDS as REAL

RECIPES = sorted((Path(__file__).parents[1] / "recipes").rglob("*.yaml"))


def plain(text: str) -> Any:
    return compose(text, "r.yaml", Path(), Report()).plain()


def wrong(text: str, schema: dict[str, Any] | None = None) -> list[str]:
    """Where the schema finds something wrong."""
    validator = Draft202012Validator(schema or recipe_schema(KINDS))
    return [error.json_path for error in validator.iter_errors(plain(text))]


def test_the_schemas_are_schemas() -> None:
    for kinds in (KINDS, REAL):
        Draft202012Validator.check_schema(recipe_schema(kinds))


def test_a_good_recipe_is_valid() -> None:
    assert wrong(GOOD) == []
    assert wrong("stages: {p: {uses: load}}\nmodels: null\nruntime: null\n") == []
    assert (
        wrong("extends: a.yaml\nstages: {g: {branches: 1, accept: null}, p: null}\nmodels: {m: {dtype: null}}\n") == []
    )
    assert wrong("stages: {p: {uses: load}}\nruntime: {rows_in_flight: '${N:-4}', hub: {repo: '${R}'}}\n") == []


def test_every_shipped_recipe_is_valid_and_reads() -> None:
    schema = recipe_schema(REAL)
    environ = dict.fromkeys(("TEACHER_URL", "TEACHER_TOKEN"), "https://teacher.example:8443")
    assert "quickstart.yaml" in [path.name for path in RECIPES]
    for path in RECIPES:
        assert wrong(path.read_text(), schema) == [], path
        assert load(path, REAL, environ=environ).stages, path


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("name: x\n", "$"),
        ("stages: {}\n", "$.stages"),
        ("stages: {p: {uses: load}}\nstage: {}\n", "$"),
        ("stages: {p: {}}\n", "$.stages.p"),
        ("stages: {p: {uses: lod}}\n", "$.stages.p.uses"),
        ("stages: {p: {uses: load, limt: 1}}\n", "$.stages.p"),
        ("stages: {p: {uses: load, limit: 0}}\n", "$.stages.p.limit"),
        ("stages: {p: {uses: load, limit: '1'}}\n", "$.stages.p.limit"),
        ("stages: {p: {uses: load, branches: 1}}\n", "$.stages.p"),
        ("stages: {g: {uses: grow, input: p}}\n", "$.stages.g"),
        ("stages: {g: {uses: grow, teacher: t, chunk: {stop: x}}}\n", "$.stages.g.chunk.stop"),
        ("stages: {g: {uses: check, where: {a: 1}}}\n", "$.stages.g.where.a"),
        ("stages: {a/b: {uses: load}}\n", "$.stages"),
        ("stages: {p: {uses: load}}\nmodels: {m: {dtype: bf16}}\n", "$.models.m.dtype"),
        ("stages: {p: {uses: load}}\nruntime: {models: {m: {apy: tgi}}}\n", "$.runtime"),
        ("stages: {p: {uses: load}}\nseed: x\n", "$.seed"),
        ("extends: ''\n", "$.extends"),
        ("extends: a.yaml\nstage: {}\n", "$"),
    ],
)
def test_a_bad_recipe_is_not_and_the_place_is_named(text: str, where: str) -> None:
    assert wrong(text) == [where]


def test_an_editor_finds_the_keys_of_each_kind_described() -> None:
    schema = recipe_schema(REAL)
    for name, kind in REAL.items():
        keys = schema["$defs"][f"stage.{name}"]["properties"]
        assert set(keys) >= set(kind.params.model_fields) | set(StageKeys.model_fields)
    for key in ("input", "where", "weights", "keep_errors"):
        assert schema["$defs"]["stage"]["properties"][key]["description"]


def test_no_kind_has_a_parameter_that_every_stage_has() -> None:
    for name, kind in REAL.items():
        assert not set(kind.params.model_fields) & set(StageKeys.model_fields), name
