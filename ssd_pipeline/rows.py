"""The one driver of row stages: keys, order, bounded concurrency, resume.

A row's key is the hash of the stage identity, the columns that the stage reads and the row's place among equal rows:
so a longer, filtered or shuffled input computes only new rows, and results do not depend on what finished first. Three
passes over the input keep memory bounded: take the keys, compute what no journal and no earlier artifact of the same
identity holds, then write all rows in input order. A curable error is never stored; an error that every one of the
first rows shares is the recipe's fault and stops the run. This file does not know what a stage does, nor which
artifact this will be.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssd_pipeline.errors import Interrupted, RowError, RunError, StoreError
from ssd_pipeline.records import Paid, Row, Spend, plain
from ssd_pipeline.stage import RowContext, RowStage
from ssd_pipeline.store.identity import canonical_row
from ssd_pipeline.store.journal import GROUP_SECONDS, Journal

ALL_FAILED = 20  # so many first rows with an error and none without: the recipe is wrong, not the rows
YIELD_EVERY = 32
PROGRESS_SECONDS = 0.25


@dataclass
class Tally:
    """What happened to the rows so far. `spend`: tokens that rows of this run used; `paid`: those that it bought."""

    total: int
    done: int = 0
    computed: int = 0
    reused: int = 0
    fates: Counter[str] = field(default_factory=Counter)
    spend: Spend = field(default_factory=Spend)
    paid: Paid = field(default_factory=Paid)

    def use(self, spend: Spend) -> None:
        """Count tokens that a row in work has used, bought now or before."""
        self.spend += spend

    def pay(self, paid: Paid) -> None:
        """Count tokens that were really bought or scored just now."""
        self.paid += paid


@dataclass(frozen=True)
class Keyed:
    """One input row: its key, and its place among rows of equal statement."""

    key: str
    ordinal: int


def row_keys(fingerprint: str, stage: RowStage, params: Any, rows: Iterable[Row]) -> list[Keyed]:
    """The keys of all rows in order; equal rows are told apart by their ordinal."""
    reads = stage.reads(params)
    equal: Counter[bytes] = Counter()
    statements: Counter[bytes] = Counter()
    keyed = []
    for row in rows:
        read = hashlib.sha256(canonical_row([row.get(name) for name in reads])).digest()
        statement = hashlib.sha256(canonical_row([row.get(name) for name in stage.seeded_by])).digest()
        seed = b"%b%b%d" % (bytes.fromhex(fingerprint), read, equal[read])
        keyed.append(Keyed(hashlib.sha256(seed).hexdigest()[:32], statements[statement] if stage.seeded_by else 0))
        equal[read] += 1
        statements[statement] += 1
    return keyed


@dataclass
class Driver:
    """Computes the missing rows of one stage. `stop` set: no new row is begun; see `drive`."""

    stage: RowStage
    params: Any
    journal: Journal
    context: Callable[[int], RowContext]
    in_flight: int
    keep_errors: bool
    report: Callable[[Tally], None]
    flush_replies: Callable[..., None]
    stop: asyncio.Event
    grace_s: float = 20.0

    async def drive(self, rows: Iterator[Row], keyed: Sequence[Keyed], tally: Tally) -> None:
        """Compute every row whose key the journal lacks.

        Raises RunError when curable errors are left or the first rows all fail, Interrupted after `stop`; whatever
        was finished is durable in the journal in every case.
        """
        self._held: list[tuple[str, str]] = []
        self._curable: list[str] = []
        self._tally, self._reported = tally, 0.0
        todo = self._missing(rows, keyed)
        try:
            await self._work(todo)
        finally:
            self.journal.flush()
            self.report(tally)
        if self.stop.is_set():
            raise Interrupted(f"stopped: {tally.done} of {tally.total} rows are kept; run the same command to go on")
        if self._held and not tally.reused:
            raise self._all_failed()
        self._release_held()
        if self._curable:
            raise RunError(
                f"{len(self._curable)} of {tally.total} rows could not be done now ({self._curable[0]}); the other "
                f"{tally.done} are kept, the same command asks these again (`keep_errors: true` keeps them as errors)"
            )

    def _missing(self, rows: Iterator[Row], keyed: Sequence[Keyed]) -> Iterator[tuple[Keyed, Row]]:
        for row, place in zip(rows, keyed, strict=True):
            if self.stop.is_set():
                return
            if place.key in self.journal:
                self._tally.reused += 1
                self._tally.done += 1
            else:
                yield place, row

    async def _work(self, todo: Iterator[tuple[Keyed, Row]]) -> None:
        stopped = asyncio.ensure_future(self.stop.wait())
        groups = asyncio.ensure_future(self._commit_groups())
        workers = [asyncio.ensure_future(self._worker(todo)) for _ in range(self.in_flight)]
        try:
            pending: set[asyncio.Future[Any]] = set(workers)
            while pending:
                watched = {*pending, stopped, groups}
                finished, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
                for future in finished - {stopped}:  # of these `groups` only ends with an error
                    pending.discard(future)
                    future.result()
                if stopped in finished:
                    await asyncio.wait(pending or {stopped}, timeout=self.grace_s)
                    return
        finally:
            for future in (*workers, stopped, groups):
                future.cancel()
            await asyncio.gather(*workers, stopped, groups, return_exceptions=True)

    async def _commit_groups(self) -> None:
        """Nothing that is finished waits longer than a group's time to be durable."""
        while True:
            await asyncio.sleep(GROUP_SECONDS)
            self.journal.flush(due=True)
            self.flush_replies(due=True)
            self._tell()

    async def _worker(self, todo: Iterator[tuple[Keyed, Row]]) -> None:
        for count, (place, row) in enumerate(todo):
            if count % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)  # functions that never wait must not hold up signals and the journal
            try:
                result = await self.stage.run(row, self.params, self.context(place.ordinal))
            except RowError as error:
                if str(error) == row.get("error"):  # the row came with it: nothing to learn about the recipe
                    self._finished(place.key, plain(self.stage.failed(str(error))), failed=True)
                else:
                    self._failed(place.key, error)
            except UnicodeEncodeError as error:
                self._failed(place.key, RowError(f"a text that is no Unicode: {error.reason}"))
            else:
                self._answered(place.key, plain(result))

    def _answered(self, key: str, result: dict[str, Any]) -> None:
        try:
            self._finished(key, result)
        except UnicodeEncodeError as error:
            self._failed(key, RowError(f"a text that is no Unicode: {error.reason}"))

    def _failed(self, key: str, error: RowError) -> None:
        if error.curable and not self.keep_errors:
            self._curable.append(str(error))
        else:
            self._held.append((key, str(error)))
        if self._tally.computed == 0 and len(self._held) + len(self._curable) >= ALL_FAILED and not self._tally.reused:
            raise self._all_failed()
        if self._tally.computed:
            self._release_held()

    def _all_failed(self) -> RunError:
        reason = self._held[0][1] if self._held else self._curable[0]
        count = len(self._held) + len(self._curable)
        return RunError(f"all of the first {count} rows failed, so nothing was stored: {reason}")

    def _release_held(self) -> None:
        held, self._held = self._held, []
        for key, reason in held:
            self._finished(key, plain(self.stage.failed(reason)), failed=True)

    def _finished(self, key: str, result: dict[str, Any], *, failed: bool = False) -> None:
        self.journal.append(key, result)
        tally = self._tally
        tally.done += 1
        tally.computed += 1
        if result.get("fate"):
            tally.fates[result["fate"]] += 1
        if not failed:
            self._release_held()
        self._tell()

    def _tell(self) -> None:
        if time.monotonic() - self._reported >= PROGRESS_SECONDS:
            self._reported = time.monotonic()
            self.report(self._tally)


def adopt(journal: Journal, wanted: set[str], finished: Iterable[tuple[str, Row]]) -> None:
    """Copy rows (key, added columns) that were finished before into the journal, where they are wanted."""
    for key, added in finished:
        if key in wanted and key not in journal:
            journal.append(key, added, sync=False)
    journal.flush(sync=False)


def finished_rows(rows: Iterator[Row], keyed: Sequence[Keyed], journal: Journal) -> Iterator[tuple[Row, Row]]:
    """(input row, added columns) in input order. Raises StoreError for a row that was damaged since it was finished."""
    for row, place in zip(rows, keyed, strict=True):
        try:
            yield row, journal.read(place.key)
        except KeyError as cause:
            raise StoreError("a finished row was damaged on disk: run the same command to compute it anew") from cause
