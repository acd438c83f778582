"""A recipe under several values: which instances there are, what they are called, and that each is what it would be
alone; then the engine with instances, from the outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes.bench import Bench
from fakes.command import SSD, call
from fakes.recipe_kinds import KINDS
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_pipeline import stages as kinds
from ssd_pipeline import upkeep
from ssd_pipeline.document import Document, StageDef
from ssd_pipeline.errors import UserErrors
from ssd_pipeline.names import labels_of, stage_of
from ssd_pipeline.recipe import load
from ssd_pipeline.stage import ModelMark, StageRef, marked, replaced

RECIPE = """\
seed: 9
models:
  t: {repo: a/t}
  s: {repo: a/s}
  warm: {base: s, adapter: {stage: cold}}
  learned: {base: warm, adapter: {stage: adapter}}
stages:
  p: {uses: load}
  cold_data: {uses: grow, input: p, teacher: t, branches: 1}
  cold: {uses: train, input: cold_data, model: s}
  grown: {uses: grow, input: p, teacher: t, student: warm, accept: {quantile: 0.5, of: {stage: cold_data}}}
  checked: {uses: check, input: grown}
  adapter: {uses: train, input: checked, model: warm, where: {verdict: [correct]}}
  scores: {uses: grow, input: p, teacher: learned, branches: 1}
  result: {uses: compare, input: [cold_data, scores], baseline: cold_data}
variants:
  gen: {}
  kd: {stages: {grown: {branches: 1, student: null, accept: null}}}
  many: {stages: {grown: {branches: 16}}}
  unfiltered: {stages: {adapter: {where: null}}}
  b: {models: {t: {repo: a/other}}}
"""


@pytest.fixture
def swept(tmp_path: Path) -> Any:
    def read(sweep: str, *sets: str) -> Document:
        (tmp_path / "r.yaml").write_text(f"{RECIPE}sweep: {sweep}\n")
        return load(tmp_path / "r.yaml", KINDS, sets=sets)

    return read


def instances(document: Document, name: str) -> list[str]:
    return [stage.removeprefix(name) for stage in document.stages if stage_of(stage) == name]


def test_what_a_value_does_not_touch_is_planned_once(swept: Any) -> None:
    document = swept("{seed: [1, 2], stages.grown.branches: [2, 4]}")
    found = {name: instances(document, name) for name in map(stage_of, document.stages)}
    seeds = ["[seed=1]", "[seed=2]"]
    both = [f"[seed={seed},branches={branches}]" for seed in (1, 2) for branches in (2, 4)]
    assert found == {
        "p": [""],
        "cold_data": seeds,
        "cold": seeds,
        "grown": both,
        "checked": both,
        "adapter": both,
        "scores": both,
        "result": [""],
    }
    assert list(document.models) == ["t", "s", *(f"warm{s}" for s in seeds), *(f"learned{b}" for b in both)]


def test_an_instance_names_instances_and_what_gathers_receives_all(swept: Any) -> None:
    stages = (document := swept("{seed: [1, 2], stages.grown.branches: [2, 4]}")).stages
    grown = stages["grown[seed=2,branches=4]"]
    assert (grown.seed, grown.inputs, grown.params.branches) == (2, ("p",), 4)
    assert (grown.params.student, grown.params.accept.of) == ("warm[seed=2]", StageRef(stage="cold_data[seed=2]"))
    assert document.models["warm[seed=2]"].adapter.stage == "cold[seed=2]"
    assert document.models["learned[seed=2,branches=4]"].base == "warm[seed=2]"
    result = stages["result"]
    assert result.inputs == (*(n for n in stages if n.startswith("cold_data")), *(n for n in stages if "scores" in n))
    assert result.params.baseline == "cold_data"
    assert result.made_from == ((), (), (0,), (0,), (1,), (1,)), "each was made from the data of its own seed"
    assert stages["p"].seed is None


def test_variants_are_merged_and_share_what_they_leave_alone(swept: Any) -> None:
    document = swept("[{arm: [gen, kd, unfiltered], seed: [1, 2]}, {world: [b], arm: [kd, gen], seed: [1]}]")
    assert instances(document, "cold") == ["[seed=1]", "[seed=2]", "[seed=1,world=b]"]
    worlds = ["[arm=gen,seed=1,world=b]", "[arm=kd,seed=1,world=b]"]
    made = [f"[arm={arm},seed={seed}]" for arm in ("gen", "kd") for seed in (1, 2)]
    assert sorted(instances(document, "checked")) == sorted([*made, *worlds])
    assert sorted(instances(document, "adapter")) == sorted(
        [*made, *worlds, "[arm=unfiltered,seed=1]", "[arm=unfiltered,seed=2]"]
    )
    assert document.stages["adapter[arm=unfiltered,seed=2]"].inputs == ("checked[arm=gen,seed=2]",)
    assert document.stages["grown[arm=kd,seed=1,world=b]"].params.teacher == "t[world=b]"


def test_axes_and_values_have_short_names_that_tell_them_apart(swept: Any) -> None:
    rates = "stages.cold.learning_rate: [0.5, 0.25], stages.adapter.learning_rate: [1, 2]"
    document = swept(f"{{{rates}, stages.grown.chunk: [{{}}, {{stop: [x]}}]}}")
    labels = labels_of([name for name in document.stages if stage_of(name) == "scores"][-1])
    assert labels == {"stages.cold.learning_rate": "0.25", "stages.adapter.learning_rate": "2", "chunk": "#2"}
    nulls = swept("{stages.adapter.where: [null, {verdict: [correct]}]}")
    assert instances(nulls, "adapter") == ["[where=null]", "[where=#2]"]
    assert [nulls.stages[f"adapter[where={w}]"].where for w in ("null", "#2")] == [{}, {"verdict": ("correct",)}]


def test_one_value_is_no_sweep_but_holds(swept: Any) -> None:
    document = swept("{seed: [5]}")
    assert "[" not in "".join(document.stages)
    assert document.stages["grown"].seed == 5


def test_the_command_line_changes_a_sweep_or_ends_it_but_does_not_lose_against_it(swept: Any) -> None:
    sweep = "{seed: [1, 2], stages.grown.branches: [2, 4]}"
    assert instances(swept(sweep, "sweep.seed=[7, 8, 9]", "sweep.stages.grown.branches=[3]"), "grown") == [
        "[seed=7]",
        "[seed=8]",
        "[seed=9]",
    ]
    alone = swept(sweep, "sweep=null")
    assert (alone.stages["grown"].seed, alone.stages["grown"].params.branches) == (9, 4)
    for lost in ("seed=3", "stages.grown.branches=3"):
        with pytest.raises(UserErrors, match="the recipe sweeps it"):
            swept(sweep, lost)
    held = swept("{arm: [gen, many]}", "stages.grown.branches=3")
    assert [held.stages[n].params.branches for n in held.stages if "grown" in n] == [3], "the same in every variant"
    assert swept(sweep, "stages.cold.learning_rate=0.5").stages["cold[seed=1]"].params.learning_rate == 0.5


def plain(document: Document, name: str) -> Any:
    """A stage and all it stands on, with plain names: what it is, wherever it came from."""
    stage: StageDef = document.stages[name]
    params, models = stage.params, []
    for path, mark, value in marked(params):
        if isinstance(mark, ModelMark):
            params = replaced(params, path, stage_of(value))
            while value:
                model = document.models[value]
                above = plain(document, model.adapter.stage) if model.adapter and model.adapter.stage else None
                models.append((model.repo, model.revision, above))
                value = model.base
        elif mark is None:
            params = replaced(params, path, StageRef(stage=stage_of(value.stage)))
            models.append(plain(document, value.stage))
    above = () if stage.gathers else tuple(plain(document, one) for one in stage.inputs)
    return stage_of(name), params.model_dump_json(), models, above, stage.where, stage.seed


VALUES = {
    "seed": ["1", "2", "3"],
    "stages.grown.branches": ["2", "4"],
    "stages.cold.learning_rate": ["0.5", "0.25"],
    "stages.adapter.where": ["null", "{verdict: [incorrect]}"],
    "models.t.revision": ["null", "v1", "v2"],
}


@settings(max_examples=15, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(VALUES)), st.integers(1, 3), max_size=3))
def test_every_instance_is_what_the_recipe_says_alone_and_none_is_there_twice(
    tmp_path_factory: pytest.TempPathFactory, counts: dict[str, int]
) -> None:
    path = tmp_path_factory.mktemp("sweep") / "r.yaml"
    axes = {key: VALUES[key][:count] for key, count in counts.items()}
    path.write_text(RECIPE + "".join(["sweep:\n", *(f"  {k}: [{', '.join(v)}]\n" for k, v in axes.items())]))
    united = load(path, KINDS)
    found = [plain(united, name) for name in united.stages]
    combinations: list[list[str]] = [[]]
    for key, values in axes.items():
        combinations = [[*sets, f"{key}={value}"] for sets in combinations for value in values]
    alone = [load(path, KINDS, sets=["sweep=null", *sets]) for sets in combinations]
    wanted = [plain(document, name) for document in alone for name in document.stages]
    assert all(one in wanted for one in found)
    assert all(one in found for one in wanted)
    assert all(found.count(one) == 1 for one in found)
    assert len(set(united.stages)) == len(united.stages)


QUICKSTART = Path(__file__).parent.parent / "recipes" / "quickstart.yaml"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("brances=2", "brances: unknown key. Did you mean `branches`?"),
        ("branches=two", "branches: a whole number is wanted, not the text `two`"),
        ("teacher=null", "teacher: is missing"),
    ],
)
def test_a_stage_that_is_wrong_under_every_value_is_one_mistake(wrong: str, told: str) -> None:
    """And a broken stage stays one under the second value, where its mistake is no news."""
    with pytest.raises(UserErrors) as caught:
        load(QUICKSTART, kinds.KINDS, sets=["sweep={seed: [1, 2, 3]}", f"stages.trajectories.{wrong}"])
    assert [f"{m.key}: {m.message}" for m in caught.value.mistakes] == [f"stages.trajectories.{told}"]


# --------------------------------------------------------------------------------------------- the engine

NUMBERS = """\
name: numbers
stages:
  numbers: {uses: load_numbers, limit: 3}
  twice: {uses: double, input: numbers}
  total: {uses: sum_numbers, input: twice}
sweep: {seed: [1, 2], stages.twice.factor: [2, 3]}
"""


@pytest.fixture
def numbers(bench: Bench) -> Bench:
    bench.path.write_text(NUMBERS)
    return bench


def test_instances_run_are_told_by_name_and_more_values_compute_only_what_is_new(numbers: Bench) -> None:
    first = numbers.run()
    assert list(first) == [
        "numbers",
        *(f"{n}[seed={s},factor={f}]" for n in ("twice", "total") for s in (1, 2) for f in (2, 3)),
    ]
    totals = {name: event["summary"]["total"] for name, event in first.items() if "total" in name}
    assert totals == {f"total[seed={s},factor={f}]": 3 * f for s in (1, 2) for f in (2, 3)}
    second = numbers.run("sweep.seed=[2, 3]")
    assert {name for name, event in second.items() if event["computed"]} == {
        f"{n}[seed=3,factor={f}]" for n in ("twice", "total") for f in (2, 3)
    } - {"total[seed=3,factor=2]", "total[seed=3,factor=3]"}, "the same numbers again: their sums are hits"
    alone = numbers.run("sweep=null", "seed=2", "stages.twice.factor=3")
    assert alone["twice"]["address"] == first["twice[seed=2,factor=3]"]["address"]


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("twice[seed=1,factor=2]", ["twice[seed=1,factor=2]"]),
        ("twice[factor=2]", ["twice[seed=1,factor=2]", "twice[seed=2,factor=2]"]),
        ("twice[ factor=3, seed=2 ]", ["twice[seed=2,factor=3]"]),
        ("twice", [f"twice[seed={s},factor={f}]" for s in (1, 2) for f in (2, 3)]),
        ("numbers", ["numbers"]),
    ],
)
def test_options_name_one_instance_some_or_all(numbers: Bench, said: str, meant: list[str]) -> None:
    assert numbers.plan(only=(said,)).selected == set(meant)
    forced = numbers.plan(force=(said,))
    assert set(forced.choice.force) == set(meant)


def test_an_instance_that_is_not_there_is_a_mistake_with_a_proposal(numbers: Bench) -> None:
    with pytest.raises(UserErrors, match=r"no stage is called twice\[seed=5\]; did you mean twice\[seed="):
        numbers.plan(only=("twice[seed=5]",))
    with pytest.raises(UserErrors, match=r"did you mean twice\?"):
        numbers.plan(only=("twise",))
    with pytest.raises(UserErrors, match=r"stages are: numbers, twice, total$"):
        numbers.plan(only=("x",))


def test_a_forced_instance_is_made_anew_alone(numbers: Bench) -> None:
    numbers.run()
    again = numbers.run(force=("twice[seed=1,factor=2]",))
    assert [name for name, event in again.items() if event["computed"] and "twice" in name] == [
        "twice[seed=1,factor=2]"
    ]


def test_why_finds_the_nearest_instance(numbers: Bench) -> None:
    numbers.run("sweep.seed=[1]", "sweep.stages.twice.factor=[2]")
    _, lines = upkeep.why(numbers.plan(), "twice[seed=2,factor=2]")
    assert lines == ["seed 1 -> 2"]


def test_what_gathers_is_made_anew_when_an_instance_is_added_and_only_then(numbers: Bench) -> None:
    """Its key holds the labels, since it tells runs of one line by them, and not the names of stages."""
    import dataclasses

    def run(*sets: str) -> dict[str, Any]:
        kinds = numbers.kinds.all()
        kinds["sum_numbers"] = dataclasses.replace(kinds["sum_numbers"], gathers=True)
        from ssd_pipeline import planner, runner

        return runner.run(planner.plan(numbers.path, kinds, sets=sets, store=numbers.store))

    first = run()["total"]
    assert first.found.record["summary"] == {"total": 2 * 3 * (2 + 3)}
    assert [i.get("labels") for i in first.found.record["inputs"]][:2] == [
        {"seed": "1", "factor": "2"},
        {"seed": "1", "factor": "3"},
    ]
    numbers.path.write_text(NUMBERS.replace("twice", "doubled"))
    assert run()["total"].address == first.address
    assert run("sweep.seed=[1, 2, 3]")["total"].address != first.address


def test_the_commands_take_instances(home: Path) -> None:
    (home / "recipe.yaml").write_text(
        "stages:\n  problems: {uses: load_problems, file: problems.jsonl, shuffle: seed}\nsweep: {seed: [1, 2]}\n"
    )
    done = call(home, "recipe.yaml", "--only", "problems[seed=2]")
    assert done.returncode == 0, done.stderr
    assert "problems[seed=2]" in done.stderr
    assert "problems[seed=1]" not in done.stderr.split("became")[1]
    said = call(home, "why", "recipe.yaml", "problems", command=SSD).stdout
    assert "problems[seed=1]: miss, not made yet" in said
    assert "problems[seed=2]: cached" in said
    assert "problems[seed=2]" in call(home, "ls", command=SSD).stdout
