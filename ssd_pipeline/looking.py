"""What `ssd ls`, `show`, `why`, `verify`, `gc`, `rm`, `pull`, `push` and `doctor` print: a store and a recipe, seen
from outside a run.

These are the bodies of commands that cli.py declares; like it, they print data to stdout and raise for everything that
should end in a message. This file does not know argv or exit statuses.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from ssd_pipeline.errors import RunError, user_error
from ssd_pipeline.identities import left_at_default
from ssd_pipeline.planner import Plan, named
from ssd_pipeline.published import keep, listing, pull
from ssd_pipeline.screen import Screen, clean
from ssd_pipeline.sharing import Sharing
from ssd_pipeline.stage import Stage
from ssd_pipeline.store.artifact import read_rows
from ssd_pipeline.store.local import Artifact, Store
from ssd_pipeline.tables import amount
from ssd_pipeline.upkeep import collectable, survey, tree_size, verify_all, why


def list_artifacts() -> None:
    """Every artifact of the store with rows, tokens, size and age; then what else takes room."""
    store, rows, screen = Store.default(), [], Screen(sys.stdout)
    for held in survey(store):
        size = f"{held.size / 1e6:.2f}"
        if held.problem:
            rows.append((clean(held.address), "", "", "", "", size, clean(f"not usable: {held.problem}")))
            continue
        record = held.record
        bought = amount(record.get("spend", {}).get("bought") or None)
        origin = record["recipe"]
        names = clean(origin["name"]), clean(origin["stage"])
        rows.append((held.address, *names, amount(record["rows"]), bought, size, record["ended"]))
    heads = ("address", "recipe", "stage", "rows", "bought", "MB", "made")
    screen.table(heads, rows, right=("rows", "bought", "MB"))
    for folder, what in (("replies", "recorded replies"), ("journals", "rows of unfinished stages")):
        screen.line(f"{tree_size(store.root / folder) / 1e6:.2f} MB of {what}")


def tell_why(planned: Plan, stage: str) -> None:
    """The status of a stage, or of its instances, and the differences from the nearest artifact.

    Raises UserErrors for a stage that the recipe does not have.
    """
    for name in named(planned.document, "STAGE", [stage]):
        _tell_why(planned, name)


def _tell_why(planned: Plan, name: str) -> None:
    nearest, lines = why(planned, name)
    stage = planned.stages[name]
    told = stage.why if stage.status in ("hit", "waits") else f"{stage.status}, {stage.why}"  # these say it themselves
    print(f"{name}: {clean(told)}")
    if stage.address:
        print(f"address: {stage.address}")
    if nearest:
        print(f"nearest other artifact: {nearest}")
        for line in lines:
            print(f"  {clean(line)}")
    elif stage.status == "waits":
        print("what it will be is known when these are made")
    else:
        print("no other artifact of this kind is in the store")


def tell_prompts(planned: Plan, emit: Callable[[dict[str, Any]], None] | None) -> None:
    """The first prompt of each model that is sampled, a mark before each line and everything invisible escaped.

    With `emit` as events `prompt`, exact.
    """
    from ssd_pipeline.preview import first_prompts  # brings the engine, which looking at a store does without

    for first in first_prompts(planned):
        if emit:
            emit({"event": "prompt", **asdict(first)})
        elif first.prompt is None:
            print(f"\n{first.model} in {first.stage}: no prompt yet: {clean(first.missing)}")
        else:
            lines = "\n| ".join(clean(first.prompt).split("\n"))
            print(f"\n{first.model} in {first.stage}, {len(first.prompt)} characters:\n| {lines}")


def tell_health(path: str, kinds: Mapping[str, Stage], sets: Sequence[str]) -> None:
    """A line for each check, as soon as it is made. Raises RunError when one fails."""
    from ssd_pipeline.doctor import examine  # as above

    screen, failed, count = Screen(sys.stdout), 0, 0
    for check in examine(path, kinds, sets):
        count += 1
        failed += not check.works
        mark = screen.styled("ok   ", "green") if check.works else screen.styled("FAILS", "red")
        screen.line(f"{mark}  {clean(' '.join(f'{check.about}: {check.says}'.split()))}")
    if failed:
        raise RunError(f"{failed} of {count} checks; nothing was spent but a few tokens")


def verify_artifacts(addresses: list[str]) -> None:
    """Compare every byte; one line an artifact. Raises RunError when one is not as it was made."""
    store = Store.default()
    wrong = count = 0
    for address, problem in verify_all(store, [whole_address(store, a) for a in addresses]):
        count += 1
        wrong += problem is not None
        print(f"{address}  {'whole' if problem is None else clean(problem)}")
    if wrong:
        raise RunError(f"{wrong} of {count} artifacts cannot be used; `ssd rm` removes one, the next run makes it anew")


def collect(*, dry_run: bool, replies: bool) -> None:
    """Remove what nothing needs, and say what it was."""
    store = Store.default()
    gone = collectable(store)
    kept = [h for h in survey(store) if h.needed_by] if dry_run else []
    freed = sum(h.size for h in gone)
    for held in gone:
        print(f"{'would remove' if dry_run else 'removed'} {held.address}  {held.size / 1e6:.2f} MB")
        if not dry_run:
            store.remove(held.address)
    for held in kept:
        print(f"keeps {held.address}  needed by {clean(held.needed_by[0])}")
    if replies:
        size = tree_size(store.root / "replies")
        freed += size
        print(f"{'would remove' if dry_run else 'removed'} replies  {size / 1e6:.2f} MB")
        if not dry_run:
            store.drop_replies()
    print(f"{freed / 1e6:.2f} MB {'can go' if dry_run else 'freed'}")


def remove_artifact(address: str, *, force: bool) -> None:
    """Remove one artifact. Raises RunError when others need it, without `force`."""
    store = Store.default()
    whole = whole_address(store, address)
    (held,) = [h for h in survey(store) if h.address == whole]
    if held.needed_by and not force:
        users = ", ".join(held.needed_by[:3])
        raise RunError(f"{whole} is needed by {users}; with --force it goes and would have to be made again")
    store.remove(whole)
    print(f"removed {whole}  {held.size / 1e6:.2f} MB")


def show_artifact(address: str, rows: int, kinds: Mapping[str, Stage]) -> None:
    """The record, the parameters that it leaves out, and the first rows of one artifact, as one JSON object.

    `defaults` is null where the artifact is of another version of its kind, whose defaults are not known any more.
    """
    store = Store.default()
    found = store.find(whole_address(store, address))
    if not isinstance(found, Artifact):
        raise RunError(f"{address} cannot be used: {found}")
    identity = found.record["identity"]
    kind = kinds.get(identity["kind"])
    same = kind if kind and kind.version == identity["version"] else None
    shown: dict[str, Any] = {}
    for key, value in found.record.items():
        shown[key] = value
        if key == "identity":
            shown["defaults"] = left_at_default(same.params, identity["params"]) if same else None
    shown["first_rows"] = list(islice(read_rows(found.directory), rows))
    print(json.dumps(shown, indent=1, ensure_ascii=False))


def whole_address(store: Store, part: str) -> str:
    """The one address that begins with `part`, or whose digits do. Raises UserErrors when it is none or several."""
    found = [a for a in store.addresses() if a == part or a.startswith(part) or a.rpartition("-")[2].startswith(part)]
    if part in found:
        return part
    if len(found) != 1:
        several = f"{len(found)} artifacts begin so" if found and part else f"there is no artifact {part}"
        raise user_error(f"{several}; `ssd ls` lists them", key="ADDRESS")
    return found[0]


def pull_output(repo: str, output: str | None) -> None:
    """One output of a published version: what it is, whether a run finds it now, and the paths of its files."""
    name, _, version = repo.partition("@")
    pulled, store = pull(name, output, version or None), Store.default()
    where = f"{pulled.repo}@{pulled.version} ({pulled.commit[:8]})"
    what = f"{pulled.rows} rows" if pulled.rows is not None else "an adapter"
    print(f"{clean(pulled.output)} of {clean(where)}: {what}, every byte verified")
    for kept in keep(pulled, store):
        print(f"in the store as {kept.address}: a hit for a recipe that would make it")
    for path in pulled.files:
        print(path)


def list_repo(repo: str) -> None:
    """The versions of a repo, newest first, and the outputs of each."""
    screen = Screen(sys.stdout)
    lines = [tuple(clean(str(cell)) for cell in line) for line in listing(repo)]
    screen.table(("version", "output", "rows", "student", "teacher", "made"), lines, right=("rows",))


def push_artifacts(planned: Plan) -> None:
    """Publish everything of a recipe that is here. Raises UserErrors without a runtime.hub, RunError when it fails."""
    shared = planned.resolver.shared
    if shared is None:
        raise user_error("the recipe has no runtime.hub: where should it be published?", key="RECIPE")
    count = Sharing(planned, lambda event: print(f"{event['stage']}: {clean(event['note'])}")).push_all()
    print(f"{planned.document.name}: {count} artifact{'' if count == 1 else 's'} in {shared.repo}")
