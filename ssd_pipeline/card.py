"""The text of a data set card: what was asked, what came out, and how to load it.

A card belongs to the people who edit it. Ours are the configs and tags in its front matter and one marked block for
each output; everything else is kept, byte for byte where the front matter did not change. Rendering a card again gives
the same card, so a repeated publication changes nothing. Foreign text cannot break out: cells are escaped, fences are
longer than any run of backticks inside, and our marks cannot be written by data. This file does not know the Hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from ssd_pipeline.errors import RunError

TAGS = ("reasoning", "distillation", "gen-ssd", "ssd_pipeline")
FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?$\n?", re.DOTALL | re.MULTILINE)
MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#|!~&])")


@dataclass(frozen=True)
class Config:
    """One config of the repo: its name, the folder of its files, its rows and column names."""

    name: str
    folder: str
    rows: int
    columns: Sequence[str]


@dataclass(frozen=True)
class Output:
    """One published stage. `configs`: its rows first, then side tables. `asked`, `came_out`: plain data."""

    name: str
    kind: str
    digest: str
    configs: Sequence[Config]
    asked: Mapping[str, Any] = field(default_factory=dict)
    came_out: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Release:
    """What one publication says of itself."""

    repo: str
    version: str
    outputs: Sequence[Output]
    license: str | None = None
    pretty_name: str | None = None
    description: str | None = None


def render(release: Release, present: str | None) -> str:
    """The card of a repo after a release; `present` is the card that is there now.

    Raises RunError when the present front matter is not YAML: it is somebody's work and is not thrown away.
    """
    front, body = parts(present or "")
    head = (present or "").removesuffix(body)
    if present is None:
        title = release.pretty_name or release.repo.split("/")[-1]
        about = f"\n\n{release.description.strip()}" if release.description else ""
        body = f"\n# {escaped(title)}{about}\n"
    for output in release.outputs:
        body = _placed(body, output.name, _block(release, output))
    merged = _merged(front, release)
    if present is not None and merged == front:
        return head + body
    return f"---\n{yaml.safe_dump(merged, sort_keys=False, allow_unicode=True, width=120)}---\n{body}"


def parts(text: str) -> tuple[dict[str, Any], str]:
    """The front matter of a card and what stands below it. Raises RunError when the former is not a YAML mapping."""
    found = FRONT.match(text)
    if not found:
        return {}, text
    try:
        front = yaml.safe_load(found[1]) or {}
    except (yaml.YAMLError, ValueError) as cause:
        raise RunError("the front matter of README.md in the repo is not YAML: repair it, nothing was sent") from cause
    if not isinstance(front, dict):
        raise RunError("the front matter of README.md in the repo is not a mapping: repair it, nothing was sent")
    return front, text[found.end() :]


def escaped(text: str) -> str:
    """Text that Markdown and HTML show as it is, on one line."""
    return MARKDOWN.sub(r"\\\1", " ".join(str(text).split()))


def fenced(text: str, language: str) -> str:
    """A code block that its text cannot end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _merged(front: Mapping[str, Any], release: Release) -> dict[str, Any]:
    """Front matter with our configs and tags in it; other keys and other people's configs stay."""
    merged = dict(front)
    for key in ("license", "pretty_name"):
        if getattr(release, key) is not None:
            merged[key] = getattr(release, key)
    tags = _listed(front.get("tags"))
    merged["tags"] = [*tags, *(tag for tag in TAGS if tag not in tags)]
    merged.setdefault("task_categories", ["text-generation"])
    configs = [c for output in release.outputs for c in output.configs]
    ours = {c.name for c in configs}
    others = [c for c in _listed(front.get("configs")) if not (isinstance(c, dict) and c.get("config_name") in ours)]
    has_default = any(isinstance(c, dict) and (c.get("default") or c.get("config_name") == "default") for c in others)
    said: list[dict[str, Any]] = []
    for place, config in enumerate(configs):
        files = [{"split": "train", "path": f"{config.folder}/train-*.parquet"}]
        first = {"default": True} if place == 0 and not has_default and "default" not in ours else {}
        said.append({"config_name": config.name, "data_files": files, **first})
    merged["configs"] = [*said, *others]
    if "dataset_info" in merged:  # sizes that somebody wrote for files that are replaced now
        merged["dataset_info"] = [i for i in _listed(merged["dataset_info"]) if i.get("config_name") not in ours]
        if not merged["dataset_info"]:
            del merged["dataset_info"]
    return merged


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list) else [value]


def _placed(body: str, name: str, block: str) -> str:
    """The body with an output's block in its place, or at the end when it has none yet."""
    begin, end = (f"<!-- ssd_pipeline:{edge} {name} -->" for edge in ("begin", "end"))
    marked = f"{begin}\n{block}\n{end}"
    before, found, rest = body.partition(begin)
    _, closed, after = rest.partition(end)
    if found and closed:
        return before + marked + after
    return body.rstrip("\n") + f"\n\n{marked}\n"


def _block(release: Release, output: Output) -> str:
    rows = output.configs[0]
    name = rows.name
    load = (
        "from datasets import load_dataset\n\n"
        f'rows = load_dataset("{release.repo}", "{name}", revision="{release.version}", split="train")'
    )
    table = ["| config | rows | columns |", "| --- | ---: | --- |"]
    table += [f"| {escaped(c.name)} | {c.rows:,} | {escaped(', '.join(c.columns))} |" for c in output.configs]
    return "\n\n".join(
        [
            f"## {escaped(output.name)}",
            "Made with ssd_pipeline by Gen-SSD ([arXiv 2604.02819](https://arxiv.org/abs/2604.02819)): the student "
            "judges the teacher while it writes.",
            "\n".join(table),
            "### What came out",
            f"Version `{release.version}`, kind `{output.kind}`, digest `{output.digest[:16]}`.",
            fenced(_json(output.came_out), "json"),
            "### What was asked",
            fenced(_json(output.asked), "json"),
            "### How to load it",
            fenced(load, "python"),
            f"Files, sizes, hashes and lineage: `manifests/{output.name}.json`.",
        ]
    )


def _json(value: Mapping[str, Any]) -> str:
    """JSON in which data cannot write our marks, or any HTML comment or tag."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).replace("<", "\\u003c")
