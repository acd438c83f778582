"""The same training in several processes, one per GPU, started by `accelerate launch`.

The examples and settings go into one file of the work directory, every process makes the same rows of them, and the
first one saves; it tells its progress and its end as JSON lines, and each tells its error. The rows of an update are
dealt out, so their number stays what the recipe says. Without dropout the result differs from one process by rounding
only; with it, by the draws too; and the last update of an epoch may see a row twice, to fill every process's share.
When one process dies the others are ended; when their starter does, they end at once, so that the next run finds the
GPUs free. This file does not know what a training does.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ssd_pipeline.errors import ModelError, RunError, SsdError
from ssd_pipeline.models.trainer import Settings, Trained, sft
from ssd_pipeline.models.training_rows import SCHEMA, Example, Rows
from ssd_pipeline.stage import Model, ModelRuntime, PromptFormat
from ssd_pipeline.store import durable

TAIL = 15  # lines of a failed process that are shown
_FIRST_DEAD = re.compile(r"Root Cause.*?\brank *: (\d+).*?\bexitcode *: -(\d+)", re.DOTALL)  # as torch.distributed says


def command(processes: int, job: Path) -> list[str]:
    """Start this module in several processes; on a machine without a GPU the same command trains on the CPU."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    fixed = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    return [*launch, *fixed, "-m", "ssd_pipeline.models.launched", str(job)]


def sft_in_processes(
    model: Model,
    examples: Iterable[Example],
    settings: Settings,
    out: Path,
    work: Path,
    progress: Callable[[int, int | None], None],
) -> Trained:
    """Train as `trainer.sft` does, in `model.runtime.processes` processes.

    Raises RunError for what a process says is wrong, ModelError when one ends without a word.
    """
    processes = model.runtime.processes
    if settings.accumulate % processes and settings.batch_size % processes:
        raise RunError(f"neither accumulate nor batch_size can be dealt to {processes} processes: see runtime")
    told = {
        "model": {
            "name": model.name,
            "repo": model.repo,
            "revision": model.revision,
            "path": str(model.path) if model.path else None,
            "dtype": model.dtype,
            "adapters": [str(folder) for folder in model.adapters],
            "trust_remote_code": model.trust_remote_code,
            "template": model.format.template,
            "runtime": model.runtime.model_dump(include={"device", "trackio", "checkpoint_s"}),
        },
        "settings": asdict(settings),
        "out": str(out),
        "work": str(work),
        "processes": processes,
    }
    durable.make_dir(work)
    job, lines = work / "job.jsonl", [told, *(asdict(example) for example in examples)]
    durable.remove(job)
    durable.write_file(job, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    last: dict[str, Any] = {}
    tail: deque[str] = deque(maxlen=TAIL)
    with subprocess.Popen(
        command(processes, job),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as started:
        try:
            for line in started.stdout or ():
                if not line.startswith('{"ssd": '):
                    tail.append(line)
                elif (said := json.loads(line)["ssd"]) and "done" in said:
                    progress(said["done"], said["total"])
                else:
                    last = last or said
        except BaseException:
            os.killpg(started.pid, signal.SIGKILL)
            raise
    durable.remove(job)
    if "curve" in last:
        return Trained(**{**last, "rows": Rows(SCHEMA.empty_table(), **last["rows"])})
    if dead := _FIRST_DEAD.search("".join(tail)):  # before what the others say, who only miss it
        rank, number = map(int, dead.groups())
        why = ", as a machine does that is out of memory" if number == signal.SIGKILL else ""
        raise ModelError(
            f"the training process {rank} of {processes} was killed by signal {number}{why}; the same command goes on "
            "from the last checkpoint"
        )
    if "error" in last:
        raise RunError(str(last["error"]))
    raise ModelError(f"training in {processes} processes ended with status {started.returncode}:\n{''.join(tail)}")


def _tell(**said: object) -> None:
    sys.stdout.write(json.dumps({"ssd": said}) + "\n")
    sys.stdout.flush()


def _end_with_the_starter() -> None:
    os.read(0, 1)  # nothing ever comes: it returns when the starter, which holds the other end, is gone
    os._exit(1)


def main(job: Path) -> None:
    """One of the processes."""
    threading.Thread(target=_end_with_the_starter, daemon=True).start()
    with job.open() as file:
        told, examples = json.loads(file.readline()), [Example(**json.loads(line)) for line in file]
    rank, said = int(os.environ["RANK"]), told["model"]
    if int(os.environ["WORLD_SIZE"]) != told["processes"]:
        raise ModelError(f"{told['processes']} processes were asked for, and accelerate started another number")
    model = Model(
        name=said["name"],
        repo=said["repo"],
        revision=said["revision"],
        path=Path(said["path"]) if said["path"] else None,
        dtype=said["dtype"],
        adapters=tuple(map(Path, said["adapters"])),
        trust_remote_code=said["trust_remote_code"],
        format=PromptFormat(template=said["template"]),
        runtime=ModelRuntime(**said["runtime"]),
    )

    def progress(done: int, total: int | None) -> None:
        if rank == 0:
            _tell(done=done, total=total)

    modules = told["settings"]["target_modules"]
    settings = Settings(**told["settings"])
    settings = replace(settings, target_modules=modules if isinstance(modules, str) else tuple(modules))
    try:
        trained = sft(model, examples, settings, Path(told["out"]), Path(told["work"]), progress)
    except SsdError as error:
        _tell(error=str(error))
        sys.exit(1)
    if rank == 0:
        rows = {key: value for key, value in vars(trained.rows).items() if key != "table"}
        _tell(rows=rows, curve=trained.curve, device=trained.device, warnings=trained.warnings)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
