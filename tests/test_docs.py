"""The docs cannot lie: the README's commands are run, and what they print has the shape of what the README shows.

Numbers differ between machines, so digits are compared as digits only. `make docs` (SSD_WRITE_DOCS=1) writes the output
of this machine into the README instead.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.shipped import Quickstart

from ssd_pipeline.stages import KINDS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BIN = Path(sys.executable).parent
BLOCK = re.compile(r"```console\n\$ (?P<command>[^\n]*)\n(?P<output>.*?)```", re.DOTALL)


def shape(text: str) -> list[str]:
    """Lines with every number, address and run of blanks made alike, so that machines can be compared."""
    text = re.sub(r"[0-9a-f]{16}", "ADDRESS", text)
    text = re.sub(r"\d[\d.]*[kM]?", "N", text)
    return [re.sub(r"\s+", " ", line).strip() for line in text.strip().splitlines()]


def same_stages(shown: list[str], printed: list[str]) -> bool:
    """Whether two outputs have the same first words, line by line."""
    return [line.split(" ")[:1] for line in shown] == [line.split(" ")[:1] for line in printed]


@pytest.fixture(scope="module")
def printed(quickstart: Quickstart) -> dict[str, str]:
    """What each command of the README prints, run in their order; of long outputs the part that is shown."""
    outputs = {}
    for block in BLOCK.finditer(README.read_text()):
        command = block["command"]
        done = quickstart.first if command == "make quickstart" else quickstart.call(command)
        assert done.returncode == 0, done.stderr
        text = done.stdout + done.stderr
        if command == "ssd-run recipes/quickstart.yaml":
            text = "...\n" + text.rstrip().splitlines()[-1] + "\n"
        elif closing := re.search(r"^stage +rows  became", text, re.MULTILINE):
            text = "...\n" + text[closing.start() :]
        outputs[command] = "".join(line.rstrip() + "\n" for line in text.splitlines())
    return outputs


def test_the_readme_shows_what_its_commands_print(printed: dict[str, str]) -> None:
    text = README.read_text()
    if os.environ.get("SSD_WRITE_DOCS"):
        README.write_text(BLOCK.sub(lambda b: f"```console\n$ {b['command']}\n{printed[b['command']]}```", text))
        return
    for block in BLOCK.finditer(text):
        shown, now = shape(block["output"]), shape(printed[block["command"]])
        assert same_stages(shown, now), f"{block['command']}: run `make docs`\n{printed[block['command']]}"


def test_the_makefile_says_what_the_readme_says() -> None:
    lines = subprocess.run(["make", "-n", "quickstart"], cwd=ROOT, capture_output=True, text=True).stdout
    assert "ssd-run recipes/quickstart.yaml" in lines


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_paragraph_and_a_test(kind: str) -> None:
    assert f"\n### {kind}\n" in (ROOT / "docs" / "stages.md").read_text()
    assert (ROOT / "tests" / f"test_{kind}.py").is_file()


def test_the_stage_of_the_docs_runs(tmp_path: Path) -> None:
    """The example of docs/writing-a-stage.md is used as it stands, in a recipe, through the real engine."""
    from ssd_pipeline import planner, runner
    from ssd_pipeline.store import artifact
    from ssd_pipeline.store.local import Store

    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "writing-a-stage.md").read_text(), re.DOTALL)
    assert code is not None
    module: dict = {"__name__": "count_lines"}
    exec(compile(code[1], "docs/writing-a-stage.md", "exec", dont_inherit=True), module)  # noqa: S102 - our own docs
    (tmp_path / "p.jsonl").write_text('{"problem": "a\\n\\nb", "answer": "1"}\n')
    recipe = "stages:\n  p: {uses: load_problems, file: p.jsonl, columns: {problem: problem}}\n"
    recipe += "  s: {uses: copy_problem, input: p}\n  n: {uses: count_lines, input: s}\n"
    (tmp_path / "r.yaml").write_text(recipe)
    from fakes.kinds import COPY_PROBLEM

    kinds = {**KINDS, "count_lines": module["STAGE"], "copy_problem": COPY_PROBLEM}
    store = Store(tmp_path / "store")
    stages = runner.run(planner.plan(tmp_path / "r.yaml", kinds, store=store))
    (row,) = artifact.read_rows(store.root / "artifacts" / str(stages["n"].address))
    assert row["lines"] == 2


@pytest.mark.parametrize("path", [*sorted(ROOT.glob("docs/*.md")), README], ids=lambda p: p.name)
def test_every_file_and_command_that_the_docs_name_exists(path: Path) -> None:
    text = path.read_text()
    for name in re.findall(r"`((?:recipes|docs|tests|ssd_pipeline|benchmarks)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"`make ([\w-]+)`", text):
        assert target in targets, target
    helped: dict[str, str] = {}
    for command in re.findall(r"`ssd (\w+)[^`]*`", text):
        if "ssd" not in helped:
            helped["ssd"] = subprocess.run([BIN / "ssd", "--help"], capture_output=True, text=True).stdout
        assert re.search(rf"\b{command}\b", helped["ssd"]), command


def test_the_commands_of_recipes_stand_in_their_first_line() -> None:
    for path in ROOT.glob("recipes/**/*.yaml"):
        first = path.read_text().splitlines()[0]
        words = shlex.split(first.removeprefix("#"))
        assert f"{path.relative_to(ROOT)}" in words, first
        assert "ssd-run" in words, first


def test_the_page_of_results_is_written_from_artifacts_alone(quickstart: Quickstart, tmp_path: Path) -> None:
    """Tried on the quickstart's comparison, which is there."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results -->\nold\n<!-- end -->\nafter\n")
    for _ in range(2):
        done = quickstart.call(f"python docs/write_results.py recipes/quickstart.yaml {page}")
        assert done.returncode == 0, done.stderr
    before, *table, after = page.read_text().splitlines()
    assert (before, after) == ("before", "after")
    assert "old" not in table
    assert [line.split(" | ")[0] for line in table if " sampled " in line] == [
        "| base_scores",
        "| cold_scores",
        "| kd_scores",
        "| scores",
    ]
    missing = quickstart.call(f"python docs/write_results.py recipes/baselines/rsr.yaml {page}")
    assert missing.returncode == 1
    assert "run it first" in missing.stderr


def test_the_page_of_results_holds_every_line_of_the_comparison_or_says_that_it_was_not_run() -> None:
    from ssd_pipeline import recipe
    from ssd_pipeline.tables import without_seed

    text = (ROOT / "docs" / "results.md").read_text().partition("<!-- results -->\n")[2].partition("<!-- end -->")[0]
    stages = recipe.load(ROOT / "recipes" / "compare.yaml", KINDS).stages
    lines = {without_seed(name) for name in stages["result"].inputs if stages[name].kind.kind == "evaluate"}
    shown = {line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if " | greedy | " in line}
    assert shown == lines or text == "The comparison has not been run for this page yet.\n"
