"""Whether those whom a recipe needs are there and do what it wants: tried before a user spends anything.

With a handful of rows and tokens everything is tried that a run needs of the outside: the store, installed packages,
every Hub repo and endpoint that is named, the first rows of the problems, a chunk of each model that is sampled, and
that chunk under each model that scores or is trained. A check that fails stops no other one. A model whose adapter is
not made yet is tried without it. This file prints nothing, stores nothing but the commits of revisions, and does not
know how a stage runs.
"""

from __future__ import annotations

import asyncio
import importlib.util
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from ssd_pipeline import models
from ssd_pipeline.building import in_loop
from ssd_pipeline.contexts import Inputs
from ssd_pipeline.errors import RunError, SsdError, UserErrors, boundary
from ssd_pipeline.graph import model_stages, sampled_models
from ssd_pipeline.identities import sibling
from ssd_pipeline.names import stage_of
from ssd_pipeline.planner import Plan, unresolved
from ssd_pipeline.preview import first_problem, first_rows
from ssd_pipeline.stage import (
    Chunk,
    EffectStage,
    HubMark,
    Model,
    ModelMark,
    Sample,
    Sampling,
    Score,
    Stage,
    WholeStage,
    marked,
)
from ssd_pipeline.store import hub

TOKENS = 32  # of the chunk that is sampled
ANSWER_S = 60.0  # for an endpoint to say what it serves, or to write that chunk
STAND_IN = "What is 1 + 1?", "1 + 1 = 2"  # a problem where none can be had yet, a text where none was sampled


@dataclass(frozen=True)
class Check:
    """One line of the doctor: what was tried, and what came of it."""

    about: str
    says: str
    works: bool = True


def examine(path: str, kinds: Mapping[str, Stage], sets: Sequence[str] = ()) -> Iterator[Check]:
    """Try everything that a run of the recipe needs, one check after the other; no token of an endpoint is shown.

    Raises UserErrors for mistakes in the recipe itself.
    """
    plan = unresolved(path, kinds, sets=sets)
    with suppress(SsdError):  # the Hub or the store, which are told below
        plan.refresh()
    tokens = [m.token.get_secret_value() for m in plan.document.runtime.models.values() if m.token]
    for check in chain(_here(plan), _repos(plan), _stages(plan), _Trial(plan).checks()):
        says = check.says
        for token in filter(None, tokens):
            says = says.replace(token, "***")
        yield replace(check, says=says)


def _tried(about: str, call: Callable[..., str], *args: Any) -> Check:
    """A check: what a call says, or why it failed, without its place in a file."""
    try:
        with boundary(RunError, "it failed"):
            return Check(about, call(*args))
    except SsdError as failed:
        return Check(about, _told(failed), works=False)


def _told(error: SsdError) -> str:
    """An error without its place in a file."""
    return "; ".join(m.message for m in error.mistakes) if isinstance(error, UserErrors) else str(error)


def _here(plan: Plan) -> Iterator[Check]:
    """This machine: a store that can be written, and the packages that the stages need."""
    root = plan.store.root.absolute()
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    free = f"{shutil.disk_usage(there).free / 1e9:.1f} GB free"
    yield Check(f"store {root}", free if writable else "cannot be written: set SSD_HOME to a folder that can", writable)
    needed: dict[str, dict[str, None]] = {}
    for name, definition in plan.document.stages.items():
        if definition.kind.extra:
            needed.setdefault(definition.kind.extra, {})[stage_of(name)] = None
    for extra, users in needed.items():
        name, _, module = extra.partition(":")
        found = importlib.util.find_spec(module) is not None
        says = "is there" if found else f"is not installed: pip install 'ssd-pipeline[{name}]'"
        yield Check(f"package {module}, for {', '.join(users)}", says, found)


def _repos(plan: Plan) -> Iterator[Check]:
    """Every repo that is read, once. Of one that is pinned to a commit the files are asked for by later checks."""
    named: dict[tuple[Any, str, str], None] = {}
    for model in plan.document.models.values():
        for source in (model, model.adapter):
            if source is not None and source.repo:
                named["model", source.repo, source.revision or "main"] = None
    for definition in plan.document.stages.values():
        for path, mark, value in marked(definition.params):
            if isinstance(mark, HubMark):
                named[mark.repo_type, value, sibling(definition.params, path, mark) or "main"] = None
    for repo_type, repo, revision in named:
        yield _tried(f"{repo_type} {repo}@{revision}", plan.resolver.revisions.commit, repo_type, repo, revision)
    cache = plan.document.runtime.hub
    if cache is not None:
        yield _tried(f"cache {cache.repo}", _cache, cache.repo)


def _cache(repo: str) -> str:
    return "is there" if hub.versions(repo, "dataset") else "has no version, or is not there yet"


def _stages(plan: Plan) -> Iterator[Check]:
    """The first rows of all problems, and what the outside says to those who would change it."""
    for name in plan.order:
        definition = plan.document.stages[name]
        if isinstance(definition.kind, WholeStage) and definition.kind.loads:
            yield _tried(f"stage {name}", _problems, plan, name)
        elif isinstance(definition.kind, EffectStage) and definition.kind.ready is not None:
            yield _tried(f"stage {name}", definition.kind.ready, definition.params)


def _problems(plan: Plan, name: str) -> str:
    rows = first_rows(plan, name)
    bad = [str(row["error"]) for row in rows if row["error"]]
    usable = f"{len(rows) - len(bad)} of the first {len(rows)} rows can be used"
    return f"{usable}; {bad[0]}" if bad else usable


# ------------------------------------------------------------------------------------------------- the models


@dataclass
class _Use:
    """Models that differ in nothing but their names. `lacks`: adapters that are not made yet; `sampled_by`: a stage."""

    names: list[str] = field(default_factory=list)
    lacks: list[str] = field(default_factory=list)
    sampled_by: str | None = None
    scores: bool = False


class _Trial:
    """Tries the models of a plan. Sampling comes first, so that what was sampled is scored."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._text: tuple[str, str] | None = None

    def checks(self) -> Iterator[Check]:
        uses: dict[Model, _Use] = {}
        for name in self._plan.document.models:
            lacks = [s for s in model_stages(self._plan.document, name) if self._plan.stages[s].found is None]
            try:
                model = Inputs(self._plan).model(name, adapters=not lacks)
            except SsdError as failed:
                yield Check(f"model {name}", _told(failed), works=False)
            else:
                self._count(name, lacks, uses.setdefault(replace(model, name=""), _Use()))
        for model, use in uses.items():
            yield from self._sampling(replace(model, name=", ".join(use.names)), use)
        for model, use in uses.items():
            if use.scores:
                model = replace(model, name=", ".join(use.names))
                yield _tried(f"model {model.name}, scoring", self._scored, model, use)

    def _count(self, name: str, lacks: list[str], use: _Use) -> None:
        use.names.append(name)
        use.lacks = list(dict.fromkeys([*use.lacks, *lacks]))
        for stage in self._plan.order:
            definition = self._plan.document.stages[stage]
            if name in sampled_models(definition):
                use.sampled_by = use.sampled_by or stage
            for _, mark, value in marked(definition.params):
                use.scores |= isinstance(mark, ModelMark) and value == name and (mark.scores or mark.trains)

    def _sampling(self, model: Model, use: _Use) -> Iterator[Check]:
        """Each endpoint by itself, without patience; a local model once, where it is sampled at all."""
        if model.runtime.api == "transformers":
            if use.sampled_by:
                yield _tried(f"model {model.name}, sampling", self._sampled, model, use)
            return
        for url in model.runtime.endpoints:
            short = {"endpoints": (url,), "patience_s": 0.0, "timeout_s": min(ANSWER_S, model.runtime.timeout_s)}
            runtime = model.runtime.model_copy(update=short)
            yield _tried(f"model {model.name} at {url}", self._sampled, replace(model, runtime=runtime), use)

    def _sampled(self, model: Model, use: _Use) -> str:
        return str(in_loop(self._sample(model, use)))

    async def _sample(self, model: Model, use: _Use) -> str:
        sampler = await asyncio.to_thread(models.open_sampler, model)
        try:
            served = await sampler.served()
            says = "runs here"
            if model.runtime.endpoints:
                says = f"serves {served.model} {(served.revision or '')[:8]}".rstrip() + f" ({served.check})"
            if use.sampled_by is None:
                return says
            prompts = await asyncio.to_thread(models.open_prompts, model)
            problem, ask = self._question(use.sampled_by, prompts.render)
            branches = await sampler.sample(ask)
        finally:
            await sampler.close()
        self._text = self._text or (problem, prompts.respond(problem, branches[0].text))
        tokens = " and ".join(str(branch.tokens) for branch in branches)
        return f"{says}; wrote {tokens} tokens{_without(use)}"

    def _question(self, stage: str, render: Callable[[str], str]) -> tuple[str, Sample]:
        """What a stage asks first, but for a short chunk and two branches at most."""
        params = self._plan.document.stages[stage].params
        try:
            problem = first_problem(self._plan, stage)
        except SsdError:
            problem = STAND_IN[0]  # what is wrong with the problems is said where they are loaded
        said = getattr(params, "chunk", Chunk())
        chunk = Chunk(max_tokens=min(said.max_tokens, TOKENS), stop=said.stop)
        seeds = tuple(range(1, 1 + min(2, getattr(params, "branches", 1))))
        return problem, Sample(render(problem), "", chunk, getattr(params, "sampling", Sampling()), seeds)

    def _scored(self, model: Model, use: _Use) -> str:
        return str(in_loop(self._score(model, use)))

    async def _score(self, model: Model, use: _Use) -> str:
        problem, text = self._text or STAND_IN
        prompts = await asyncio.to_thread(models.open_prompts, model)
        scorer = await asyncio.to_thread(models.open_scorer, model)
        try:
            (scored,) = await scorer.score(Score(prompts.before_response(problem), "", (text,)))
        finally:
            await scorer.close()
        nll = -sum(scored.logprobs) / max(1, len(scored.logprobs))
        if not math.isfinite(nll):
            raise RunError("its log-probabilities are not finite; try another `dtype`")
        return f"perplexity {math.exp(nll):.3g} of {len(scored.logprobs)} tokens{_without(use)}"


def _without(use: _Use) -> str:
    return f" (without what {', '.join(use.lacks)} will train)" if use.lacks else ""
