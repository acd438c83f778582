"""What the engine costs: 100,000 trivial rows through a row stage, against datasets.map and a plain loop.

    python benchmarks/engine.py [ROWS]

All in one run on one machine, each in a process of its own, so that only the ratios count. The row function is the
same for all three: it adds one short text. The engine also keys, journals (durably) and digests every row; the others
do not, so this is the price of resuming and of knowing what came out. Prints seconds, microseconds per row, peak
memory, and the time of a cached second run, of a run that goes on at 99 %, and of a plan over 10,000 artifacts.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

RECIPE = (
    "stages:\n  rows: {{uses: load_problems, file: rows.jsonl, limit: {limit}}}\n  out: {{uses: shout, input: rows}}\n"
)


@dataclass(frozen=True)
class Shouted:
    loud: str


async def shout(row, params, ctx):
    return Shouted(row["problem"].upper())


def kinds():
    from ssd_pipeline.stage import Params, RowStage
    from ssd_pipeline.stages import KINDS

    stage = RowStage("shout", 1, Params, lambda p: ("problem",), Shouted, shout, lambda reason: Shouted(""))
    return {**KINDS, "shout": stage}


def ours(folder: Path, limit: int) -> dict[str, float]:
    """One run of the recipe; seconds of the row stage and of the whole."""
    from ssd_pipeline import planner, runner
    from ssd_pipeline.store.local import Store

    recipe = folder / f"recipe{limit}.yaml"
    recipe.write_text(RECIPE.format(limit=limit))
    events: list[dict] = []
    began = time.perf_counter()
    runner.run(planner.plan(recipe, kinds(), store=Store(folder / "store")), events.append)
    stage = next(e for e in events if e["event"] == "stage_finished" and e["stage"] == "out")
    return {"stage": stage["seconds"], "whole": time.perf_counter() - began, "computed": stage["computed"]}


def mapped(folder: Path) -> dict[str, float]:
    """The same rows through datasets.map with one process, then to parquet."""
    from datasets import Dataset, config, disable_progress_bars

    disable_progress_bars()
    config.HF_DATASETS_CACHE = folder / "hf"
    source = Dataset(pq.read_table(folder / "rows.parquet"))
    began = time.perf_counter()
    done = source.map(lambda row: {"loud": row["problem"].upper()}, cache_file_name=str(folder / "map.arrow"))
    done.to_parquet(folder / "mapped.parquet")
    return {"stage": time.perf_counter() - began}


def looped(folder: Path) -> dict[str, float]:
    """The same rows in a plain loop that writes parquet once."""
    began = time.perf_counter()
    rows = pq.read_table(folder / "rows.parquet").to_pylist()
    done = [{**row, "loud": row["problem"].upper()} for row in rows]
    pq.write_table(pa.Table.from_pylist(done), folder / "looped.parquet", compression="zstd")
    return {"stage": time.perf_counter() - began}


def many_artifacts(folder: Path) -> dict[str, float]:
    """A plan over a store with 10,000 other artifacts."""
    from ssd_pipeline import planner
    from ssd_pipeline.store.local import Store

    store = Store(folder / "store")
    source = next(p for p in (store.root / "artifacts").iterdir() if p.name.startswith("load_problems"))
    for i in range(10_000):
        copy = store.root / "artifacts" / f"load_problems-{i:016x}"
        copy.mkdir()
        os.link(source / "record.json", copy / "record.json")
    began = time.perf_counter()
    planner.plan(folder / f"recipe{ROWS}.yaml", kinds(), store=store)
    return {"stage": time.perf_counter() - began}


def alone(what: str, folder: Path) -> dict[str, float]:
    """One measurement in a process of its own, with its peak memory in MB above what imports take."""
    done = subprocess.run([sys.executable, __file__, str(ROWS), what, str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(what: str, folder: Path) -> None:
    """The child: measure one thing and print it as JSON."""
    found = {
        "ours": lambda: ours(folder, ROWS),
        "ours99": lambda: ours(folder, ROWS * 99 // 100),
        "mapped": lambda: mapped(folder),
        "looped": lambda: looped(folder),
        "plan": lambda: many_artifacts(folder),
    }[what]()
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "rows.jsonl").open("w") as file:
            for i in range(ROWS):
                file.write(
                    json.dumps({"problem": f"What is {i} + {i * 7 % 1000}?", "answer": str(i + i * 7 % 1000)}) + "\n"
                )
        part = alone("ours99", folder)
        rest = alone("ours", folder)
        cached = alone("ours", folder)
        (artifact,) = (p for p in (folder / "store" / "artifacts").glob("load_problems-*") if _rows(p) == ROWS)
        os.link(artifact / "data" / "rows-00000.parquet", folder / "rows.parquet")
        results = {"datasets.map": alone("mapped", folder), "plain loop": alone("looped", folder)}
        whole = alone("ours", _fresh(folder))
        plan = alone("plan", folder)
    each = whole["stage"] / ROWS * 1e6
    print(f"{ROWS:,} trivial rows, one process each")
    print(f"engine        {whole['stage']:6.2f} s  {each:6.1f} us a row  peak {whole['peak_mb']:.0f} MB")
    for name, found in results.items():
        ratio = whole["stage"] / found["stage"]
        print(
            f"{name:13} {found['stage']:6.2f} s  {found['stage'] / ROWS * 1e6:6.1f} us a row  engine / it = {ratio:.2f}"
        )
    print(f"a cached second run, plan and all: {cached['whole']:.3f} s")
    print(f"going on at 99 %: {rest['stage']:.2f} s for {rest['computed']:,} rows (99 % took {part['stage']:.2f} s)")
    print(f"a plan over 10,000 artifacts: {plan['stage']:.3f} s")


def _rows(artifact: Path) -> int:
    return int(json.loads((artifact / "record.json").read_text())["rows"])


def _fresh(folder: Path) -> Path:
    fresh = folder / "fresh"
    fresh.mkdir()
    os.link(folder / "rows.jsonl", fresh / "rows.jsonl")
    return fresh


ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
if __name__ == "__main__":
    measure(sys.argv[2], Path(sys.argv[3])) if len(sys.argv) > 3 else main()
