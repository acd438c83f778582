"""The text of a data set card: what was asked, what came out, and how to load it.

A card belongs to the people who edit it. Ours are the configs and tags in its front matter and one marked block for
each output; everything else is kept, byte for byte where the front matter did not change. Rendering a card again gives
the same card, so a repeated publication changes nothing. Foreign text cannot break out: cells are escaped, fences are
longer than any run of backticks inside, and our marks cannot be written by data. This file does not know the Hub.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ssd_pipeline.errors import RunError

TAGS = ("reasoning", "distillation", "gen-ssd", "ssd_pipeline")
CAME_OUT = ("rows", "fates", "summary", "spend", "served")
FRONT = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?$\n?", re.DOTALL | re.MULTILINE)
MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#|!~&])")


@dataclass(frozen=True)
class Config:
    """One table of the repo: the config it is loaded by, its rows, column names, files by their path in the repo."""

    name: str
    rows: int
    columns: Sequence[str]
    files: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """One published stage. `configs`: its rows first, then side tables; an adapter has none. `record`: of its artifact;
    `above`: the records of what it was made from, nearest first; both as they may be shown. `manifest`: its path in
    the repo."""

    name: str
    digest: str
    configs: Sequence[Config]
    record: Mapping[str, Any]
    above: Sequence[Mapping[str, Any]]
    manifest: str


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


def rendered(release: Release, present: bytes | None) -> bytes:
    """The same in bytes. Raises RunError when the present card is not text."""
    try:
        return render(release, None if present is None else present.decode("utf-8")).encode()
    except UnicodeDecodeError as cause:
        raise RunError("README.md in the repo is not UTF-8: repair it, nothing was sent") from cause


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
    """A code block that its text cannot end, and in which it cannot write our marks."""
    text = text.replace("<!--", "< !--")
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
    configs = [c for output in release.outputs for c in output.configs]
    if not configs:
        merged.setdefault("library_name", "peft")
        return merged
    merged.setdefault("task_categories", ["text-generation"])
    ours = {c.name for c in configs}
    others = [c for c in _listed(front.get("configs")) if not (isinstance(c, dict) and c.get("config_name") in ours)]
    has_default = any(isinstance(c, dict) and (c.get("default") or c.get("config_name") == "default") for c in others)
    said: list[dict[str, Any]] = []
    for place, config in enumerate(configs):
        files = [{"split": "train", "path": f"data/{config.name}/train-*.parquet"}]
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
    records = [output.record, *output.above]
    recipe = output.record.get("recipe", {})
    texts = {name: text for name, text in recipe.get("texts", {}).items() if not name.startswith("--set")}
    sets = [text for name, text in recipe.get("texts", {}).items() if name.startswith("--set")]
    again = f"ssd-run {next(iter(texts), 'recipe.yaml')}" + "".join(f" --set {shlex.quote(text)}" for text in sets)
    came_out = {one["kind"]: {n: one[n] for n in CAME_OUT if one.get(n)} for one in reversed(records) if "kind" in one}
    asked = {one["kind"]: one.get("identity", {}).get("params", {}) for one in reversed(records) if "kind" in one}
    tools = ", ".join(f"{name} {version}" for name, version in sorted(output.record.get("tools", {}).items()))
    return "\n\n".join(
        [
            f"## {escaped(output.name)}",
            _purpose(records),
            *([_table(("config", "rows", "columns"), map(_config_row, output.configs))] if output.configs else []),
            "### What came out",
            f"Version `{release.version}`, kind `{output.record.get('kind')}`, digest `{output.digest[:16]}`.",
            fenced(_json(came_out), "json"),
            "### What was asked",
            "Parameters that stand at their default are left out; models are named by repo and commit, or by content.",
            fenced(_json(asked), "json"),
            "### How to load it",
            fenced(_loading(release, output), "python"),
            "### How to make it again",
            f"With ssd_pipeline ({escaped(tools)}), the files below, and a `runtime:` that says where the models run:",
            fenced(again, "sh"),
            *(f"{escaped(name)}:\n\n{fenced(text, 'yaml')}" for name, text in texts.items()),
            "### Lineage",
            _table(("kind", "rows", "digest", "address"), map(_lineage_row, records)),
            f"Files, sizes, hashes and full records: `{output.manifest}`.",
        ]
    )


def model_of(records: Sequence[Mapping[str, Any]], role: str) -> str | None:
    """The model in a role (teacher, student, model), by the nearest record that has one; None when none has."""
    asked = (one.get("identity", {}).get("params", {}).get(role) for one in records)
    model = next((model for model in asked if isinstance(model, Mapping)), None)
    if model is None:
        return None
    name = f"{model['repo']}@{str(model.get('revision'))[:8]}" if model.get("repo") else "a local model"
    return name + (" + adapter" if model.get("adapters") else "")


def _purpose(records: Sequence[Mapping[str, Any]]) -> str:
    """Who wrote, who judged, and for whom."""
    asked = [one.get("identity", {}).get("params", {}) for one in records]
    method = (
        "by Gen-SSD ([arXiv 2604.02819](https://arxiv.org/abs/2604.02819)): a student judged the teacher's branches"
    )
    judged = any(said.get("teacher") and said.get("student") for said in asked)
    lines = [f"Made with ssd_pipeline, {method}." if judged else "Made with ssd_pipeline."]
    for role, what in (("teacher", "Written by"), ("student", "Made for the student"), ("model", "Trained on")):
        if name := model_of(records, role):
            lines.append(f"{what} {escaped(name)}.")
    return " ".join(lines)


def _loading(release: Release, output: Output) -> str:
    if not output.configs:
        base = "base = AutoModelForCausalLM.from_pretrained(...)  # what it was trained on, see above"
        load = f'model = PeftModel.from_pretrained(base, "{release.repo}", revision="{release.version}")'
        return f"from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n{base}\n{load}"
    load = f'load_dataset("{release.repo}", "{output.configs[0].name}", revision="{release.version}", split="train")'
    return f"from datasets import load_dataset\n\nrows = {load}"


def _config_row(config: Config) -> tuple[str, ...]:
    return config.name, f"{config.rows:,}", ", ".join(config.columns)


def _lineage_row(record: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(record.get(n) or "")[:40] for n in ("kind", "rows", "digest", "address"))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---:" if head == "rows" else "---" for head in heads], *(map(escaped, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _json(value: Mapping[str, Any]) -> str:
    """JSON in which data cannot write our marks, or any HTML comment or tag."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).replace("<", "\\u003c")
