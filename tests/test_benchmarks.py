"""The benchmark of the scorer, as `make bench` and `make bench-gpu` run it, with a tiny model on the CPU."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SMALL = ("--sizes", "tiny", "--rounds", "1", "--at-once", "2", "--problems", "3")
SCRIPT = Path(__file__).parent.parent / "benchmarks" / "scoring.py"


def test_the_scorer_is_measured_against_the_plain_ways_and_agrees_with_them() -> None:
    command = [sys.executable, str(SCRIPT), *SMALL]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"ours takes +[\d.]+ times as long", done.stdout)) == 2
    errors = [float(found) for found in re.findall(r"from \(b\): (\S+)", done.stdout)]
    assert len(errors) == 2
    assert max(errors) < 1e-4
    assert re.search(r"the device computes \d+% of", done.stdout)
