"""A training that kills its own process after an update. Arguments: the folder of the model, out, work, the update."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from fakes.training import EXAMPLES, SETTINGS, model

if __name__ == "__main__":
    from ssd_pipeline.models.trainer import sft

    folder, out, work, last = sys.argv[1:]

    def progress(done: int, total: int | None) -> None:
        if done == int(last):
            os.kill(os.getpid(), signal.SIGKILL)

    sft(model(Path(folder)), EXAMPLES, SETTINGS, Path(out), Path(work), progress, checkpoint_s=0)
