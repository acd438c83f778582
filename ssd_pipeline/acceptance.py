"""What ends a trajectory early: no branch is acceptable to the student.

Gen-SSD (arXiv 2604.02819) ends such a trajectory, but its rule could not be read, so three forms are offered. Each
is a limit on the student's perplexity of the CHOSEN branch, whatever criterion chose it. This file does not know how
branches are sampled or ordered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import Field

from ssd_pipeline.errors import RunError
from ssd_pipeline.records import Row
from ssd_pipeline.stage import Params, StageRef, column_of


class Accept(Params):
    """The acceptance rule: exactly one of `absolute`, `relative` and `quantile`."""

    absolute: float | None = Field(None, ge=1, description="the highest acceptable perplexity of a chunk")
    relative: float | None = Field(
        None, gt=0, description="times the mean perplexity of this trajectory's chunks accepted so far"
    )
    quantile: float | None = Field(None, ge=0, le=1, description="this quantile of the chunk perplexities of `of`")
    of: StageRef | None = column_of("chunk_perplexities")
    min_chunks: int = Field(0, ge=0, description="the rule is silent before so many accepted chunks")
    patience: int = Field(
        1, ge=1, description="so many unacceptable decisions in a row end it; those before are appended"
    )

    def mistakes(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        given = [key for key in ("absolute", "relative", "quantile") if getattr(self, key) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            yield (), f"exactly one of absolute, relative and quantile is needed, there is {found}"
        if self.quantile is not None and self.of is None:
            yield ("quantile",), "the quantile of which stage? Add `of: {stage: ...}`"
        if self.of is not None and self.quantile is None:
            yield ("of",), "only a quantile is taken `of` a stage"
        if self.relative is not None and self.min_chunks < 1:
            yield ("relative",), "the first chunk has no mean to be compared with: set min_chunks to 1 or more"


@dataclass(frozen=True)
class Rule:
    """An `Accept` made ready. `limit`: a perplexity, fixed before sampling; None when it is relative."""

    accept: Accept
    limit: float | None

    def acceptable(self, perplexity: float | None, accepted: Sequence[float | None]) -> bool:
        """May a chunk of this perplexity follow chunks of those? An undefined perplexity is no objection."""
        if perplexity is None or len(accepted) < self.accept.min_chunks:
            return True
        limit = self.limit
        if limit is None:
            known = [p for p in accepted if p is not None and math.isfinite(p)]
            if not known or self.accept.relative is None:
                return True
            limit = self.accept.relative * math.fsum(known) / len(known)
        return perplexity <= limit


def rule(accept: Accept, measured: Iterable[Row]) -> Rule:
    """Fix the limit. `measured`: the rows of the stage that a quantile is taken of, with `chunk_perplexities`.

    Raises RunError when they hold no perplexity.
    """
    if accept.quantile is None:
        return Rule(accept, accept.absolute)
    values = [p for row in measured for p in row["chunk_perplexities"] or () if p is not None and math.isfinite(p)]
    if not values:
        where = accept.of.stage if accept.of else "?"
        raise RunError(
            f"accept.quantile: the stage {where} holds no chunk perplexities; did it score with a student and `chunk`?"
        )
    return Rule(accept, quantile(values, accept.quantile))


def quantile(values: Sequence[float], q: float) -> float:
    """The q-quantile with linear interpolation between order statistics (Hyndman and Fan's type 7)."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
