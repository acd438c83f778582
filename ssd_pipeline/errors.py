"""What can go wrong, named after where it broke.

    SsdError
    ├── UserErrors       the user's mistakes, all of them at once      exit status 2
    │   └── Unanswered       what must be known first cannot be asked now: nobody's mistake
    ├── RunError         it failed while running; what is done is kept  exit status 1
    │   ├── EndpointError    a teacher endpoint
    │   ├── ModelError       loading, scoring or training a local model
    │   ├── StoreError       the disk
    │   └── HubError         the Hub
    ├── RowError         one row cannot be done: data, not a crash
    └── Interrupted      the user stopped it                           exit status 130

Foreign code is wrapped in `boundary`, so that a message names the place and not a library's internals.
This file does not know who prints or exits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


class SsdError(Exception):
    """Anything that ends in one message for the user."""


@dataclass(frozen=True, order=True)
class Position:
    """A place in a file; line and column count from 1. `file` may also be `--set #2`, with line 0."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, order=True)
class Mistake:
    """One mistake of the user: where, in which key, what is wrong and what would be right."""

    position: Position
    key: str
    message: str

    def __str__(self) -> str:
        key = f"{self.key}: " if self.key else ""
        return f"{self.position}  {key}{self.message}"


class UserErrors(SsdError):
    """Every mistake found, sorted by position. Nothing was spent and nothing written."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = sorted(set(mistakes))
        super().__init__("\n".join(map(str, self.mistakes)))


class Unanswered(UserErrors):
    """Nothing can be planned, for what must be known first cannot be asked now. As with a mistake nothing was run."""


class RunError(SsdError):
    """Failed while running. The message says what failed and how to go on; finished work is kept."""


class EndpointError(RunError):
    """A teacher endpoint cannot be used: dead, refusing, or serving something else."""


class ModelError(RunError):
    """A local model cannot be loaded, run or trained."""


class StoreError(RunError):
    """The store on disk cannot be read or written."""


class HubError(RunError):
    """The Hub cannot be reached or refuses. `unreachable`: it could not be asked now, and may answer later."""

    def __init__(self, message: str, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.unreachable = unreachable


class RowError(SsdError):
    """This row cannot be done. `curable` (an endpoint, memory) is never stored and asked again at the next run."""

    def __init__(self, message: str, *, curable: bool = False) -> None:
        super().__init__(message)
        self.curable = curable


class Interrupted(SsdError):
    """Stopped by a signal; the same command goes on where it stopped."""


def user_error(message: str, *, key: str = "", position: Position | None = None) -> UserErrors:
    """One mistake as an exception."""
    return UserErrors([Mistake(position or Position("command line"), key, message)])


@contextmanager
def boundary(error: type[RunError], where: str) -> Iterator[None]:
    """Say where foreign code broke: any ordinary exception inside becomes `error`, with its cause kept.

    Our own errors pass unchanged, as do KeyboardInterrupt and the like.
    """
    try:
        yield
    except SsdError:
        raise
    except Exception as cause:
        text = " ".join(str(cause).split())[:500] or type(cause).__name__
        raise error(f"{where}: {type(cause).__name__}: {text}") from cause
