"""What a run says in its closing tables about many stages at once: a comparison, and a sweep's instances in one line.

Rows go in as the dicts that events hold, and come out as texts; columns in which nothing is said are left out. This
file does not know the screen, nor how anything was computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, TypeVar

from ssd_pipeline.names import instance, labels_of, stage_of

T = TypeVar("T")
Event = Mapping[str, Any]


def amount(count: float | None) -> str:
    """A number of tokens or rows for reading: 950, 12.3k, 4.56M."""
    if count is None:
        return ""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.4g}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def added(events: Sequence[Event]) -> list[Event]:
    """Events of finished stages, those of one stage's instances as one: `adapter x21`, with their sums."""
    found: list[Event] = []
    for name, of in _by_stage(events, lambda event: str(event["stage"])).items():
        counts: dict[str, Counter[str]] = {"fates": Counter(), "spend": Counter()}
        for event in of:
            for key, count in counts.items():
                count.update(event[key])
        sums = {key: sum(event[key] or 0 for event in of) for key in ("rows", "computed", "seconds")}
        one = {**of[0], **counts, **sums, "stage": f"{name} x{len(of)}", "address": None, "summary": {}}
        found.append(one if len(of) > 1 else of[0])
    return found


PlanLine = tuple[str, str, str, int | None, int | None, str]  # stage, kind, what becomes of it, rows, most tokens, why


def folded(plan: Sequence[PlanLine]) -> list[PlanLine]:
    """Lines of a plan, those of one stage's instances as one, with their sums where all are known."""
    found: list[PlanLine] = []
    for name, of in _by_stage(plan, lambda line: line[0]).items():
        says = ", ".join(f"{count} {status}" for status, count in Counter(line[2] for line in of).items())
        rows, tokens = _sum([line[3] for line in of]), _sum([line[4] for line in of])
        found.append((f"{name} x{len(of)}", of[0][1], says, rows, tokens, "") if len(of) > 1 else of[0])
    return found


def _sum(counts: Sequence[int | None]) -> int | None:
    return None if None in counts else sum(count for count in counts if count is not None)


def _by_stage(things: Sequence[T], name: Callable[[T], str]) -> dict[str, list[T]]:
    found: dict[str, list[T]] = {}
    for thing in things:
        found.setdefault(stage_of(name(thing)), []).append(thing)
    return found


Table = list[list[str]]


def comparison(table: Sequence[Event], inputs: Sequence[str], baselines: Sequence[str]) -> tuple[Table, Table]:
    """The rows of `compare` as two tables, the heads first: the accuracies, a line for each evaluation and mode, and
    the data that the models were trained on (empty where nothing is said of it). `inputs`: the inputs' names."""
    lines, data = [], {}
    for _, group in groupby(table, lambda row: (row["position"], row["mode"])):
        rows = list(group)
        name = without_seed(inputs[rows[0]["position"]])
        cells = {"comparison": name, **_accuracy(rows[0])}
        for row, base in zip(rows, baselines, strict=True):
            short = "baseline (95%)" if len(rows) == 1 else " ".join(labels_of(base).values()) or base
            cells[f"minus {short}"] = _difference(row)
        if len(rows) == 1:
            cells |= {"p": _p(rows[0]["p"]), **{name: amount(rows[0][name]) for name in ("better", "worse")}}
        lines.append({**cells, "problems": amount(rows[0]["count"])})
        if any(_data(rows[0]).values()):
            data[name] = {"comparison": name, **_data(rows[0])}
    return _said(lines), _said(list(data.values()))


def _said(lines: Sequence[Mapping[str, str]]) -> Table:
    heads = [head for head in lines[0] if any(line[head] for line in lines)] if lines else []
    return [heads, *([line[head] for head in heads] for line in lines)] if lines else []


def without_seed(name: str) -> str:
    """The name of a line: an instance's without its seed."""
    return instance(stage_of(name), {axis: label for axis, label in labels_of(name).items() if axis != "seed"})


def _accuracy(row: Event) -> dict[str, str]:
    """With its interval, which is symmetrical for several runs, but for a cut at 0 or 100; two runs are shown instead,
    for an interval of them, a hundred points wide, would say nothing."""
    share, low, high, runs = (row[name] for name in ("accuracy", "low", "high", "by_run"))
    shown = percent(share)
    if len(runs) == 2:
        shown += f" (runs: {', '.join(map(percent, runs))})"
    elif share is not None:
        several = len(runs) > 2
        shown += f" ± {percent(max(high - share, share - low))}" if several else f" ({percent(low)} to {percent(high)})"
    return {"mode": row["mode"], "runs": str(row["runs"]) if row["runs"] > 1 else "", "accuracy % (95%)": shown}


def _difference(row: Event) -> str:
    if row["difference"] is None:
        return ""
    shown = f"{100 * row['difference']:+.1f}"
    if len(row["difference_by_run"]) == 2:
        return f"{shown} (runs: {', '.join(f'{100 * one:+.1f}' for one in row['difference_by_run'])})"
    if row["difference_low"] is None:
        return shown
    return f"{shown} ± {percent(row['difference_high'] - row['difference'])}"


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2g}" if value >= 0.0001 else "<0.0001"


def _data(row: Event) -> dict[str, str]:
    perplexity, length = (row[name] for name in ("perplexity", "length"))
    return {
        "bought": amount(row["bought"]),
        "kept": amount(row["kept"]),
        "length": "" if length is None else f"{length:.0f}",
        "correct %": percent(row["correct"]),
        "given up %": percent(row["given_up"]),
        "perplexity": "" if perplexity is None else f"{perplexity:.3f}",
    }
