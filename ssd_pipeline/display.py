"""What a person sees: the plan before a run, live progress, one closing table.

Everything goes to one screen (stderr). On a terminal progress is a bar, elsewhere a plain line now and then. When
everything is cached, the closing table says it all and no plan is shown before it. This file does not know how anything
is computed: it reads the plan and events.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from ssd_pipeline.errors import RunError, boundary
from ssd_pipeline.names import stage_of
from ssd_pipeline.planner import Plan, most_cost
from ssd_pipeline.resolver import Planned
from ssd_pipeline.runner import needed
from ssd_pipeline.screen import Screen, clean
from ssd_pipeline.tables import PlanLine, added, amount, comparison, folded, percent

LINE_SECONDS = 10.0
MANY = 60  # stages from which on the instances of a sweep share a line; events tell of each
WIDE = 118  # columns from which on whole addresses fit beside everything else
STYLES = {"hit": "green", "remote": "cyan", "miss": "yellow", "waits": "yellow", "effect": "magenta"}


def price_text(cost: float) -> str:
    """A cost for reading, in the currency of the recipe's prices: 1,234.50, 0.0123."""
    return f"{cost:,.2f}" if cost >= 1 else f"{cost:.3g}"


class Display:
    """Shows one plan and the events of its run on a screen."""

    def __init__(self, screen: Screen, plan: Plan) -> None:
        self._screen, self._plan = screen, plan
        self._needed = needed(plan)
        self._finished: list[Mapping[str, Any]] = []
        self._began = self._said = 0.0
        self._bar: Any = None
        self._row: Any = None

    def show_plan(self) -> None:
        """The table of stages: what is cached, what runs and why, at most how many tokens it samples."""
        rows = [self._plan_row(name, self._plan.stages[name]) for name in self._plan.order]
        lines = [
            (name, kind, status, amount(count), f"<= {amount(tokens)}" if tokens else "", why)
            for name, kind, status, count, tokens, why in (folded(rows) if len(rows) > MANY else rows)
        ]
        self._screen.table(("stage", "kind", "plan", "rows", "tokens", "why"), lines, right=("rows", "tokens"))
        self._most_cost()

    def _most_cost(self) -> None:
        """What the run costs at most, where prices are known; a bound, and never less than what comes."""
        bounds = {n: most_cost(self._plan, n) for n in self._plan.order if n in self._needed}
        known = {n: bound for n, bound in bounds.items() if bound}
        if known:
            stages = dict.fromkeys(map(stage_of, known))
            sums = {s: sum(bound for n, bound in known.items() if stage_of(n) == s) for s in stages}
            each = ", ".join(f"{clean(n)} {price_text(bound)}" for n, bound in sums.items())
            says = f"sampled tokens cost at most {price_text(sum(known.values()))} ({each})"
            self._screen.line(f"{says}: a bound, every branch at its longest; what prompts cost comes on top")

    def _plan_row(self, name: str, stage: Planned) -> PlanLine:
        says = {"hit": "cached", "remote": "on the Hub", "miss": "runs", "waits": "runs", "effect": "runs"}
        status, style = says[stage.status], STYLES[stage.status]
        if name not in self._needed and stage.status != "hit":
            status, style = "not chosen", "dim"
        why = f"{stage.address}{stage.why.removeprefix('cached')}" if stage.status == "hit" else stage.why
        return clean(name), stage.kind, self._screen.styled(status, style), stage.rows, stage.most_tokens, clean(why)

    def listen(self, event: Mapping[str, Any]) -> None:
        """One event of a run."""
        match event["event"]:
            case "stage_started":
                self._start(event)
            case "progress":
                self._progress(event)
            case "stage_finished":
                self._finish(event)
            case "run_finished":
                self._close(float(event["seconds"]))

    def _start(self, event: Mapping[str, Any]) -> None:
        self._began = self._said = time.monotonic()
        if self._screen.terminal:
            from rich.console import Console
            from rich.markup import escape
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[says]}"),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._row = self._bar.add_task(escape(clean(event["stage"])), total=None, says="")
            self._bar.start()
        else:
            self._screen.line(f"{clean(event['stage'])}: started")

    def _progress(self, event: Mapping[str, Any]) -> None:
        if event.get("waiting"):
            self._say(f"{clean(event['stage'])}: another run is making this stage; waiting for it")
            return
        if event.get("note"):
            self._say(f"{clean(event['stage'])}: {clean(event['note'])}")
            return
        if event.get("stopping"):
            what = "rows in flight get 20 s, then only their replies are kept; Ctrl-C again leaves at once"
            self._say(f"{clean(event['stage'])}: stopping; {what}")
            return
        says = self._progress_text(event)
        if self._bar is not None:
            self._bar.update(self._row, completed=event["done"], total=event["total"], says=says)
        elif time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            self._screen.line(f"{clean(event['stage'])}: {says}")

    def _progress_text(self, event: Mapping[str, Any]) -> str:
        done, total = event["done"], event["total"]
        unit = " rows" if "fates" in event else ""
        parts = [f"{done}/{total}{unit}" if total else f"{done}{unit}"]
        computed, seconds = event.get("computed", done), time.monotonic() - self._began
        if computed and seconds > 0:
            parts.append(f"{computed / seconds:.3g}/s")
            if total and total > done:
                parts.append(f"about {_duration((total - done) * seconds / computed)} left")
        parts += [f"{count} {fate}" for fate, count in (event.get("fates") or {}).items()]
        spend = event.get("spend") or {}
        if spend.get("bought"):
            parts.append(f"{amount(spend['bought'])} tokens")
            if spend["pruned"]:
                parts.append(f"{percent(spend['pruned'] / (spend['kept'] + spend['pruned']))}% pruned")
        if (event.get("paid") or {}).get("cost"):
            parts.append(f"cost {price_text(event['paid']['cost'])}")
        return ", ".join(parts)

    def _say(self, text: str) -> None:
        self._screen.line(text)

    def end(self) -> None:
        """Take the live bar away, also after a failure."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _finish(self, event: Mapping[str, Any]) -> None:
        self.end()
        self._finished.append(event)
        if event["computed"]:
            self._screen.line(f"{clean(event['stage'])}: {_rows_text(event)} in {event['seconds']:.1f} s")

    def _close(self, seconds: float) -> None:
        many = len(self._finished) > MANY
        rows = [self._closing_row(event) for event in (added(self._finished) if many else self._finished)]
        names = ("stage", "rows", "became", "bought", "kept", "pruned", "time", "address")
        self._screen.line()
        self._screen.table(names, rows, right=("rows", "bought", "kept", "pruned", "time"))
        for event in self._finished:
            for reason, count in event["errors"].items():
                self._screen.line(f"{clean(event['stage'])}: {count} rows with an error: {clean(reason)}")
            for warning in event["summary"].get("warnings", ()):
                self._screen.line(f"{clean(event['stage'])}: {clean(warning)}")
            for model, served in event["served"].items():
                if event["computed"] and self._plan.document.models[model].runtime.endpoints:
                    self._screen.line(f"{clean(event['stage'])}: {clean(model)} was {_served(served)}")
        if not many:
            self._accuracies()
        self._differences()
        done = sum(1 for e in self._finished if e["computed"])
        paid = sum(e["paid"]["bought"] for e in self._finished if e["kind"] == "sample_branches")
        bought = f", {amount(paid)} teacher tokens paid for" if paid else ""
        costs = [e["paid"]["cost"] for e in self._finished if e["paid"]["cost"] is not None]
        bought += f", cost {price_text(sum(costs))}" if costs else ""
        cached = f"{len(self._finished) - done} of {len(self._finished)} stages cached"
        self._screen.line(f"\n{cached}{bought}, {seconds:.1f} s")

    def _closing_row(self, event: Mapping[str, Any]) -> tuple[str, ...]:
        spend, taught = event["spend"], event["kind"] == "sample_branches"
        tokens = [amount(spend.get(k)) if taught else "" for k in ("bought", "kept", "pruned")]
        when = f"{event['seconds']:.1f} s" if event["computed"] else "cached"
        rows, address = amount(event["rows"]), self._address(event["address"])
        with _showing(event):
            return clean(event["stage"]), rows, _outcome(event), *tokens, when, address

    def _address(self, address: str | None) -> str:
        """The whole address where there is room, else its 16 digits, which `ssd show` takes too."""
        if address is None or self._screen.width >= WIDE:
            return clean(address or "")
        return clean(address.rpartition("-")[2])

    def _accuracies(self) -> None:
        rows = []
        for event in (e for e in self._finished if e["kind"] == "evaluate"):
            modes = event["summary"]
            model = getattr(self._plan.document.stages[event["stage"]].params, "model", "")
            with _showing(event):
                tokens = " / ".join(f"{m['tokens']:.0f}" for m in modes.values() if m["tokens"] is not None)
                shown = [_interval(modes.get(mode)) for mode in ("greedy", "sampled")]
                several = _of_several(modes.get("sampled", {}))
            rows.append((clean(event["stage"]), clean(model), amount(event["rows"]), *shown, tokens, several))
        if rows:
            heads = ["evaluation", "model", "problems", "greedy % (95%)", "sampled % (95%)", "tokens", "of several %"]
            if not any(row[-1] for row in rows):
                heads, rows = heads[:-1], [row[:-1] for row in rows]
            self._screen.line()
            self._screen.table(heads, rows, right=("problems", "tokens"))

    def _differences(self) -> None:
        for event in (e for e in self._finished if e["kind"] == "compare" and e["summary"].get("table")):
            stage = self._plan.document.stages[event["stage"]]
            said = stage.params.baseline
            baselines = (said,) if isinstance(said, str) else said
            with _showing(event):
                tables = comparison(event["summary"]["table"], stage.inputs, baselines)
            for (heads, *rows), keys in zip(filter(None, tables), (2, 1), strict=False):
                self._screen.line()
                self._screen.table(heads, [list(map(clean, row)) for row in rows], right=heads[keys:], keys=keys)


def _showing(event: Mapping[str, Any]) -> AbstractContextManager[None]:
    """What a record says of its stage has no form, and the record may be somebody else's. Raises RunError."""
    way_on = f"`ssd rm --force {event['address']}` removes it, --no-hub-cache makes it here"
    return boundary(RunError, f"{event['stage']}: what its record says of it cannot be shown ({way_on})")


def _served(served: Mapping[str, Any]) -> str:
    """What an endpoint served, and how often its tokens changed when texts were joined."""
    told = clean(f"{served['model']} ({served['check']})")
    if not served.get("joins"):
        return told
    return (
        f"{told}, and {percent(served['changed_joins'] / served['joins'])}% of {served['joins']} joins changed tokens"
    )


def _interval(mode: Mapping[str, Any] | None) -> str:
    if not mode or mode["accuracy"] is None:
        return "none judged" if mode else ""
    return f"{percent(mode['accuracy'])} ({percent(mode['low'])} to {percent(mode['high'])})"


def _of_several(mode: Mapping[str, Any]) -> str:
    """pass@k and maj@k for the largest k, where there is more than one sample."""
    passed, voted = mode.get("pass_at") or {}, mode.get("maj_at") or {}
    return ", ".join(
        f"{name}@{k} {percent(shares[k]['mean'])}"
        for name, shares in (("pass", passed), ("maj", voted))
        for k in list(shares)[-1:]
        if k != "1" and shares[k] is not None
    )


def _rows_text(event: Mapping[str, Any]) -> str:
    if event["rows"] is None:
        return "done"
    reused = f", {event['reused']} reused" if event["reused"] else ""
    return f"{event['computed']} rows computed{reused}"


def _outcome(event: Mapping[str, Any]) -> str:
    """What became of a stage's rows, or what it says of itself."""
    summary = event["summary"]
    counts = event["fates"] or summary.get("verdicts")
    if not event["fates"] and counts is not None:
        counts = {**counts, "not judged": (event["rows"] or 0) - sum(counts.values())}
    if counts:
        return clean(", ".join(f"{count} {name}" for name, count in counts.items() if count))
    if "left_out" in summary:
        left_out = "".join(f", {count} {reason}" for reason, count in summary["left_out"].items())
        loss = f"{summary['first_loss']:.2f} to {summary['last_loss']:.2f}"
        return clean(f"{summary['rows']} rows, loss {loss}{left_out}")
    notes = [f"{summary[k]} {k}" for k in ("bad", "duplicates") if summary.get(k)] + list(summary.get("notes", ()))
    return clean(", ".join(notes))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
