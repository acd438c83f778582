"""The store on this machine: where artifacts, journals and the memory of runs live, and how they are found.

    artifacts/<kind>-<16 hex>/   record.json and data/, immutable
    index/<fingerprint>/         one empty file per artifact of that stage identity; can be rebuilt from the records
    journals/<fingerprint>/      finished rows of unfinished stages
    replies/                     what models answered, by what they were asked; can be dropped
    work/<key>/                  checkpoints of unfinished stages
    staging/                     what is being built, private to its process
    runs/<recipe>/               commits that revisions were resolved to; what each stage's last artifact was
    runs/pulled/                 versions.json: the commits of pulled versions; contents.json: of keys that were pulled;
                                 origins.json: the repos that artifacts came from
    locks/                       save work, never data

An artifact that is not whole is no hit, and the reason is kept to be shown. This file does not know recipes or stages.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd_pipeline.errors import StoreError
from ssd_pipeline.store import artifact, durable
from ssd_pipeline.store.journal import Journal, Lock
from ssd_pipeline.store.merged import read_keys
from ssd_pipeline.store.replies import Replies

PULLED = "pulled"  # in the place of a recipe under runs/


@dataclass(frozen=True)
class Artifact:
    """A whole artifact as its record tells it; `verified` once every byte was compared."""

    address: str
    directory: Path
    record: Mapping[str, Any]

    @property
    def data(self) -> Path:
        return self.directory / "data"


class Store:
    """The store below one root directory; see the module's docstring for the layout."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._verified: set[str] = set()

    @staticmethod
    def default() -> Store:
        """`$SSD_HOME`, else `~/.cache/ssd_pipeline`."""
        home = os.environ.get("SSD_HOME")
        return Store(Path(home).expanduser() if home else Path.home() / ".cache" / "ssd_pipeline")

    def find(self, address: str, key: str | None = None) -> Artifact | str | None:
        """The artifact at an address; the reason (text) when something unusable is there; None when nothing is.

        `key`: the whole artifact key, of which the address shows 16 digits; another key there is not a hit.
        """
        directory = self.root / "artifacts" / address
        try:
            if not directory.exists() and not directory.is_symlink():
                return None
            record = artifact.read_record(directory)
            if record.get("address") != address or (key is not None and record.get("key") != key):
                return "its record belongs to another address"
            artifact.check(directory, record)
        except (StoreError, OSError) as cause:
            return str(cause)
        return Artifact(address, directory, record)

    def verified(self, found: Artifact) -> Artifact:
        """The same artifact after every byte was compared, once per process. Raises StoreError when altered."""
        if found.address not in self._verified:
            try:
                artifact.verify(found.directory, found.record)
            except StoreError as cause:
                advice = f"remove it with `ssd rm --force {found.address}` and run again to make it anew"
                raise StoreError(f"{found.address}: {cause}; it is not used: {advice}") from cause
            self._verified.add(found.address)
        return found

    def addresses(self) -> Iterator[str]:
        """Every name under artifacts/, whole or not, in order."""
        folder = self.root / "artifacts"
        yield from sorted(os.listdir(folder)) if folder.is_dir() else []

    def same_identity(self, fingerprint: str) -> list[str]:
        """Addresses of artifacts with this stage identity, whatever their inputs were."""
        folder = self.root / "index" / fingerprint[:16]
        return sorted(os.listdir(folder)) if folder.is_dir() else []

    def staging(self, address: str) -> Path:
        """A fresh directory with an empty data/ inside, private to this process."""
        path = self.root / "staging" / durable.private(address)
        durable.make_dir(path / "data")
        return path

    def commit(self, staging: Path, record: Mapping[str, Any]) -> Artifact:
        """Make a filled staging directory the artifact of its address, by one rename.

        When a whole artifact is there already, that one stays and ours goes: it was made from the same key.
        """
        address = str(record["address"])
        artifact.write_record(staging, record)
        self._index(str(record["fingerprint"]), address)  # first: without an artifact it leads nowhere, and that is all
        target = self.root / "artifacts" / address
        durable.make_dir(target.parent)
        standing = self.find(address, record["key"])
        broken = self.root / "staging" / f"{address}.broken.{os.urandom(4).hex()}"
        if isinstance(standing, str):  # unusable: out of the way, under a name nobody reads
            durable.rename(target, broken)
        try:
            durable.rename(staging, target)
        except StoreError:
            standing = self.find(address, record["key"])
            if not isinstance(standing, Artifact):
                raise
            durable.remove(staging)
            return standing
        durable.sync_dir(target.parent)
        with suppress(StoreError):  # what cannot be removed now is swept later
            durable.remove(broken)
        self._verified.add(address)
        return Artifact(address, target, record)

    def _index(self, fingerprint: str, address: str) -> None:
        folder = self.root / "index" / fingerprint[:16]
        durable.make_dir(folder)
        if not (folder / address).exists():
            try:
                durable.write_file(folder / address, b"")
            except StoreError:
                if not (folder / address).exists():  # another process was not faster
                    raise
            durable.sync_dir(folder)

    def remove(self, address: str) -> None:
        """Take an artifact away: out of sight by one rename first, then its bytes."""
        away = self.root / "staging" / f"{address}.removed.{os.urandom(4).hex()}"
        durable.make_dir(away.parent)
        durable.rename(self.root / "artifacts" / address, away)
        durable.remove(away)

    def journal(self, fingerprint: str, columns: Collection[str] | None = None) -> Journal:
        """The journal of one stage identity, whose rows have these columns."""
        return Journal(self.root / "journals" / fingerprint[:16], columns)

    def journaled(self, fingerprint: str) -> int:
        """How many finished rows the journal of a stage identity keeps, by their keys; their bytes are not checked."""
        keys: set[bytes] = set()
        for path in (self.root / "journals" / fingerprint[:16]).glob("*.log"):
            with suppress(OSError), path.open("rb") as file:
                keys.update(line[9:].partition(b" ")[0] for line in file if line.endswith(b"\n"))
        return len(keys)

    def replies(self) -> Replies:
        """What models have answered so far, of all runs."""
        return Replies(self.root / "replies")

    def drop_replies(self) -> None:
        """Forget what models have answered; the next run asks again what it needs."""
        durable.remove(self.root / "replies")

    def drop_journal(self, fingerprint: str) -> None:
        """What the artifact holds now needs no journal."""
        durable.remove(self.root / "journals" / fingerprint[:16])

    def work(self, key: str) -> Path:
        """The directory of an unfinished whole stage that survives an interruption."""
        path = self.root / "work" / key[:16]
        durable.make_dir(path)
        return path

    def drop_work(self, key: str) -> None:
        durable.remove(self.root / "work" / key[:16])

    def lock(self, fingerprint: str) -> Lock:
        """The lock of one stage identity."""
        return Lock(self.root / "locks" / f"{fingerprint[:16]}.lock")

    def sweep(self) -> None:
        """Remove drafts whose process is gone. What cannot be removed (a read-only store) holds up nothing."""
        for path in [*(self.root / "staging").glob("*"), *(self.root / "runs").glob("*/.*")]:
            if durable.abandoned(path):
                with suppress(StoreError):
                    durable.remove(path)

    def settle(self, fingerprint: str, key: str) -> None:
        """Clean up after a run that died between making an artifact and removing what it no longer needs."""
        journal, work = self.root / "journals" / fingerprint[:16], self.root / "work" / key[:16]
        if not journal.exists() and not work.exists():
            return
        with suppress(StoreError):
            lock = self.lock(fingerprint)
            try:
                if lock.take():
                    self.drop_work(key)
                    self._settle_journal(fingerprint)
            finally:
                lock.release()

    def _settle_journal(self, fingerprint: str) -> None:
        journal, kept = self.journal(fingerprint), set()
        for address in self.same_identity(fingerprint):
            found = self.find(address)
            if isinstance(found, Artifact) and (found.data / "keys.bin").is_file():
                kept |= set(read_keys(found.directory))
        try:
            journal.drop(kept)
        finally:
            journal.close()

    def remembered(self, recipe: str, name: str) -> dict[str, Any]:
        """A small memory file of a recipe (`runs/<recipe>/<name>.json`); {} when there is none or it is damaged."""
        try:
            found = json.loads((self.root / "runs" / recipe / f"{name}.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def remember(self, recipe: str, name: str, value: Mapping[str, Any]) -> None:
        """Replace a memory file as a whole."""
        folder = self.root / "runs" / recipe
        durable.make_dir(folder)
        durable.swap_file(folder / f"{name}.json", json.dumps(value, indent=1, sort_keys=True).encode())


def now() -> str:
    """The time of a record: UTC, seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
