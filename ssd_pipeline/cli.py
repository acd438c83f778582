"""The command line: a thin listener over plan and run, and the only place that prints, reads argv and exits.

Human text goes to stderr, data (`--json`, `ssd schema`, `ssd show`) to stdout. Exit status: 0 done, 1 failed while
running (what is finished is kept), 2 it cannot begin (nothing was spent): the user's mistake, or a Hub that must be
asked first and does not answer, 130 interrupted. Each ends in one message and never in a traceback. Nothing heavy is
imported here.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from types import ModuleType
from typing import Annotated, Any, NoReturn, TextIO

import typer

from ssd_pipeline.errors import Interrupted, RunError, Unanswered, UserErrors
from ssd_pipeline.planner import Choice, Plan, most_cost
from ssd_pipeline.planner import plan as make_plan
from ssd_pipeline.runner import run as run_plan
from ssd_pipeline.screen import Screen, clean
from ssd_pipeline.stages import KINDS

ABOUT = (
    "Distil reasoning into a small model with Gen-SSD (arXiv 2604.02819): the student judges the teacher's candidate "
    "continuations while the teacher writes. Try: ssd-run recipes/quickstart.yaml"
)
app = typer.Typer(help=ABOUT, no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)
Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="a recipe file, such as recipes/quickstart.yaml")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="K=V", help="override one key, typed as in the file")]
Only = Annotated[list[str] | None, typer.Option(metavar="STAGE", help="run this stage and what is missing above it")]
From = Annotated[list[str] | None, typer.Option("--from", metavar="STAGE", help="run this stage and all built on it")]
Force = Annotated[
    list[str] | None, typer.Option(metavar="STAGE", help="take a new sample of this stage; the old stays")
]
Limit = Annotated[int | None, typer.Option(metavar="N", help="a trial: load at most N problems to learn from")]
Refresh = Annotated[bool, typer.Option("--refresh", help="look revisions up on the Hub again")]
NoHubCache = Annotated[bool, typer.Option("--no-hub-cache", help="leave runtime.hub out: neither look up nor publish")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="show the plan and stop")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object a line on stdout")]
Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="such as sample_branches-0123456789abcdef")]


@app.command("run")
def run_command(
    recipe: Recipe,
    only: Only = None,
    start: From = None,
    force: Force = None,
    limit: Limit = None,
    sets: Sets = None,
    refresh: Refresh = False,
    no_hub_cache: NoHubCache = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Run a recipe; everything that is cached is taken as it is."""
    choice = Choice(tuple(only or ()), tuple(start or ()), tuple(force or ()), limit, refresh, not no_hub_cache)

    def work() -> None:
        planned = make_plan(recipe, KINDS, sets=sets or (), choice=choice)
        tell_plan(planned, as_json=as_json, dry_run=dry_run)
        if not dry_run:
            execute(planned, as_json=as_json)

    ending(work, as_json=as_json)


@app.command("plan")
def plan_command(
    recipe: Recipe,
    sets: Sets = None,
    refresh: Refresh = False,
    show_prompt: Annotated[bool, typer.Option("--show-prompt", help="print what each model is asked first")] = False,
    no_hub_cache: NoHubCache = False,
    as_json: Json = False,
) -> None:
    """Show what a run would do, and why; the same as run --dry-run."""

    def work() -> None:
        choice = Choice(refresh=refresh, hub_cache=not no_hub_cache)
        planned = make_plan(recipe, KINDS, sets=sets or (), choice=choice)
        tell_plan(planned, as_json=as_json, dry_run=True)
        if show_prompt:
            looking().tell_prompts(planned, emit if as_json else None)

    ending(work, as_json=as_json)


@app.command("doctor")
def doctor_command(recipe: Recipe, sets: Sets = None) -> None:
    """Try everything that a recipe needs, with a few tokens, and say what will not work."""
    ending(lambda: looking().tell_health(recipe, KINDS, sets or ()), as_json=False)


@app.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from ssd_pipeline.schema import recipe_schema

    ending(lambda: print(json.dumps(recipe_schema(KINDS), indent=1), flush=True), as_json=False)


@app.command("ls")
def ls_command(
    repo: Annotated[str | None, typer.Argument(metavar="[OWNER/REPO]", help="a repo on the Hub, not the store")] = None,
) -> None:
    """List the artifacts in the store, or the versions and outputs of a repo."""
    ending(lambda: looking().list_repo(repo) if repo else looking().list_artifacts(), as_json=False)


@app.command("show")
def show_command(address: Address, rows: Annotated[int, typer.Option(help="how many first rows", min=0)] = 1) -> None:
    """Show an artifact: its record and first rows, as JSON."""
    ending(lambda: looking().show_artifact(address, rows, KINDS), as_json=False)


@app.command("why")
def why_command(
    recipe: Recipe, stage: Annotated[str, typer.Argument(metavar="STAGE", help="a stage of it")], sets: Sets = None
) -> None:
    """Say why a stage is a hit or not, and how it differs from the nearest artifact."""
    ending(lambda: looking().tell_why(make_plan(recipe, KINDS, sets=sets or ()), stage), as_json=False)


@app.command("verify")
def verify_command(
    addresses: Annotated[list[str] | None, typer.Argument(metavar="[ADDRESS]...", help="all, if none is named")] = None,
) -> None:
    """Compare every byte of artifacts with their records."""
    ending(lambda: looking().verify_artifacts(addresses or []), as_json=False)


@app.command("gc")
def gc_command(
    dry_run: DryRun = False,
    replies: Annotated[bool, typer.Option("--replies", help="drop recorded model replies too")] = False,
) -> None:
    """Remove artifacts that no recipe's last run needs."""
    ending(lambda: looking().collect(dry_run=dry_run, replies=replies), as_json=False)


@app.command("rm")
def rm_command(
    address: Address, force: Annotated[bool, typer.Option("--force", help="even if others need it")] = False
) -> None:
    """Remove one artifact."""
    ending(lambda: looking().remove_artifact(address, force=force), as_json=False)


@app.command("pull")
def pull_command(
    repo: Annotated[str, typer.Argument(metavar="OWNER/REPO[@VERSION]", help="a version, an address or a commit")],
    output: Annotated[str | None, typer.Argument(metavar="[OUTPUT]", help="such as verified or branches")] = None,
) -> None:
    """Fetch one output of a published version, verify every byte, and print where its files are."""
    ending(lambda: looking().pull_output(repo, output), as_json=False)


@app.command("push")
def push_command(recipe: Recipe, sets: Sets = None) -> None:
    """Publish what a recipe has made to the repo of its runtime.hub; what is there already is left alone."""
    ending(lambda: looking().push_artifacts(make_plan(recipe, KINDS, sets=sets or ())), as_json=False)


def looking() -> ModuleType:
    """The bodies of the commands that look at the store, imported only for them."""
    from ssd_pipeline import looking as bodies

    return bodies


def tell_plan(planned: Plan, *, as_json: bool, dry_run: bool) -> None:
    """The plan as events or as a table."""
    if not as_json:
        from ssd_pipeline.display import Display

        if any(stage.status != "hit" for stage in planned.stages.values()) or dry_run:
            Display(Screen(sys.stderr), planned).show_plan()
        return
    for name in planned.order:
        stage = planned.stages[name]
        says = {"stage": name, "kind": stage.kind, "address": stage.address, "status": stage.status, "why": stage.why}
        most = {"most_tokens": stage.most_tokens, "most_cost": most_cost(planned, name)}
        emit({"event": "plan", **says, "rows": stage.rows, **most})


def execute(planned: Plan, *, as_json: bool) -> None:
    """Run a plan and show it."""
    if as_json:
        events = partial(emit, to=sys.stdout)
        with redirect_stdout(sys.stderr):  # what a library prints, as trackio does, is no event
            run_plan(planned, events)
        return
    from ssd_pipeline.display import Display

    display = Display(Screen(sys.stderr), planned)
    try:
        run_plan(planned, display.listen)
    finally:
        display.end()


def emit(event: dict[str, Any], to: TextIO | None = None) -> None:
    """One JSON object on a line of stdout; a reader that went away stops nothing."""
    out = to or sys.stdout
    try:
        out.write(json.dumps(event, ensure_ascii=False) + "\n")
        out.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # for the rest of the process


def quiet() -> None:
    """What libraries tell their developers is no affair of users; SIGTERM and SIGHUP (but for nohup) are interrupts."""
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    for sign in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(sign) != signal.SIG_IGN:
            signal.signal(sign, signal.default_int_handler)


def ending(work: Callable[[], None], *, as_json: bool) -> None:
    """Do the work; every way it can end has one message and one exit status."""
    quiet()
    try:
        work()
    except UserErrors as error:
        for mistake in error.mistakes:
            position = mistake.position
            text = f"{mistake.key}: {mistake.message}" if mistake.key else mistake.message
            complain(text, as_json=as_json, file=position.file, line=position.line, where=str(position))
        if not as_json:
            count = len(error.mistakes)
            mistakes = "" if isinstance(error, Unanswered) else f"{count} mistake{'s' if count > 1 else ''}. "
            complain(f"{mistakes}Nothing was run.", as_json=False)
        leave(2)
    except RunError as error:
        complain(f"failed: {error}", as_json=as_json)
        leave(1)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the reader has seen enough
    except OSError as error:
        complain(f"failed: cannot print: {error.strerror}", as_json=False)
        leave(1)
    except (Interrupted, KeyboardInterrupt) as error:
        text = str(error) or "stopped: what is finished is kept, the same command goes on"
        complain(text, as_json=as_json)
        leave(130)


def complain(text: str, *, as_json: bool, file: str | None = None, line: int | None = None, where: str = "") -> None:
    """One message for the user."""
    if as_json:
        emit({"event": "error", "message": text, "file": file, "line": line})
        return
    Screen(sys.stderr).line(f"{clean(where)}  {clean(text)}" if where else clean(text), "red")


def leave(status: int) -> NoReturn:
    """Exit; a second interrupt while leaving changes nothing."""
    raise typer.Exit(status)


def main() -> None:
    """The command `ssd`."""
    app()


def main_run() -> None:
    """The command `ssd-run`."""
    single = typer.Typer(help=ABOUT, no_args_is_help=True, pretty_exceptions_enable=False)
    single.command(no_args_is_help=True, help=ABOUT)(run_command)
    single()
