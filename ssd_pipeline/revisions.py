"""Which commit each Hub revision of a recipe is: looked up once, remembered, and known off-line from then on.

A name (a branch, a tag) becomes a commit at the first plan of a recipe and stays that commit until `--refresh`, so that
the same recipe means the same rows tomorrow. A commit can be lost all the same, when somebody rewrites the history of
a repo: of a data set that is still to be read, a plan finds that out before anything is spent. A Hub that cannot be
asked is nobody's mistake; nothing can be planned then on a revision that nobody here has looked up. This file does not
know which stages are to be made.
"""

from __future__ import annotations

import os
from typing import Literal, NoReturn

from ssd_pipeline.document import Document, StageDef
from ssd_pipeline.errors import HubError, Unanswered, UserErrors
from ssd_pipeline.identities import sibling
from ssd_pipeline.names import stage_of
from ssd_pipeline.stage import HubMark, marked
from ssd_pipeline.store.local import Store

RepoType = Literal["dataset", "model"]
Key = tuple[str | int, ...]
FILE = "revisions"  # runs/<recipe>/revisions.json: <type>:<repo>@<revision> -> commit


class Revisions:
    """The commits of one recipe. `notes`: what a plan should say of them."""

    def __init__(self, document: Document, store: Store, recipe: str, *, refresh: bool) -> None:
        self.notes: list[str] = []
        self._document, self._store, self._recipe = document, store, recipe
        self._known = store.remembered(recipe, FILE)
        self._commits = {} if refresh else dict(self._known)
        self._there: set[tuple[str, str]] = set()  # repo and commit, as far as the Hub was asked now
        self._answers = True

    def commit(self, repo_type: RepoType, repo: str, revision: str) -> str:
        """The commit of a revision. Raises UserErrors: there is none, or (Unanswered) nobody can be asked."""
        from ssd_pipeline.store import hub

        name = f"{repo_type}:{repo}@{revision}"
        if hub.COMMIT.fullmatch(revision):
            return revision
        if name not in self._commits:
            try:
                self._commits[name] = hub.resolve_revision(repo, repo_type, revision)
                self._there.add((repo, self._commits[name]))
            except HubError as cause:
                if not (cause.unreachable and name in self._known):
                    way_on = f"; {self._elsewhere(name)}" if cause.unreachable else ""
                    self._refuse(repo_type, repo, f"{cause}{way_on}", cause)
                self._commits[name] = self._known[name]
                self.notes.append(f"the newest known commit of {repo}@{revision} is taken, {self._known[name][:8]}")
            self._store.remember(self._recipe, FILE, self._commits)
        return str(self._commits[name])

    def check(self, definition: StageDef) -> None:
        """Are the data sets there that a stage will read? Nothing is said when the Hub cannot be asked. Raises
        UserErrors when one, or its commit, is gone or may not be read."""
        for path, mark, repo in marked(definition.params):
            if isinstance(mark, HubMark) and mark.repo_type == "dataset":
                said = sibling(definition.params, path, mark) or "main"
                commit = self.commit("dataset", repo, said)
                if self._answers and (repo, commit) not in self._there:
                    self._there.add((repo, commit))
                    self._ask(repo, said, commit)

    def _ask(self, repo: str, said: str, commit: str) -> None:
        from ssd_pipeline.store import hub

        try:
            there = hub.holds(repo, "dataset", commit)
        except HubError as cause:
            if not cause.unreachable:
                self._refuse("dataset", repo, str(cause), cause)
            self._answers = False
            return
        if not there:
            was = "" if said == commit else f", which {said} was when this recipe was first planned"
            way_on = "name another `revision`" if said == commit else "--refresh takes what it is now, as other data"
            self._refuse(
                "dataset", repo, f"{repo} has no commit {commit} any more{was}: its history was rewritten; {way_on}"
            )

    def _elsewhere(self, name: str) -> str:
        """How to go on without an answer: what other recipes of this store know of a revision, and what needs none."""
        runs = self._store.root / "runs"
        recipes = sorted(os.listdir(runs)) if runs.is_dir() else []
        known = {str(found) for recipe in recipes if (found := self._store.remembered(recipe, FILE).get(name))}
        told = f" (another recipe here took {' or '.join(sorted(known))})" if known else ""
        return f"a full commit as `revision`{told}, or a local file or path, needs no Hub"

    def _refuse(self, repo_type: RepoType, repo: str, message: str, cause: HubError | None = None) -> NoReturn:
        kind = Unanswered if cause and cause.unreachable else UserErrors
        raise kind([self._document.mistake(self._place(repo_type, repo), message)]) from cause

    def _place(self, repo_type: RepoType, repo: str) -> Key:
        """Where the recipe first names a repo."""
        if repo_type == "model":
            for name, model in self._document.models.items():
                if model.repo == repo:
                    return "models", name, "repo"
                if model.adapter and model.adapter.repo == repo:
                    return "models", name, "adapter", "repo"
        for name, stage in self._document.stages.items():
            for path, mark, value in marked(stage.params):
                if isinstance(mark, HubMark) and value == repo:
                    return "stages", stage_of(name), *path
        return ()
