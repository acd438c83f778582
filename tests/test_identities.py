"""Golden fingerprints: what a stage is called must not change by accident.

A value below changes when a default, a name or the canonical form changed. If that was meant, bump the kind's `version`
(its artifacts are then made anew) and put the new value here; if not, you have just saved every user's cache.
"""

from pathlib import Path

import pytest

from ssd_pipeline import recipe
from ssd_pipeline.identities import Identities, differences, left_at_default
from ssd_pipeline.stages import KINDS
from ssd_pipeline.store.identity import digest_of

RECIPE = """\
seed: 3
prompt: "Solve: {problem}"
models:
  teacher: {repo: someone/teacher, revision: v1, think: ["<think>", "</think>"]}
  student: {repo: someone/student, revision: v2, dtype: bfloat16}
  learned: {base: student, adapter: {stage: train_sft}}
stages:
  load_problems: {uses: load_problems, dataset: someone/data, revision: v3, limit: 10}
  load_trajectories: {uses: load_trajectories, dataset: someone/traces, columns: {solution: generations}}
  scored: {uses: score_trajectories, input: load_trajectories, student: student}
  select_trajectories: {uses: select_trajectories, input: scored, criterion: shortest}
  sample_branches: {uses: sample_branches, input: load_problems, teacher: teacher, student: student,
                    accept: {quantile: 0.5, of: {stage: score_trajectories}}}
  scored_before: {uses: sample_branches, input: load_problems, teacher: teacher, branches: 1}
  score_trajectories: {uses: score_trajectories, input: scored_before, student: student}
  verify_answers: {uses: verify_answers, input: sample_branches}
  train_sft: {uses: train_sft, input: verify_answers, model: student}
  find_overlaps: {uses: find_overlaps, input: load_problems, against: {stage: verify_answers}}
  evaluate: {uses: evaluate, input: load_problems, model: learned}
  again: {uses: evaluate, input: load_problems, model: student}
  compare: {uses: compare, input: [evaluate, again], baseline: again}
  push_dataset: {uses: push_dataset, input: verify_answers, repo: someone/out, version: v1}
"""
GOLDEN = {
    "load_problems": "01c6d7d72f740013",
    "load_trajectories": "73f34e17effa22da",
    "sample_branches": "1167609d5bcd7b43",
    "score_trajectories": "6267d5a26dd622f2",
    "select_trajectories": "f0dff09dff4d3ada",
    "verify_answers": "235bf4ca4e72827a",
    "train_sft": "a4ca08dacfb71472",
    "find_overlaps": "77e4bbcff01ea735",
    "evaluate": "cf8c113fc8c75bcc",
    "compare": "919ee6e6a06bdad7",
    "push_dataset": "fcf5caebeaeadc0f",
}


@pytest.fixture
def identities(tmp_path: Path) -> Identities:
    (tmp_path / "r.yaml").write_text(RECIPE)
    document = recipe.load(tmp_path / "r.yaml", KINDS)
    return Identities(
        document, lambda stage: digest_of(f"content of {stage}"), lambda *revision: digest_of(revision)[:40]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_fingerprints_are_what_they_were(identities: Identities, kind: str) -> None:
    assert digest_of(identities.stage(identities.document.stages[kind]))[:16] == GOLDEN[kind]


def test_an_identity_says_only_what_differs_from_the_defaults(identities: Identities) -> None:
    said = identities.stage(identities.document.stages["verify_answers"])
    assert said == {"kind": "verify_answers", "version": 4, "params": {}}


def test_the_student_that_judges_is_part_of_the_data(identities: Identities) -> None:
    said = identities.stage(identities.document.stages["sample_branches"])["params"]
    assert said["student"]["repo"] == "someone/student"
    assert said["student"]["dtype"] == "bfloat16"
    assert len(said["student"]["revision"]) == 40
    assert said["accept"]["of"] == {"content": digest_of("content of score_trajectories")}


def test_an_adapter_is_part_of_the_model(identities: Identities) -> None:
    said = identities.stage(identities.document.stages["evaluate"])["params"]["model"]
    assert said["adapters"] == [{"content": digest_of("content of train_sft")}]


def test_a_baseline_is_named_by_its_place(identities: Identities) -> None:
    assert identities.stage(identities.document.stages["compare"])["params"]["baseline"] == 1


def test_the_seed_belongs_to_kinds_that_draw(identities: Identities) -> None:
    drawn = {k for k in KINDS if "seed" in identities.stage(identities.document.stages[k])}
    assert drawn == {"sample_branches", "train_sft", "evaluate"}


def test_differences_are_told_by_key() -> None:
    old = {"kind": "k", "params": {"branches": 4, "select": {"scope": "chunk"}}, "seed": 1}
    new = {"kind": "k", "params": {"branches": 8, "select": {"scope": "trajectory"}}, "seed": 1, "take": 1}
    assert differences(old, new) == ["branches 4 -> 8", "select.scope chunk -> trajectory", "take none -> 1"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            {"adapters": [{"content": "a" * 64}]},
            {"adapters": [{"content": "b" * 64}]},
            ["adapters #1.content aaaaaaaaaaaa -> bbbbbbbbbbbb"],
        ),
        (
            {},
            {"adapters": [{"repo": "o/n", "revision": "c" * 40}]},
            ["adapters none -> [repo o/n, revision cccccccccccc]"],
        ),
        ({"stop": ["\n"]}, {"stop": ["\n\n", "x"]}, ['stop ["\\n"] -> ["\\n\\n"; x]']),
        ({"greedy": True}, {"greedy": False}, ["greedy true -> false"]),
        ({"prompt": "a\x1b\u202e"}, {"prompt": ""}, ['prompt "a\\u001b\\u202e" -> ""']),
        ({"text": "x" * 100}, {"text": 1.5}, [f"text {'x' * 57}... -> 1.5"]),
    ],
)
def test_differences_are_words(old: dict, new: dict, says: list[str]) -> None:
    assert differences(old, new) == says


def test_what_stands_at_its_default_is_named_at_every_depth() -> None:
    said = {"teacher": {}, "chunk": {"max_tokens": 64}, "accept": {"quantile": 0.9, "of": {"content": "x"}}}
    left = left_at_default(KINDS["sample_branches"].params, said)
    assert left["branches"] == 4
    assert left["chunk"] == {"min_tokens": 1, "stop": ()}
    assert left["accept"]["patience"] == 1
    assert "teacher" not in left
