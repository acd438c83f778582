"""The closing tables of many stages, as texts."""

from __future__ import annotations

from ssd_pipeline.tables import added, comparison, folded

ROW = {
    "position": 0,
    "against": 0,
    "baseline": False,
    "runs": 1,
    "mode": "greedy",
    "accuracy": 0.5,
    "low": 0.4,
    "high": 0.6,
    "by_run": [0.5],
    "count": 300,
    "difference": None,
    "difference_low": None,
    "difference_high": None,
    "difference_by_run": None,
    "p": None,
    "better": None,
    "worse": None,
    **dict.fromkeys(("bought", "kept", "length", "correct", "given_up", "perplexity")),
}


def test_columns_in_which_nothing_is_said_are_left_out() -> None:
    better = {**ROW, "position": 1, "difference": 0.25, "difference_by_run": [0.25], "p": 0.25, "better": 3, "worse": 0}
    accuracies, data = comparison([ROW, better], ["before", "after"], ["before"])
    assert data == []
    assert accuracies == [
        ["comparison", "mode", "accuracy % (95%)", "minus baseline (95%)", "p", "better", "worse", "problems"],
        ["before", "greedy", "50.0 (40.0 to 60.0)", "", "", "", "", "300"],
        ["after", "greedy", "50.0 (40.0 to 60.0)", "+25.0", "0.25", "3", "0", "300"],
    ]


SEVEN = {**ROW, "runs": 7, "by_run": [0.5] * 7}


def test_a_sweep_has_one_line_for_all_seeds_a_column_for_each_baseline_and_a_table_of_the_data() -> None:
    row = {**SEVEN, "bought": 53_400.0, "kept": 15_900.0, "length": 82.6, "correct": 0.87, "perplexity": 1.12}
    interval = {"difference_low": -0.15, "difference_high": -0.05, "difference_by_run": [-0.1] * 7}
    paired = {**row, "against": 1, "difference": -0.1, **interval, "given_up": 0.0}
    modes = [row, paired, {**row, "mode": "sampled"}, {**paired, "mode": "sampled"}]
    accuracies, data = comparison(modes, ["scores[arm=gen,seed=1]"], ["scores[arm=kd]", "before"])
    assert accuracies == [
        ["comparison", "mode", "runs", "accuracy % (95%)", "minus before", "problems"],
        ["scores[arm=gen]", "greedy", "7", "50.0 ± 10.0", "-10.0 ± 5.0", "300"],
        ["scores[arm=gen]", "sampled", "7", "50.0 ± 10.0", "-10.0 ± 5.0", "300"],
    ]
    assert data == [
        ["comparison", "bought", "kept", "length", "correct %", "perplexity"],
        ["scores[arm=gen]", "53.4k", "15.9k", "83", "87.0", "1.120"],
    ]


def test_of_two_runs_both_are_shown_and_no_interval() -> None:
    wide = {"low": 0.0, "high": 1.0, "difference_low": -0.6, "difference_high": 0.8}
    two = {**ROW, "runs": 2, "by_run": [0.45, 0.55], "difference": 0.1, "difference_by_run": [0.04, 0.16], **wide}
    (heads, line), _ = comparison([two], ["scores[seed=1]"], ["before"])
    assert line[heads.index("accuracy % (95%)")] == "50.0 (runs: 45.0, 55.0)"
    assert line[heads.index("minus baseline (95%)")] == "+10.0 (runs: +4.0, +16.0)"


def test_instances_share_a_line_of_the_plan_and_of_the_end() -> None:
    plan = [
        ("a[seed=1]", "load", "runs", 3, None, "why"),
        ("a[seed=2]", "load", "cached", 4, 9, "why"),
        ("b", "sum", "runs", None, 5, "waits"),
    ]
    assert folded(plan) == [("a x2", "load", "1 runs, 1 cached", 7, None, ""), plan[2]]
    one = {"stage": "a[seed=1]", "kind": "load", "address": "x", "summary": {"s": 1}, "errors": {}}
    event = {**one, "rows": 2, "computed": 0, "seconds": 1.0, "fates": {"accepted": 2}, "spend": {"bought": 3}}
    (told,) = added([event, {**event, "stage": "a[seed=2]", "computed": 2, "rows": None}])
    assert (told["stage"], told["rows"], told["computed"], told["seconds"]) == ("a x2", 2, 2, 2.0)
    assert (told["fates"], told["spend"], told["address"]) == ({"accepted": 4}, {"bought": 6}, None)
    assert added([event]) == [event]
