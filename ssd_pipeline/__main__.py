"""Where the commands begin: nothing is imported before an interrupt can be answered in one line.

`ssd` and `ssd-run` are this file's functions; `python -m ssd_pipeline` is `ssd`. A closed stdout or stderr is replaced
by nowhere, so that printing never decides how a run ends. This file does not know any command.
"""

import gc
import os
import sys


def _call(name: str) -> None:
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115 - for the rest of the process
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # else every start searches all packages for some
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # else TRL tells of every training; offline means offline
    gc.disable()  # imports make nothing but what stays
    try:
        from ssd_pipeline import cli

        gc.enable()
        getattr(cli, name)()
    except KeyboardInterrupt:
        sys.stderr.write("stopped: what is finished is kept, the same command goes on\n")
        sys.exit(130)


def ssd() -> None:
    """The command `ssd`."""
    _call("main")


def ssd_run() -> None:
    """The command `ssd-run`."""
    _call("main_run")


if __name__ == "__main__":
    ssd()
