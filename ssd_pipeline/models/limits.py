"""At most so much in any minute: what paid services allow an account.

A sliding window, not a bucket: after a pause a bucket lets through twice its rate within one minute, and the service
refuses. What a request will cost is taken before it is sent, at its most, and set right when the answer is there.
Those who wait are served in order. This file does not know what is counted.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass


@dataclass
class Taken:
    """What one request took; `amount` may be lowered until it leaves the window."""

    when: float
    amount: int


class Quota:
    """At most `most` within `window_s` seconds; no limit where `most` is None."""

    def __init__(self, most: int | None, window_s: float) -> None:
        self._most, self._window_s = most, window_s
        self._taken: deque[Taken] = deque()
        self._turn = asyncio.Lock()

    async def take(self, amount: int) -> Taken:
        """Wait until there is room. What is more than the whole limit goes through alone, since it never would."""
        if self._most is None:
            return Taken(0, amount)
        async with self._turn:
            while self._used() and self._used() + amount > self._most:
                await asyncio.sleep(max(0, self._taken[0].when + self._window_s - time.monotonic()))
            taken = Taken(time.monotonic(), amount)
            self._taken.append(taken)
            return taken

    def _used(self) -> int:
        while self._taken and self._taken[0].when + self._window_s <= time.monotonic():
            self._taken.popleft()
        return sum(taken.amount for taken in self._taken)
