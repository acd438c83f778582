"""The main job, end to end, on what is shipped: what the first run gives, and what later runs reuse."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.shipped import ROOT, Quickstart

from ssd_pipeline.store.artifact import read_rows

DEPENDS_ON_BRANCHES = {"trajectories", "verified", "adapter", "scores", "result"}


@pytest.fixture(scope="module")
def again(quickstart: Quickstart) -> list[dict]:
    return quickstart.events("ssd-run recipes/quickstart.yaml")


def finished(events: list[dict]) -> dict[str, dict]:
    return {e["stage"]: e for e in events if e["event"] == "stage_finished"}


def test_the_names_that_others_rely_on_are_there(again: list[dict]) -> None:
    assert {"problems", "trajectories", "verified", "adapter", "scores"} <= finished(again).keys()


def test_the_second_run_takes_nothing_but_hits(again: list[dict]) -> None:
    assert {e["status"] for e in again if e["event"] == "plan"} == {"hit"}
    assert {e["computed"] for e in finished(again).values()} == {0}
    assert {e["paid"]["bought"] for e in finished(again).values()} == {0}


def test_the_second_run_imports_nothing_heavy(quickstart: Quickstart) -> None:
    script = Path(sys.executable).parent / "ssd-run"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", script, "recipes/quickstart.yaml"],
        cwd=ROOT,
        env={"SSD_HOME": str(quickstart.store)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "pydantic" in imported
    assert not imported & {"torch", "transformers", "trl", "peft", "datasets", "huggingface_hub", "numpy", "pandas"}


def test_every_row_has_one_fate_and_the_spend_adds_up(quickstart: Quickstart, again: list[dict]) -> None:
    event = finished(again)["trajectories"]
    rows = list(read_rows(quickstart.store / "artifacts" / event["address"]))
    assert len(rows) == event["rows"] == sum(event["fates"].values()) == 192
    for row in rows:
        spend = row["spend"]
        assert spend["bought"] == spend["kept"] + spend["pruned"]
        assert row["tokens"] == spend["kept"] == sum(c["tokens"] for c in row["chunks"])
        assert "".join(c["text"] for c in row["chunks"]) == row["solution"] == row["messages"][-1]["content"]
    assert event["spend"]["bought"] == sum(r["spend"]["bought"] for r in rows)


def test_the_branches_table_holds_every_branch_of_every_decision(quickstart: Quickstart, again: list[dict]) -> None:
    folder = quickstart.store / "artifacts" / finished(again)["trajectories"]["address"]
    rows, branches = list(read_rows(folder)), list(read_rows(folder, "branches"))
    assert sum(b["tokens"] for b in branches) == sum(r["spend"]["bought"] for r in rows)
    assert sum(b["chosen"] for b in branches) == sum(len(r["chunks"]) for r in rows)
    assert {b["uuid"] for b in branches} == {r["uuid"] for r in rows}
    for row, chunk in ((rows[b["row"]], b) for b in branches if b["chosen"]):
        assert row["chunks"][chunk["chunk"]]["branch"] == chunk["branch"]
        alike = [b for b in branches if b["row"] == rows.index(row) and b["chunk"] == chunk["chunk"]]
        assert chunk["perplexity"] == min(b["perplexity"] for b in alike)
        if row is rows[5]:
            break


def test_one_response_text_is_scored_verified_trained_on_and_published(
    quickstart: Quickstart, again: list[dict]
) -> None:
    store = quickstart.store / "artifacts"
    sampled = list(read_rows(store / finished(again)["trajectories"]["address"]))
    verified = list(read_rows(store / finished(again)["verified"]["address"]))
    assert [r["solution"] for r in sampled] == [r["solution"] for r in verified]
    assert [r["messages"] for r in sampled] == [r["messages"] for r in verified]
    assert {r["verdict"] for r in verified if r["fate"] == "accepted"} <= {"correct", "incorrect", "no_answer", "error"}
    assert {r["verdict"] for r in verified if r["fate"] != "accepted"} <= {None}


def test_the_judge_beats_unguided_samples_here_and_the_table_says_so(quickstart: Quickstart, again: list[dict]) -> None:
    table = finished(again)["result"]["summary"]["table"]
    greedy = {line["position"]: line for line in table if line["mode"] == "greedy"}
    assert all(line["count"] + line["errors"] == 300 for line in table)
    assert greedy[3]["difference_low"] > 0, "the mechanism that the quickstart is there to show"
    shown = quickstart.first.stderr
    assert "minus baseline (95%)" in shown
    assert f"{100 * greedy[3]['accuracy']:.1f}" in shown


def test_fewer_branches_run_only_what_depends_on_them_and_the_plan_says_why(quickstart: Quickstart) -> None:
    events = quickstart.events("ssd-run recipes/quickstart.yaml --set stages.trajectories.branches=2 --dry-run")
    assert {e["stage"] for e in events if e["status"] != "hit"} == DEPENDS_ON_BRANCHES
    why = {e["stage"]: e["why"] for e in events}
    assert why["trajectories"] == "branches 4 -> 2"
    assert why["adapter"] == "waits for verified"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("trajectories", "searched"),
        ("warm", "judge"),
        ("name: quickstart", "name: other"),
        ("\nstages:", "\nruntime: {rows_in_flight: 7, models: {teacher: {batch_tokens: 99}}}\nstages:"),
        ("# Gen-SSD: four", "# Another comment: four"),
        ("{path: quickstart/teacher, dtype: float32}", "{dtype: float32, path: quickstart/teacher}"),
        ("seed: 17\n", "seed: 17   # the same\n"),
    ],
    ids=["a stage renamed", "a model renamed", "name", "runtime", "comment", "order", "blank"],
)
def test_what_is_no_identity_keeps_every_hit(quickstart: Quickstart, tmp_path: Path, old: str, new: str) -> None:
    shutil.copytree(ROOT / "recipes" / "quickstart", tmp_path / "quickstart", ignore=shutil.ignore_patterns("*.py"))
    text = (ROOT / "recipes" / "quickstart.yaml").read_text()
    assert old in text
    (tmp_path / "edited.yaml").write_text(text.replace(old, new))
    events = quickstart.events(f"ssd-run {tmp_path / 'edited.yaml'} --dry-run")
    assert {e["stage"]: e["status"] for e in events if e["status"] != "hit"} == {}


def test_more_problems_compute_only_the_new_ones(quickstart: Quickstart) -> None:
    more = "--set stages.problems.limit=200 --only kd_verified"
    events = finished(quickstart.events(f"ssd-run recipes/quickstart.yaml {more}"))
    assert {s: e["computed"] for s, e in events.items()} == {"problems": 200, "kd_data": 8, "kd_verified": 8}
    assert events["kd_data"]["reused"] == 192


def test_arms_share_what_they_have_in_common(quickstart: Quickstart) -> None:
    events = quickstart.events("ssd-run recipes/baselines/highest_perplexity.yaml --dry-run")
    assert {e["stage"] for e in events if e["status"] != "hit"} == DEPENDS_ON_BRANCHES


def test_the_record_names_no_place_of_this_machine(quickstart: Quickstart) -> None:
    for path in quickstart.store.glob("artifacts/*/record.json"):
        text = path.read_text()
        assert str(ROOT) not in text, path
        assert str(Path.home()) not in text, path
        json.loads(text)
