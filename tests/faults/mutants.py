"""Can these tests fail? Each mutant is one plausible mistake, made in a copy of the package: a test must turn red.

    python tests/faults/mutants.py [NAME ...]

A text to be replaced that is no longer there is a failure too: the table must follow the code. Prints a table and ends
with status 1 when a mutant lives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutant:
    """`old` becomes `new` in one file; `tests`: what pytest is given."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


KILL, POWER = "tests/faults/test_kill.py", "tests/faults/test_power.py"
MUTANTS = (
    Mutant(
        "a log is not synced",
        "store/journal.py",
        "                durable.sync(file)",
        "                pass",
        (POWER,),
    ),
    Mutant(
        "the record after the artifact",
        "store/local.py",
        "        artifact.write_record(staging, record)\n",
        "",
        (KILL, POWER),
    ),
    Mutant(
        "the files that are there, not those that are listed",
        "store/artifact.py",
        "    for name in sorted(found.keys() - listed.keys()):",
        "    for name in ():",
        ("tests/test_artifact.py",),
    ),
    Mutant(
        "rows keyed by place",
        "rows.py",
        "read = hashlib.sha256(canonical_row([row.get(name) for name in reads])).digest()",
        "read = hashlib.sha256(canonical_row(len(keyed))).digest()",
        ("tests/faults/test_properties.py", "tests/test_runner.py"),
    ),
    Mutant(
        "a refused request is sent again",
        "models/failures.py",
        "    400: Reaction.row,",
        "    400: Reaction.again,",
        ("tests/test_retry.py",),
    ),
    Mutant(
        "drafts are kept",
        "store/local.py",
        "            if durable.abandoned(path):",
        "            if False:",
        (KILL,),
    ),
    Mutant(
        "the CRC is ignored",
        "store/journal.py",
        '    if line[:8] != b"%08x" % zlib.crc32(body):',
        "    if not body:",
        ("tests/test_journal.py", "tests/faults/test_damage.py"),
    ),
    Mutant(
        "whatever a row raises is the row's fault",
        "rows.py",
        "            except RowError as error:\n",
        "            except Exception as caught:\n                error = RowError(str(caught))\n",
        ("tests/faults/test_refusals.py",),
    ),
    Mutant(
        "seeds by place",
        "rows.py",
        "statements[statement] if stage.seeded_by else 0",
        "len(keyed)",
        ("tests/faults/test_properties.py",),
    ),
    Mutant(
        "a lock within the process",
        "store/journal.py",
        "            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "            pass",
        ("tests/faults/test_processes.py",),
    ),
    Mutant(
        "runtime in the fingerprint",
        "identities.py",
        '"version": kind.version, "params": said}',
        '"version": kind.version, "params": said, "at_once": self.document.runtime.rows_in_flight}',
        ("tests/faults/test_properties.py",),
    ),
    Mutant(
        "verify is content",
        "store/artifact.py",
        '        if file_digest(directory / "data" / entry["name"]) != entry["sha256"]:',
        "        if False:",
        ("tests/faults/test_damage.py",),
    ),
    Mutant(
        "the rename is not made durable",
        "store/local.py",
        "        durable.sync_dir(target.parent)\n",
        "",
        (POWER,),
    ),
    Mutant(
        "directories are not durable under their names",
        "store/durable.py",
        "        new_dir(path)\n        sync_dir(path.parent)",
        "        new_dir(path)",
        (POWER,),
    ),
    Mutant(
        "an artifact is entered into the index afterwards",
        "store/local.py",
        '        self._index(str(record["fingerprint"]), address)  # first',
        "        # first",
        (KILL,),
    ),
    Mutant(
        "a log goes on after a refused write",
        "store/journal.py",
        "            self._file = None\n            raise",
        "            raise",
        ("tests/faults/test_refusals.py",),
    ),
    Mutant(
        "the journal goes before the artifact is there",
        "building.py",
        "            self._commit_rows(kind, inputs, keyed, journal, tally, served)\n"
        "            journal.drop({k.key for k in keyed})\n",
        "            journal.drop({k.key for k in keyed})\n"
        "            self._commit_rows(kind, inputs, keyed, journal, tally, served)\n",
        (KILL,),
    ),
    Mutant(
        "nothing is settled after a death",
        "runner.py",
        "            plan.store.settle(fingerprint(stage), str(stage.key))\n",
        "",
        (KILL,),
    ),
    Mutant(
        "a refusal in the background is not noticed",
        "rows.py",
        "watched = {*pending, stopped, groups}",
        "watched = {*pending, stopped}",
        ("tests/faults/test_refusals.py",),
    ),
    Mutant(
        "who did not wait does not look",
        "building.py",
        "            if self._made_meanwhile():",
        "            if waited and self._made_meanwhile():",
        ("tests/faults/test_processes.py",),
    ),
    Mutant(
        "a record need not be what was written",
        "store/artifact.py",
        'if record.pop("sha256", None) != _record_digest(record) or',
        'if record.pop("sha256", None) is None or',
        ("tests/faults/test_damage.py",),
    ),
    Mutant(
        "rows for later are thrown away",
        "store/journal.py",
        "            if path not in needed:",
        "            if path:",
        ("tests/faults/test_damage.py",),
    ),
    Mutant(
        "what was set before is not set again",
        "building.py",
        "                signal.signal(sign, handler or signal.SIG_DFL)",
        "                pass",
        ("tests/faults/test_signals.py",),
    ),
)


def lives(mutant: Mutant, folder: Path) -> str | None:
    """Why a mutant was not caught; None when it was."""
    for part in ("ssd_pipeline", "tests", "pyproject.toml"):
        source = ROOT / part
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, folder / part, ignore=ignore) if source.is_dir() else shutil.copy(source, folder / part)
    path = folder / "ssd_pipeline" / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        return f"its text is {text.count(mutant.old)} times in {mutant.file}"
    path.write_text(text.replace(mutant.old, mutant.new))
    quick = ["--hypothesis-profile=unshrunk"] if "faults" in mutant.tests[0] else []
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *quick, *mutant.tests],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode == 1:
        return None
    return (
        "no test turned red" if done.returncode == 0 else f"pytest ended with {done.returncode}: {done.stdout[-500:]}"
    )


def main(names: list[str]) -> int:
    survivors = 0
    for mutant in MUTANTS:
        if names and mutant.name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            why = lives(mutant, Path(folder))
        survivors += why is not None
        print(
            f"{'LIVES' if why else 'caught':8} {time.monotonic() - began:6.1f} s  {mutant.name}  {why or ''}",
            flush=True,
        )
    print(f"{survivors} of {len(MUTANTS)} live")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
