"""Writes the table of a finished comparison into a page: `python docs/write_results.py RECIPE PAGE`.

Everything between the two marks of the page comes from the artifacts of the recipe's stages; nothing is typed by hand.
The stage `result` must have been made: `make results` runs the recipe first.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import ssd_pipeline
from ssd_pipeline.tables import comparison

MARKS = re.compile(r"(<!-- results -->\n).*?(<!-- end -->)", re.DOTALL)


def results(recipe: str) -> str:
    """The machine, the time that all stages took, and the tables, as Markdown."""
    planned = ssd_pipeline.plan(recipe)
    made = {name: stage.found for name, stage in planned.stages.items() if stage.found}
    if "result" not in made:
        sys.exit(f"{recipe} has not been run to its end: run it first")
    definition = planned.document.stages["result"]
    said = definition.params.baseline
    record = made["result"].record
    tables = comparison(record["summary"]["table"], definition.inputs, (said,) if isinstance(said, str) else said)
    tools = ", ".join(f"{name} {version}" for name, version in record["tools"].items())
    seconds = sum(one.record["seconds"] for one in made.values())
    lines = [
        f"{len(made)} stages, {seconds / 60:.0f} minutes of work in all, on a machine with {os.cpu_count()} cores; "
        f"{tools}. Ended {record['ended']}; `result` is {record['address']}.",
    ]
    for heads, *rows in filter(None, tables):
        lines += ["", "| " + " | ".join(heads) + " |", "|" + " --- |" * 2 + " ---: |" * (len(heads) - 2)]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    page = Path(sys.argv[2])
    page.write_text(MARKS.sub(lambda marks: f"{marks[1]}{results(sys.argv[1])}\n{marks[2]}", page.read_text()))
