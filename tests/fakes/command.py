"""The installed commands, called as a user calls them."""

import os
import subprocess
import sys
from pathlib import Path

SSD_RUN = Path(sys.executable).parent / "ssd-run"
SSD = Path(sys.executable).parent / "ssd"


def call(home: Path, *words: str, command: Path = SSD_RUN, **more: str) -> subprocess.CompletedProcess:
    environ = {"PATH": os.environ["PATH"], "SSD_HOME": str(home / "store"), "HOME": str(home), "COLUMNS": "120", **more}
    return subprocess.run([command, *words], cwd=home, env=environ, capture_output=True, text=True, timeout=60)
