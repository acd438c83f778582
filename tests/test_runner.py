"""The engine from the outside: what runs, what is reused, what is kept when it fails, and what the events say."""

import json

import pytest
from fakes.bench import Bench

from ssd_pipeline.errors import RunError, UserErrors
from ssd_pipeline.store import artifact
from ssd_pipeline.store.local import Store


def test_a_run_makes_every_stage_and_a_second_run_computes_nothing(bench: Bench) -> None:
    first = bench.run()
    assert [r["doubled"] for r in bench.rows(first["twice"]["address"])] == [2 * n for n in range(10)]
    assert first["twice"]["computed"] == 10
    assert first["twice"]["fates"] == {"accepted": 10}
    assert first["twice"]["spend"] == {"bought": 40, "kept": 10, "pruned": 30, "scored": 20}
    assert first["total"]["summary"] == {"total": 90}
    before = {p: p.stat().st_mtime_ns for p in bench.store.root.rglob("*") if p.is_file()}
    second = bench.run()
    assert (bench.kinds.loaded, sum(bench.kinds.doubled.values()), bench.kinds.summed, bench.kinds.told) == (
        1,
        10,
        1,
        1,
    )
    assert [second[s]["computed"] for s in ("numbers", "twice", "total", "told")] == [0, 0, 0, 0]
    assert {s: e["address"] for s, e in second.items()} == {s: e["address"] for s, e in first.items()}
    assert {p: p.stat().st_mtime_ns for p in bench.store.root.rglob("*") if p.is_file()} == before


def test_side_tables_carry_the_number_of_their_row(bench: Bench) -> None:
    address = bench.run()["twice"]["address"]
    bits = list(artifact.read_rows(bench.store.root / "artifacts" / address, "bits"))
    assert "".join(str(b["value"]) for b in bits if b["row"] == 6) == "110"


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("twice", "doubled_again"),
        lambda text: "# a comment\n" + text.replace("{uses: double, input: numbers}", "{input: numbers, uses: double}"),
        lambda text: text + "runtime: {rows_in_flight: 3}\n",
        lambda text: text.replace("{uses: double, input: numbers}", "{uses: double, input: numbers, factor: 2}"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("name: numbers", "name: renamed"),
    ],
    ids=["rename", "comments and order", "runtime", "a default said", "line ends", "recipe name"],
)
def test_what_is_not_identity_changes_nothing(bench: Bench, edit) -> None:
    bench.run()
    bench.path.write_text(edit(bench.path.read_text()), newline="")
    bench.run()
    assert (bench.kinds.loaded, sum(bench.kinds.doubled.values()), bench.kinds.summed) == (1, 10, 1)


def test_a_changed_parameter_runs_what_depends_on_it_and_the_plan_says_so(bench: Bench) -> None:
    bench.run()
    plan = bench.plan("stages.twice.factor=3")
    assert {n: s.status for n, s in plan.stages.items()} == {
        "numbers": "hit",
        "twice": "miss",
        "total": "waits",
        "told": "waits",
    }
    assert plan.stages["twice"].why == "factor 2 -> 3"
    assert bench.run("stages.twice.factor=3")["total"]["summary"] == {"total": 135}
    assert bench.kinds.loaded == 1


def test_a_longer_input_computes_only_its_new_rows(bench: Bench) -> None:
    bench.run()
    grown = bench.run("stages.numbers.limit=15")
    assert grown["twice"]["computed"] == 5
    assert grown["twice"]["reused"] == 10
    assert all(count == 1 for count in bench.kinds.doubled.values())
    bits = list(artifact.read_rows(bench.store.root / "artifacts" / grown["twice"]["address"], "bits"))
    assert {b["row"] for b in bits} == set(range(15))
    alone = Bench(bench.path.parent / "alone") if (bench.path.parent / "alone").mkdir() is None else bench
    assert alone.run("stages.numbers.limit=15")["twice"]["digest"] == grown["twice"]["digest"]


def test_equal_rows_are_all_answered(bench: Bench) -> None:
    finished = bench.run("stages.numbers.repeat=3")
    assert finished["twice"]["rows"] == 30
    assert set(bench.kinds.doubled.values()) == {3}


def test_a_row_that_fails_is_kept_with_its_reason(bench: Bench) -> None:
    finished = bench.run("stages.twice.bad=[3]")["twice"]
    assert finished["fates"] == {"accepted": 9, "error": 1}
    assert bench.rows(finished["address"])[3]["error"] == "3 cannot be doubled"


def test_a_curable_error_ends_the_stage_and_only_that_row_is_asked_again(bench: Bench) -> None:
    bench.kinds.broken = {4}
    with pytest.raises(RunError, match="1 of 10 rows could not be done now"):
        bench.run()
    bench.kinds.broken = set()
    assert bench.run()["twice"]["computed"] == 1
    assert bench.kinds.doubled[4] == 2
    assert sum(bench.kinds.doubled.values()) == 11


def test_keep_errors_finishes_with_them(bench: Bench) -> None:
    finished = bench.run("stages.twice.curable=[4]", "stages.twice.keep_errors=true")["twice"]
    assert finished["fates"] == {"accepted": 9, "error": 1}


def test_when_all_first_rows_fail_nothing_is_stored(bench: Bench) -> None:
    with pytest.raises(RunError, match=r"all of the first \d+ rows failed"):
        bench.run("stages.numbers.limit=50", f"stages.twice.bad={list(range(50))}")
    assert not list((bench.store.root / "artifacts").glob("double-*"))


def test_force_takes_a_new_sample_and_keeps_the_old(bench: Bench) -> None:
    first = bench.run()["twice"]["address"]
    plan = bench.plan(force=("twice",))
    assert plan.stages["twice"].why.startswith("forced: take 1")
    second = bench.run(force=("twice",))["twice"]["address"]
    assert first != second
    assert bench.run()["twice"]["address"] == second
    assert bench.rows(first) == bench.rows(second)


def test_only_runs_the_stage_and_what_is_missing_above(bench: Bench) -> None:
    finished = bench.run(only=("twice",))
    assert list(finished) == ["numbers", "twice"]
    assert bench.run(only=("total",)).keys() == {"total"}
    bench.store.remove(finished["twice"]["address"])
    assert bench.run(only=("total",)).keys() == {"twice", "total"}
    assert bench.kinds.told == 0


def test_from_runs_all_that_is_built_on_a_stage(bench: Bench) -> None:
    assert bench.run(start=("twice",)).keys() == {"numbers", "twice", "total", "told"}


def test_limit_is_a_trial_without_effects(bench: Bench) -> None:
    finished = bench.run(limit=4)
    assert finished["twice"]["rows"] == 4
    assert bench.kinds.told == 0
    assert bench.run()["twice"]["computed"] == 6


def test_an_altered_artifact_is_never_used(bench: Bench) -> None:
    address = bench.run()["twice"]["address"]
    (file,) = (bench.store.root / "artifacts" / address / "data").glob("rows-*")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    bench.store = Store(bench.store.root)  # a new process
    with pytest.raises(RunError, match=f"rows-00000.parquet was altered.*ssd rm --force {address}"):
        bench.run("stages.total.input=[twice, twice_more]", "stages.twice_more={uses: double, input: twice, factor: 3}")
    file.unlink()
    assert bench.plan().stages["twice"].why == "damaged: data/rows-00000.parquet is missing"
    assert bench.run()["twice"]["computed"] == 10


def test_events_are_json_and_complete(bench: Bench) -> None:
    bench.run()
    for event in bench.events:
        json.dumps(event)
    finished = next(e for e in bench.events if e["event"] == "stage_finished" and e["stage"] == "twice")
    wanted = {"stage", "address", "digest", "rows", "computed", "reused", "fates", "spend", "paid", "seconds"}
    assert wanted <= finished.keys()
    assert bench.events[-1]["event"] == "run_finished"
    progress = [e for e in bench.events if e["event"] == "progress" and e["stage"] == "twice"]
    assert progress[-1]["done"] == progress[-1]["total"] == 10


@pytest.mark.parametrize("option", ["only", "start", "force"])
def test_an_unknown_stage_on_the_command_line_names_the_nearest(bench: Bench, option: str) -> None:
    with pytest.raises(UserErrors, match="did you mean twice"):
        bench.plan(**{option: ("twize",)})


def test_the_record_holds_no_path_of_the_machine(bench: Bench) -> None:
    address = bench.run()["twice"]["address"]
    text = (bench.store.root / "artifacts" / address / "record.json").read_text()
    assert str(bench.path.parent) not in text


def test_in_a_notebook_where_a_loop_runs(bench: Bench) -> None:
    import asyncio

    async def cell() -> dict:
        return bench.run()

    assert asyncio.run(cell())["twice"]["computed"] == 10


def test_the_plan_says_how_many_rows_an_interrupted_stage_keeps(bench: Bench) -> None:
    bench.kinds.broken = {3, 5}
    with pytest.raises(RunError):
        bench.run()
    assert bench.plan().stages["twice"].why == "not made yet; interrupted, 8 rows are kept"
    assert bench.plan("stages.twice.factor=3").stages["twice"].why == "not made yet"
    bench.kinds.broken = set()
    assert bench.run()["twice"]["reused"] == 8
    assert "interrupted" not in bench.plan().stages["twice"].why
