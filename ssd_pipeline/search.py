"""The heart: a teacher writes in chunks, a student judges the candidates of each, the best one joins the text.

`search` is a generator that asks and is answered: it yields `Sample`, `Score` and `Count` (see options.py, which says
how they are answered), and last `Done`. It takes every decision and does nothing else, so that it can be tested with
plain lists. Two texts grow side by side: what the teacher wrote (it is asked to continue exactly that) and the response
(think tags put back or removed), which is scored, published and trained on. A beam of B such texts is a list of paths;
Gen-SSD has B = 1. This file does not know models, endpoints, asyncio, files or rows.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

from ssd_pipeline.criteria import perplexity_of
from ssd_pipeline.errors import RowError
from ssd_pipeline.options import Accepted, Account, Ask, Option, Path, Setup, answers_after, options_after, within
from ssd_pipeline.records import Fate, Spend


@dataclass(frozen=True)
class Candidacy:
    """One branch of one decision, accepted (`chosen`) or pruned. `text`: as the teacher wrote it.

    `after`: the branch of the decision before that it continues (another than the chosen one only in a beam).
    `same_as`: the first branch of the decision that makes the same text with the same finish, if an earlier one.
    `looping`: it says again what was written. `perplexity`: the student's, of this chunk. `value`: the criterion's;
    None when it was no candidate.
    """

    chunk: int
    branch: int
    after: int | None
    seed: int
    text: str
    tokens: int
    finish: str
    chosen: bool
    same_as: int | None
    looping: bool
    perplexity: float | None
    value: float | None


@dataclass(frozen=True)
class Done:
    """A finished trajectory. `perplexity`: of the whole response text, by the student's full encoding of it.

    The three lists have one entry per accepted chunk: `chunks`, `chunk_perplexities` (what was judged; None without a
    student or a token) and `margins` (how much worse the criterion's value of the best different branch that was
    pruned; None when there was none).
    """

    text: str
    fate: Fate
    perplexity: float | None
    chunks: list[Accepted]
    chunk_perplexities: list[float | None]
    margins: list[float | None]
    branches: list[Candidacy]
    spend: Spend


def search(setup: Setup) -> Generator[Ask | Done, Any, None]:
    """Write one trajectory.

    At each decision every unfinished path of the beam is continued, and the best of these branches and of the paths
    that have ended are the next beam, `beam_width` at most. The trajectory is the best path once that has ended:
    accepted when its last branch is the text's end, too_long at `max_tokens`. It is given_up when no path is left,
    since all branches loop or the rule's patience is at its end; then the best branch of that decision is not appended,
    and all of them are pruned. A finished branch without text (or any branch that adds none to the response) is judged
    by the response before it; one that finishes an empty response cannot be chosen.

    Raises RowError when no branch can be chosen, ValueError for a setup that needs a student and has none.
    """
    if setup.judge is None and (setup.rule or (setup.branches > 1 and setup.criterion.needs)):
        raise ValueError("this criterion or acceptance rule needs a student")
    account = Account()
    account.question = (yield from answers_after(setup, account, "", ("",))).get("", ())
    beam, branches = [Path()], list[Candidacy]()
    while beam[0].fate is None:
        options: list[Option] = []
        for path in beam:
            if path.fate is None:
                options += yield from options_after(setup, account, path, len(options))
        branches += _candidacies(options)
        beam = _grown(setup, beam, options)
    yield _done(beam[0], beam[0].fate, branches, account)


def _grown(setup: Setup, beam: list[Path], options: list[Option]) -> list[Path]:
    """The next beam, the best first: options that the rule lets pass, and paths that ended before. Of equal options
    only the best counts; ties go to the first."""
    ranked: dict[tuple[str, str], Option] = {}
    for option in sorted(options, key=lambda o: (o.order, o.index)):
        if option.eligible:
            ranked.setdefault(option.makes, option)
    ended = [path for path in beam if path.fate is not None]
    entries: list[Path | Option] = sorted([*ended, *ranked.values()], key=lambda entry: entry.order)
    if not entries:
        return [replace(beam[0], fate=_unwritten(setup, beam[0], options))]
    pruned = entries[setup.beam_width].order if len(entries) > setup.beam_width else math.inf
    chosen = entries[: setup.beam_width]
    paths = [entry if isinstance(entry, Path) else _accepted(setup, entry, pruned, options) for entry in chosen]
    return [path for path in paths if path is not None] or [replace(beam[0], fate=Fate.given_up)]


def _unwritten(setup: Setup, path: Path, options: list[Option]) -> Fate:
    """No branch can be chosen: fair only when all that wrote something loop, or when what max_tokens leaves is less
    than a character."""
    if any(option.looping for option in options):
        return Fate.given_up
    if path.raw and within(setup, path) != setup.chunk:
        return Fate.too_long
    raise RowError("no branch of the teacher wrote anything")


def _accepted(setup: Setup, option: Option, pruned: float, options: list[Option]) -> Path | None:
    """The path with an option appended; None if the rule ends it: it tolerates fewer unacceptable decisions in a row
    than its patience."""
    path, branch = option.path, option.branch
    refused = 0
    if setup.rule is not None and not setup.rule.acceptable(option.perplexity, path.perplexities):
        refused = path.refused + 1
        if refused >= setup.rule.accept.patience:
            return None
    kept = path.kept + branch.tokens
    different = len({other.makes for other in options if other.path is path})
    margin = None if math.isinf(pruned) else pruned - option.order
    too_long = Fate.too_long if kept >= setup.max_tokens else None
    return Path(
        raw=path.raw + branch.text,
        response=option.response,
        ends=[*(min(end, option.shared) for end in path.ends), len(option.response)],
        told=option.told,
        local=option.local,
        chunks=[*path.chunks, Accepted("", branch.tokens, branch.finish, option.index, different)],
        perplexities=[*path.perplexities, option.perplexity],
        margins=[*path.margins, margin],
        refused=refused,
        kept=kept,
        fate=Fate.accepted if branch.finish == "eos" else too_long,
        order=option.order,
    )


def _candidacies(options: list[Option]) -> list[Candidacy]:
    """The options of one decision as they are kept; which are chosen is known at the end."""
    origins: dict[tuple[str, str], int] = {}
    return [
        Candidacy(
            chunk=len(option.path.chunks),
            branch=option.index,
            after=option.path.chunks[-1].branch if option.path.chunks else None,
            seed=option.seed,
            text=option.branch.text,
            tokens=option.branch.tokens,
            finish=option.branch.finish,
            chosen=False,
            same_as=None if origins.setdefault(option.makes, option.index) == option.index else origins[option.makes],
            looping=option.looping,
            perplexity=option.perplexity,
            value=option.value if option.eligible else None,
        )
        for option in options
    ]


def _done(path: Path, fate: Fate, branches: list[Candidacy], account: Account) -> Done:
    spans = zip([0, *path.ends], path.ends, path.chunks, strict=False)
    chosen = {(place, chunk.branch) for place, chunk in enumerate(path.chunks)}
    return Done(
        text=path.response,
        fate=fate,
        perplexity=perplexity_of([one.logprob for one in path.told]),
        chunks=[replace(chunk, text=path.response[start:end]) for start, end, chunk in spans],
        chunk_perplexities=path.perplexities,
        margins=path.margins,
        branches=[replace(one, chosen=(one.chunk, one.branch) in chosen) for one in branches],
        spend=Spend(account.bought, path.kept, account.bought - path.kept, account.scored),
    )
