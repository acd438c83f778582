"""Builds the artifact of one stage: rows through the driver, a whole directory, or an effect outside.

An artifact is built in a staging directory that nobody reads and becomes visible by one rename, with a record of all
that was hashed, asked and spent. Under a lock that saves work and never data, a second run of the same stage waits and
then takes the first one's artifact. This file does not know which stages are wanted, nor in which order.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from ssd_pipeline.contexts import Inputs, Pool, RowWork, StageWork
from ssd_pipeline.errors import RunError, StoreError, boundary
from ssd_pipeline.events import Listen, finished_event
from ssd_pipeline.graph import price_of
from ssd_pipeline.isolated import Workers
from ssd_pipeline.planner import Plan
from ssd_pipeline.recipe import StageDef
from ssd_pipeline.records import Paid, Row, Spend, arrow_schema, columns
from ssd_pipeline.resolver import fingerprint
from ssd_pipeline.rows import Driver, Keyed, Tally, adopt, finished_rows, row_keys
from ssd_pipeline.stage import EffectStage, Input, RowStage, WholeStage
from ssd_pipeline.store import artifact, durable
from ssd_pipeline.store.journal import Journal
from ssd_pipeline.store.local import Artifact, now
from ssd_pipeline.store.merged import RowWriter, finished_before, write_keys

LOCK_SECONDS = 0.5
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TOOLS = ("ssd-pipeline", "torch", "transformers", "tokenizers", "trl", "peft", "math-verify", "sympy", "pyarrow")


class StageRun:
    """One stage of one run."""

    def __init__(self, plan: Plan, name: str, listen: Listen) -> None:
        self.plan, self.name, self.listen = plan, name, listen
        self.planned = plan.stages[name]
        self.definition: StageDef = plan.document.stages[name]
        self.inputs = Inputs(plan)
        self.began, self.started = time.monotonic(), now()
        self.fingerprint = fingerprint(self.planned)

    def run(self) -> None:
        """Run the stage under its lock, or take what another run has made meanwhile. Raises StoreError for whatever
        the system refuses on the way."""
        with durable.refusals(f"make {self.name}"):
            if isinstance(self.definition.kind, EffectStage):
                self._effect(self.definition.kind)
            else:
                self._artifact(self.definition.kind)

    def _artifact(self, kind: RowStage | WholeStage) -> None:
        lock = self.plan.store.lock(self.fingerprint)
        try:
            waited = False
            while not lock.take():
                if not waited:
                    self.listen({"event": "progress", "stage": self.name, "done": 0, "total": None, "waiting": True})
                waited = True
                time.sleep(LOCK_SECONDS)
            if self._made_meanwhile():
                return
            computed, paid = self._rows(kind) if isinstance(kind, RowStage) else self._whole(kind)
        finally:
            lock.release()
        self._finished(computed, paid)

    def _made_meanwhile(self) -> bool:
        made = isinstance(self.plan.store.find(str(self.planned.address), self.planned.key), Artifact)
        if made:
            self._finished(0, Paid())
        return made

    def _finished(self, computed: int, paid: Paid) -> None:
        self.plan.refresh()
        self.plan.resolver.remember(self.name, self.plan.stages[self.name])
        self.listen(finished_event(self.plan, self.name, self.began, computed=computed, paid=paid))

    # ------------------------------------------------------------------------------------------- row stages

    def _rows(self, kind: RowStage) -> tuple[int, Paid]:
        inputs = self.inputs.of(self.definition)
        params = self.definition.params
        reads = list(dict.fromkeys([*kind.reads(params), *kind.seeded_by]))
        have = set(input_schema(inputs).names)
        keyed = row_keys(self.fingerprint, kind, params, chained(inputs, [n for n in reads if n in have]))
        journal = self.plan.store.journal(self.fingerprint, {c.name for c in columns(kind.adds)})
        tally = Tally(total=len(keyed))
        if journal.damaged:
            self._note(f"{journal.damaged} of the kept rows cannot be read or are of another version: made anew")
        try:
            self._adopt(kind, journal, {k.key for k in keyed})
            served = in_loop(self._drive(kind, inputs, keyed, journal, tally))
            self._commit_rows(kind, inputs, keyed, journal, tally, served)
            journal.drop({k.key for k in keyed})
        finally:
            journal.close()
        return tally.computed, tally.paid

    def _adopt(self, kind: RowStage, journal: Journal, wanted: set[str]) -> None:
        """Rows that earlier artifacts of this stage identity hold need not be computed again."""
        for address in self.plan.store.same_identity(self.fingerprint):
            found = self.plan.store.find(address)
            if isinstance(found, Artifact) and not wanted <= set(journal):
                self.plan.store.verified(found)
                with boundary(StoreError, f"the rows of {address} cannot be taken over; `ssd rm {address}` removes it"):
                    adopt(journal, wanted, finished_before(found.directory, kind.adds))

    async def _drive(
        self, kind: RowStage, inputs: list[Input], keyed: list[Keyed], journal: Journal, tally: Tally
    ) -> Any:
        stop = asyncio.Event()
        prepared = None
        if kind.prepare:
            prepared = kind.prepare(self.definition.params, self._work(inputs, Path(), Path(), frozenset()))

        def context(ordinal: int) -> RowWork:
            take = self.planned.take
            return RowWork(pool, self.definition.seed or 0, take, ordinal, prepared, tally.use)

        async with AsyncExitStack() as closing:  # each is closed, also when closing another one fails
            closing.enter_context(self._signals(stop))
            replies = self.plan.store.replies()
            closing.callback(replies.close)
            workers = Workers()
            closing.push_async_callback(asyncio.to_thread, workers.close)
            pool = Pool(self.inputs, workers, replies, tally.pay, self._note)
            closing.push_async_callback(pool.close)
            driver = Driver(
                kind,
                self.definition.params,
                journal,
                context,
                min(self.plan.document.runtime.rows_in_flight, max(1, tally.total)),
                self.definition.keep_errors,
                self._report,
                replies.flush,
                stop,
            )
            await driver.drive(chained(inputs), keyed, tally)
            return await pool.served()

    @contextmanager
    def _signals(self, stop: asyncio.Event) -> Iterator[None]:
        """The first signal lets the rows in flight finish, the second leaves; what was set before is set again."""
        if threading.current_thread() is not threading.main_thread():
            yield  # in a notebook the kernel owns the signals
            return
        loop = asyncio.get_running_loop()
        before = {sign: signal.getsignal(sign) for sign in STOPPING if signal.getsignal(sign) is not signal.SIG_IGN}
        for sign in before:
            loop.add_signal_handler(sign, self._stop, stop)
        try:
            yield
        finally:
            for sign, handler in before.items():
                loop.remove_signal_handler(sign)
                signal.signal(sign, handler or signal.SIG_DFL)

    def _note(self, text: str) -> None:
        self.listen({"event": "progress", "stage": self.name, "done": 0, "total": None, "note": text})

    def _stop(self, stop: asyncio.Event) -> None:
        if stop.is_set():
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))  # threads are not waited for
            raise KeyboardInterrupt
        stop.set()
        self.listen({"event": "progress", "stage": self.name, "done": 0, "total": None, "stopping": True})

    def _report(self, tally: Tally) -> None:
        self.listen(
            {
                "event": "progress",
                "stage": self.name,
                "done": tally.done,
                "total": tally.total,
                "computed": tally.computed,
                "fates": dict(tally.fates),
                "spend": asdict(tally.spend),
                "paid": asdict(tally.paid),
            }
        )

    def _commit_rows(
        self, kind: RowStage, inputs: list[Input], keyed: list[Keyed], journal: Journal, tally: Tally, served: Any
    ) -> None:
        declared = columns(kind.adds)
        measured = self._measured_above(inputs) | {c.name for c in declared if c.measured}
        measured -= {c.name for c in declared if not c.measured}
        schema = widened(input_schema(inputs), arrow_schema(kind.adds))
        fates: Counter[str] = Counter()
        errors: Counter[str] = Counter()
        spend = Spend()
        with self._staging() as staging:
            writer = RowWriter(staging / "data", schema, kind.adds, frozenset(measured))
            for row, added in finished_rows(chained(inputs), keyed, journal):
                writer.append(row, added)
                if "fate" in added:
                    fates[added["fate"]] += 1
                if added.get("error") and added["error"] != row.get("error"):
                    errors[added["error"][:200]] += 1
                if added.get("spend"):
                    spend += Spend(**added["spend"])
            tables = writer.close()
            write_keys(staging / "data", [k.key for k in keyed])
            rows = artifact.read_rows(staging)
            told = {
                "fates": dict(fates),
                "errors": dict(errors.most_common(3)),
                "spend": asdict(spend),
                "paid": asdict(tally.paid),
                "cost": self._cost(spend),
                "computed": tally.computed,
                "served": served,
                "summary": dict(kind.summarize(self.definition.params, rows)) if kind.summarize else {},
            }
            self._commit(staging, tables, measured, told)

    def _cost(self, spend: Spend) -> dict[str, float] | None:
        """What the rows' tokens cost, prompts left out, as if all had been bought now."""
        price = price_of(self.plan.document, self.definition)
        return {k: price.of(v) for k, v in asdict(spend).items() if k != "scored"} if price else None

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        """A fresh staging directory; when the stage fails it goes at once, for the disk may be full."""
        staging = self.plan.store.staging(str(self.planned.address))
        try:
            yield staging
        except BaseException:
            with suppress(StoreError):
                durable.remove(staging)
            raise

    def _measured_above(self, inputs: list[Input]) -> set[str]:
        return {name for i in inputs for name in i.record.get("measured", [])}

    # ----------------------------------------------------------------------------------- whole, effect stages

    def _work(self, inputs: list[Input], out: Path, work: Path, measured: frozenset[str]) -> StageWork:
        def progress(done: int, total: int | None) -> None:
            self.listen({"event": "progress", "stage": self.name, "done": done, "total": total, "spend": {}})

        def write(schema: Any, rows: Iterable[Row]) -> dict[str, Any]:
            return artifact.write_table(out, "rows", schema, rows, measured)

        seed, take = self.definition.seed or 0, self.planned.take
        return StageWork(self.inputs, self.definition, seed, take, inputs, out, work, write, progress)

    def _whole(self, kind: WholeStage) -> tuple[int, Paid]:
        key = str(self.planned.key)
        inputs, kept = self.inputs.of(self.definition), self.plan.store.work(key)
        measured = {c.name for c in columns(kind.adds) if c.measured} if kind.adds else self._measured_above(inputs)
        with self._staging() as staging:
            work = self._work(inputs, staging / "data", kept, frozenset(measured))
            summary = dict(kind.run(self.definition.params, work))
            self._commit(staging, work.tables, measured, {"summary": summary})
        self.plan.store.drop_work(key)
        return work.tables.get("rows", {}).get("rows", 0), Paid()

    def _effect(self, kind: EffectStage) -> None:
        inputs = self.inputs.of(self.definition)
        already = kind.done(self.definition.params, [i.digest for i in inputs])
        summary: dict[str, Any] = {}
        if not already:
            key = str(self.planned.key)
            work = self._work(inputs, Path(), self.plan.store.work(key), frozenset())
            summary = dict(kind.run(self.definition.params, work))
            self.plan.store.drop_work(key)
        event = finished_event(self.plan, self.name, self.began, computed=0 if already else 1, paid=Paid())
        self.listen({**event, "reused": int(already), "summary": summary})

    def _commit(self, staging: Path, tables: dict[str, Any], measured: set[str], more: dict[str, Any]) -> None:
        files = artifact.describe_files(staging / "data")
        artifact.complete(files, tables)
        rows = tables.get("rows", {})
        by_files = getattr(self.definition.kind, "gives", "rows") == "adapter"
        content = artifact.files_content(files) if by_files else rows["content"]
        record = {
            "format": artifact.FORMAT,
            "kind": self.planned.kind,
            "address": self.planned.address,
            "key": self.planned.key,
            "fingerprint": self.fingerprint,
            "identity": dict(self.planned.identity),
            "inputs": [
                {**said, "address": self.plan.stages[name].address}
                for said, name in zip(self.plan.resolver.inputs(self.definition), self.definition.inputs, strict=True)
            ],
            "uses": [
                {"address": self.plan.stages[name].address, "content": self.inputs.artifact(name).record["content"]}
                for name in self.plan.dependencies(self.name)
                if name not in self.definition.inputs
            ],
            "content": content,
            "digest": content if by_files else rows["digest"],
            "rows": None if by_files else rows["rows"],
            "tables": tables,
            "measured": sorted(measured),
            "files": files,
            "recipe": {"name": self.plan.document.name, "stage": self.name, "texts": dict(self.plan.document.texts)},
            "tools": tool_versions(),
            "started": self.started,
            "ended": now(),
            "seconds": round(time.monotonic() - self.began, 3),
            **more,
        }
        self.plan.store.commit(staging, record)


def in_loop(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine, also where a loop is running already (a notebook): then in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def chained(inputs: list[Input], names: list[str] | None = None) -> Iterator[Row]:
    """The rows of all inputs, one after the other."""
    for source in inputs:
        yield from source.rows(names)


def input_schema(inputs: list[Input]) -> Any:
    """The one schema of all inputs. Raises RunError when their columns do not agree."""
    import pyarrow as pa

    try:
        return pa.unify_schemas([artifact.read_schema(i.directory.parent) for i in inputs])
    except pa.ArrowInvalid as cause:
        raise RunError(
            f"the inputs {', '.join(i.name for i in inputs)} have columns that do not agree: {cause}"
        ) from cause


def widened(schema: Any, adds: Any) -> Any:
    """The columns of `schema` with those of `adds` behind them; one that both have is the added one, in its place."""
    import pyarrow as pa

    added = {f.name: f for f in adds}
    return pa.schema([added.pop(f.name, f) for f in schema] + list(added.values()))


@cache
def tool_versions() -> dict[str, str]:
    """Versions of ours and of every installed library that could matter; recorded and shown, never identity."""
    versions = {"python": sys.version.split()[0]}
    for name in TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed
    return versions
