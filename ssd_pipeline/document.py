"""A recipe that was read: its models and stages, typed, with the place of every value; and what its sections may hold.

The classes that end in `Keys` say which keys a section has; recipe.py turns them into definitions and schema.py into
a JSON Schema, so that neither can know more than the other. `Runtime` is where and how fast, never what. This file
does not read files and does not know whether stages fit together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ssd_pipeline.errors import Mistake, Position
from ssd_pipeline.positions import Key, Node, dotted
from ssd_pipeline.stage import HubMark, LocalPath, ModelRuntime, Params, PromptFormat, Stage, WholeStage

Scalar = str | int | float | bool | None
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
ModelRepo = Annotated[str, HubMark("model")]
SECTIONS = ("models", "stages", "runtime", "extends", "sweep", "variants")


def _one_of(params: Params, *names: str) -> Iterator[tuple[Key, str]]:
    given = [name for name in names if getattr(params, name) is not None]
    if len(given) != 1:
        what = f"{' and '.join(given)} exclude one another" if given else "does not say which it is"
        yield (given[1],) if given else (), f"{what}; give one of {', '.join(names)}"
    if getattr(params, "revision", None) is not None and "repo" not in given:
        yield ("revision",), "belongs to a repo, and none is given"


def _asks(prompt: str | None) -> Iterator[tuple[Key, str]]:
    if prompt is not None and "{problem}" not in prompt:
        yield ("prompt",), "must contain {problem}, where the statement goes"


class HeadKeys(Params):
    """The keys of a recipe beside its sections."""

    name: str | None = Field(None, description="what the recipe is called; the file's name if absent")
    seed: int = Field(0, ge=0, lt=2**63, description="of everything that is drawn at random")
    prompt: str = Field("{problem}", description="how every model is asked; {problem} is the statement")

    def mistakes(self) -> Iterator[tuple[Key, str]]:
        yield from _asks(self.prompt)


class AdapterKeys(Params):
    """A LoRA adapter: what a stage gives, a Hub repo, or a local directory."""

    stage: str | None = Field(None, description="the stage that trains it")
    repo: ModelRepo | None = Field(None, description="owner/name on the Hub")
    revision: str | None = Field(None, description="commit, tag or branch of the repo")
    path: LocalPath | None = Field(None, description="a directory, relative to this file")

    def mistakes(self) -> Iterator[tuple[Key, str]]:
        yield from _one_of(self, "stage", "repo", "path")


class ModelKeys(Params):
    """A model: one of repo, path and base, an adapter if any, and how it is asked. All of it is identity."""

    repo: ModelRepo | None = Field(None, description="owner/name on the Hub")
    revision: str | None = Field(None, description="commit, tag or branch of the repo")
    path: LocalPath | None = Field(None, description="a directory, relative to this file")
    base: str | None = Field(None, description="another model of this recipe")
    adapter: AdapterKeys | None = Field(None, description="LoRA weights on top")
    dtype: Dtype | None = Field(None, description="of the weights; auto as they are stored")
    prompt: str | None = Field(None, description="how it is asked, if not as the others")
    system: str | None = Field(None, description="system message")
    template: str | None = Field(None, description="chat template, if not the tokenizer's own")
    think: tuple[str, str] | None = Field(None, description="the tags around its reasoning")
    reasoning: Literal["keep", "unwrap"] | None = Field(None, description="keep the think tags in the text, or not")
    trust_remote_code: bool | None = Field(None, description="run code that the repo brings")

    def mistakes(self) -> Iterator[tuple[Key, str]]:
        yield from _one_of(self, "repo", "path", "base")
        yield from _asks(self.prompt)
        if self.reasoning == "unwrap" and self.think is None and self.base is None:
            yield ("reasoning",), "unwrap needs the tags: add think: [<open>, <close>]"
        if self.think and (not all(self.think) or self.think[0] == self.think[1]):
            yield ("think",), "two different tags are wanted"


class StageKeys(Params):
    """The keys that stages of all kinds have beside their own parameters."""

    uses: str = Field(description="the kind of the stage")
    input: str | tuple[str, ...] = Field((), description="the stage, or stages, whose rows it reads")
    weights: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(None, description="shares of the inputs in a mix")
    where: dict[str, Annotated[tuple[Scalar, ...], Field(min_length=1)]] = Field(
        {}, description="only rows whose column has one of the values; ANDed"
    )
    keep_errors: bool = Field(False, description="finish even if some rows failed in a curable way")


class HubRuntime(Params):
    """The Hub data set repo in which finished stages are cached."""

    repo: Annotated[str, HubMark("dataset")] = Field(description="owner/name")
    private: bool = Field(True, description="a public repo is an error while this is true")


class Runtime(Params):
    """`runtime`: how fast and where, never what. No part of any identity."""

    models: dict[str, ModelRuntime] = Field({}, description="where each model runs")
    hub: HubRuntime | None = Field(None, description="where finished stages are cached, if anywhere")
    rows_in_flight: int = Field(256, ge=1, le=100_000, description="rows of a stage that are worked on at once")


@dataclass(frozen=True)
class AdapterDef:
    """Exactly one of `stage`, `repo` (with its revision, if any) and `path` (absolute) is set."""

    stage: str | None = None
    repo: str | None = None
    revision: str | None = None
    path: Path | None = None


@dataclass(frozen=True)
class ModelDef:
    """Exactly one of `repo`, `path` (absolute) and `base` is set; what is not said is inherited from the base."""

    name: str
    repo: str | None
    revision: str | None
    path: Path | None
    base: str | None
    adapter: AdapterDef | None
    dtype: Dtype
    format: PromptFormat
    trust_remote_code: bool
    runtime: ModelRuntime


@dataclass(frozen=True)
class StageDef:
    """`params` is an instance of `kind.params`. `seed`: None where nothing is drawn at random. `made_from`: where
    the kind gathers, for each input the places of those other inputs that it was made from."""

    name: str
    kind: Stage
    params: Any
    inputs: tuple[str, ...]
    weights: tuple[float, ...] | None
    where: dict[str, tuple[Scalar, ...]]
    keep_errors: bool = False
    seed: int | None = None
    made_from: tuple[tuple[int, ...], ...] = ()

    @property
    def gathers(self) -> bool:
        return isinstance(self.kind, WholeStage) and self.kind.gathers


@dataclass(frozen=True)
class Document:
    """A recipe. `texts`: what was read, by file name relative to the recipe; overrides under `--set #1` and so on."""

    path: Path
    name: str
    seed: int
    models: dict[str, ModelDef]
    stages: dict[str, StageDef]
    runtime: Runtime
    texts: dict[str, str]
    tree: Node = field(repr=False, compare=False)

    def position(self, *key: str | int) -> Position:
        """Where the value at `key` stands, or the nearest key above it."""
        return self.tree.place(key)

    def mistake(self, key: tuple[str | int, ...], message: str) -> Mistake:
        """A mistake about the value at `key`."""
        return Mistake(self.position(*key), dotted(key), message)
