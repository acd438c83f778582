"""What a running stage gets to work with: its inputs, its models, and a place to write.

Models are opened when a stage first asks for them and closed when the stage ends, so that a student on the GPU makes
room for its own training. Every byte of an artifact is verified before a stage sees it. This file does not know in
which order stages run, nor what they do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd_pipeline import models
from ssd_pipeline.errors import StoreError
from ssd_pipeline.identities import sibling
from ssd_pipeline.isolated import Workers
from ssd_pipeline.planner import Plan
from ssd_pipeline.recipe import ModelDef, StageDef
from ssd_pipeline.recorded import RecordedSampler, RecordedScorer
from ssd_pipeline.records import Paid, Row, Spend
from ssd_pipeline.stage import HubMark, Input, Model, Prompts, Sampler, Scorer, StageRef, marked
from ssd_pipeline.store import artifact, bundle
from ssd_pipeline.store.identity import digest_of
from ssd_pipeline.store.local import Artifact
from ssd_pipeline.store.replies import Replies

if TYPE_CHECKING:
    import pyarrow as pa


PATIENT_SECONDS = 3.0  # so long an endpoint may take to answer before the user is told


class Inputs:
    """Finished stages of a plan, as inputs of others."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def artifact(self, name: str) -> Artifact:
        """The verified artifact of a finished stage."""
        found = self._plan.stages[name].found
        if found is None:
            raise StoreError(f"the output of {name} is gone: run the same command again")
        return self._plan.store.verified(found)

    def open(
        self,
        name: str,
        where: dict[str, tuple[Any, ...]] | None = None,
        weight: float = 1.0,
        made_from: tuple[int, ...] = (),
    ) -> Input:
        """An input as a stage reads it."""
        found = self.artifact(name)

        def read(columns: Sequence[str] | None) -> Iterator[Row]:
            wanted = None if columns is None else list(dict.fromkeys([*columns, *(where or ())]))
            rows = artifact.read_rows(found.directory, columns=wanted)
            if not where:
                return rows
            return (row for row in rows if all(row[k] in allowed for k, allowed in where.items()))

        digest = found.record["digest"]
        if where:
            digest = digest_of({"digest": digest, "where": {k: sorted(v, key=repr) for k, v in where.items()}})
        kind = self._plan.stages[name].kind
        above = bundle.lineage(self._plan.store, found.record)
        return Input(name, kind, found.address, found.data, found.record, weight, read, digest, above, made_from)

    def of(self, definition: StageDef) -> list[Input]:
        """All inputs of a stage, in order."""
        weights = definition.weights or (1.0,) * len(definition.inputs)
        made_from = definition.made_from or ((),) * len(definition.inputs)
        every = zip(definition.inputs, weights, made_from, strict=True)
        return [self.open(name, definition.where, weight, places) for name, weight, places in every]

    def model(self, name: str, *, adapters: bool = True) -> Model:
        """A model of the recipe with its adapters found, lowest first; or without them."""
        definition = self._plan.document.models[name]
        root = definition
        folders: list[Path] = []
        while True:
            folders = [*(self._adapter(root) if adapters else ()), *folders]
            if root.base is None:
                break
            root = self._plan.document.models[root.base]
        commit = self._plan.resolver.revisions.commit
        return Model(
            name=name,
            repo=root.repo,
            revision=commit("model", root.repo, root.revision or "main") if root.repo else None,
            path=root.path,
            dtype=definition.dtype if definition.dtype != "auto" else root.dtype,
            adapters=tuple(folders),
            format=definition.format,
            trust_remote_code=root.trust_remote_code,
            runtime=definition.runtime,
        )

    def revision(self, definition: StageDef, repo: str) -> str:
        """The commit of a Hub repo that a parameter of the stage names."""
        for path, mark, value in marked(definition.params):
            if isinstance(mark, HubMark) and value == repo:
                return self._plan.resolver.revisions.commit(
                    mark.repo_type, repo, sibling(definition.params, path, mark) or "main"
                )
        raise StoreError(f"{repo} is not named by this stage")

    def weights(self, name: str) -> dict[str, Any]:
        """The identity of what a model computes, as replies are keyed by it."""
        return self._plan.resolver.identities.weights(self._plan.document.models[name])

    def _adapter(self, definition: ModelDef) -> list[Path]:
        adapter = definition.adapter
        if adapter is None:
            return []
        if adapter.stage:
            return [self.artifact(adapter.stage).data]
        if adapter.path:
            return [adapter.path]
        from ssd_pipeline.store import hub

        commit = self._plan.resolver.revisions.commit("model", str(adapter.repo), adapter.revision or "main")
        return [hub.snapshot(str(adapter.repo), "model", commit, ["adapter_*"])]


@dataclass
class Pool:
    """The models and workers of one running stage, opened at first use."""

    inputs: Inputs
    workers: Workers
    replies: Replies
    paid: Callable[[Paid], None]
    tell: Callable[[str], None]
    _open: dict[tuple[str, str], asyncio.Future[Any]] = field(default_factory=dict)
    _rooms: dict[str, asyncio.Semaphore] = field(default_factory=dict)
    _full: set[str] = field(default_factory=set)

    async def get(self, what: str, name: str, opener: Callable[[Model], Any]) -> Any:
        """The one instance of a model in one role; loading blocks a thread, not the loop."""
        key = (what, name)
        if key not in self._open:
            self._open[key] = asyncio.ensure_future(self._load(opener, self.inputs.model(name)))
        return await asyncio.shield(self._open[key])

    async def _load(self, opener: Callable[[Model], Any], model: Model) -> Any:
        weights = self.inputs.weights(model.name)
        if opener is models.open_sampler:
            sampler = await asyncio.to_thread(models.open_sampler, model, self.tell)
            await self._connected(sampler, model)
            price = model.runtime.price
            metered = {"meter": await asyncio.to_thread(models.open_meter, model)} if price and price.prompt else {}
            return RecordedSampler(sampler, self.replies, weights, self.paid, price, tell=self.tell, **metered)
        opened = await asyncio.to_thread(opener, model)
        if opener is models.open_scorer:
            return RecordedScorer(opened, self.replies, weights, self.paid)
        return opened

    async def _connected(self, sampler: Sampler, model: Model) -> None:
        """A wrong or dead endpoint stops the run here, before anything is spent; a wait is told."""
        asked = asyncio.ensure_future(sampler.served())
        try:
            done, _ = await asyncio.wait([asked], timeout=PATIENT_SECONDS)
            if not done:
                urls = ", ".join(model.runtime.endpoints)
                self.tell(f"waiting for model {model.name} at {urls}, {model.runtime.patience_s:g} s at most")
            await asked
        finally:
            asked.cancel()

    @asynccontextmanager
    async def room(self, name: str, tokens: int) -> AsyncIterator[None]:
        """A place among the texts that a scorer remembers at once; that rows wait for one is told once."""
        scorer: Scorer = await self.get("scorer", name, models.open_scorer)
        places = scorer.at_once(tokens)
        if name not in self._rooms:
            self._rooms[name] = asyncio.Semaphore(places)
        elif self._rooms[name].locked() and name not in self._full:
            self._full.add(name)
            what = f"cache_gb ({self.inputs.model(name).runtime.cache_gb:g}) of model {name} holds {places} texts"
            self.tell(f"{what} of about {tokens} tokens, so that {places} rows are worked on at once")
        async with self._rooms[name]:
            yield

    async def served(self) -> dict[str, Any]:
        """What answered in the place of each sampled model."""
        found = {}
        for (what, name), future in self._open.items():
            if what == "sampler" and future.done() and not future.exception():
                says = await future.result().served()
                found[name] = asdict(says)
        return found

    async def close(self) -> None:
        for (what, _), future in self._open.items():
            if not future.done():
                future.cancel()  # still waiting for its endpoint: nobody else does any more
            if what != "prompts":
                opened = await asyncio.gather(future, return_exceptions=True)
                if not isinstance(opened[0], BaseException):
                    await opened[0].close()
        self._open.clear()


@dataclass
class RowWork:
    """The context of one row (`RowContext`)."""

    pool: Pool
    seed: int
    take: int
    ordinal: int
    prepared: Any
    on_spend: Callable[[Spend], None]

    async def sampler(self, model: str) -> Sampler:
        found: Sampler = await self.pool.get("sampler", model, models.open_sampler)
        return found

    async def scorer(self, model: str) -> Scorer:
        found: Scorer = await self.pool.get("scorer", model, models.open_scorer)
        return found

    async def prompts(self, model: str) -> Prompts:
        found: Prompts = await self.pool.get("prompts", model, models.open_prompts)
        return found

    def room(self, model: str | None, tokens: int) -> AbstractAsyncContextManager[None]:
        return nullcontext() if model is None else self.pool.room(model, tokens)

    async def isolated(self, function: str, *args: Any, timeout_s: float) -> Any:
        return await self.pool.workers.call(function, *args, timeout_s=timeout_s)

    def spent(self, spend: Spend) -> None:
        self.on_spend(spend)


@dataclass
class StageWork:
    """The context of a whole stage (`StageContext`)."""

    source: Inputs
    definition: StageDef
    seed: int
    take: int
    inputs: Sequence[Input]
    out: Path
    work: Path
    write: Callable[[pa.Schema, Iterable[Row]], dict[str, Any]]
    on_progress: Callable[[int, int | None], None]
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)

    def stage(self, ref: StageRef) -> Input:
        return self.source.open(ref.stage)

    def model(self, name: str) -> Model:
        return self.source.model(name)

    def revision(self, repo: str) -> str:
        return self.source.revision(self.definition, repo)

    def progress(self, done: int, total: int | None) -> None:
        self.on_progress(done, total)

    def write_rows(self, schema: pa.Schema, rows: Iterable[Row]) -> int:
        self.tables["rows"] = self.write(schema, rows)
        return int(self.tables["rows"]["rows"])
