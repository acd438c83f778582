"""recipes/from_hub.yaml as it ships, on a tiny student and a loopback Hub with data sets of the true shape."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.hub import FakeHub
from fakes.hub_client import at_home

import ssd_pipeline
from ssd_pipeline.store import artifact

RECIPE = Path(__file__).parents[1] / "recipes" / "from_hub.yaml"
SMALL = """\
extends: {recipe}
models: {{student: {{repo: null, revision: null, path: {student}, dtype: float32}}}}
stages:
  adapter: {{lora: {{rank: 2}}, max_steps: 1, batch_size: 4, accumulate: 1, precision: float32, max_length: 400}}
  before: {{samples: 0, max_tokens: 4}}
  scores: {{samples: 0, max_tokens: 4}}
  published: {{repo: me/selected}}
runtime: {{models: {{student: {{device: cpu}}}}, hub: {{repo: me/cache}}}}
"""


def parquet(path: Path, rows: list[dict]) -> bytes:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path.read_bytes()


def test_published_traces_are_scored_selected_checked_and_trained_on(
    tmp_path: Path, tiny_model: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = [
        {
            "problem": f"What is {i} + 1?",
            "answer": str(i + 1),
            "generations": [f"<think>{i}</think> It is \\boxed{{{i + 1}}}", f"So \\boxed{{{i + 1}}}", "cut off"],
            "is_reasoning_complete": [True, True, False],
        }
        for i in range(4)
    ]
    tests = [{"problem": "What is 1 + 1?", "answer": "2", "solution": "by hand"}]
    (tmp_path / "r.yaml").write_text(SMALL.format(recipe=RECIPE, student=tiny_model()))
    monkeypatch.setenv("SSD_HOME", str(tmp_path / "store"))
    with FakeHub() as hub, at_home(hub, tmp_path / "home", monkeypatch, hub.token("me")):
        traces = parquet(tmp_path / "a.parquet", problems)
        card = b"---\nconfigs:\n- {config_name: default, data_files: [{split: train, path: data/train-*}]}\n---\n"
        hub.add("open-r1/OpenR1-Math-220k", {"README.md": card, "data/train-00000-of-00001.parquet": traces})
        hub.add("HuggingFaceH4/MATH-500", {"test.parquet": parquet(tmp_path / "b.parquet", tests)})
        stages = ssd_pipeline.run(ssd_pipeline.plan(tmp_path / "r.yaml"))
        rows = {n: list(artifact.read_rows(stages[n].found.directory)) for n in ("scored", "selected", "verified")}
        assert [len(rows[n]) for n in ("scored", "selected", "verified")] == [8, 4, 4]
        for chosen in rows["selected"]:
            others = [r["perplexity"] for r in rows["scored"] if r["uuid"] == chosen["uuid"]]
            assert chosen["perplexity"] == min(others)
        assert {r["verdict"] for r in rows["verified"]} == {"correct"}
        assert "perplexity" in stages["selected"].found.record["measured"]
        assert (stages["adapter"].found.data / "adapter_model.safetensors").is_file()
        assert stages["adapter"].address in hub.repos["model", "me/cache"].tags
        published = ssd_pipeline.load("me/selected", "verified", version="v1")
        assert published["uuid"] == [r["uuid"] for r in rows["verified"]]
        card = hub.repos["dataset", "me/selected"].find("v1").files["README.md"].data.decode()
        assert "Made with ssd_pipeline. Made for the student a local model." in card
        assert "endpoints" not in card
        assert "device" not in card.split("### What was asked")[1]
        monkeypatch.setenv("SSD_HOME", str(tmp_path / "colleague"))
        again = ssd_pipeline.plan(tmp_path / "r.yaml")
        assert {n for n, s in again.stages.items() if s.status == "remote"} == set(stages) - {"published"}
        assert ssd_pipeline.run(again)["result"].found.record["digest"] == stages["result"].found.record["digest"]
