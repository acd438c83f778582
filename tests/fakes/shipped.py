"""What ships: the root of the project, and its quickstart made once."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Quickstart:
    """The shipped quickstart, made once for all tests, in a store of its own. `first`: how making it ended.

    Calls run from the project's root. Tests that damage the store must copy it.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self.first = self.call("ssd-run recipes/quickstart.yaml")

    def call(self, command: str, **more: str) -> subprocess.CompletedProcess:
        words = shlex.split(command)
        words[0] = str(Path(sys.executable).parent / words[0])
        environ = {**os.environ, "SSD_HOME": str(self.store), "COLUMNS": "120", "HF_HUB_OFFLINE": "1", **more}
        return subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)

    def events(self, command: str) -> list[dict]:
        """The events of a command that must succeed."""
        done = self.call(f"{command} --json")
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]
