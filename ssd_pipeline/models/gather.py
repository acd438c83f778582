"""Many coroutines ask, one thread answers: whatever is asked while the thread is busy is answered together.

A local model is fastest when it gets many rows at once, and rows know nothing of each other. Each request waits in a
queue; the thread takes all that wait, plus what arrives within a moment of it, so that the rows of one wave come
together. An answer is handed out as soon as it is there, not when its batch ends. When memory runs out, the requests
without an answer are done again in two halves. This file does not know what is asked, or of which model.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

import torch

from ssd_pipeline.errors import ModelError, RowError, SsdError, boundary

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

MOMENT_S = 0.002  # rows that got their answers together ask again within it


class Gather(Generic[Asked, Answer]):
    """`run(asked, give)` answers every request by `give(index, answer or RowError)`, in any order.

    `name` says in an error which model broke; what `run` raises is raised to all that are still without an answer.
    """

    def __init__(
        self, name: str, run: Callable[[Sequence[Asked], Callable[[int, Answer | RowError], None]], None]
    ) -> None:
        self._name = name
        self._run = run
        self._waiting: SimpleQueue[tuple[Asked, Future[Answer]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"model {name}", daemon=True)
        self._thread.start()

    async def ask(self, asked: Asked) -> Answer:
        """The answer to one request. Raises ModelError after `close`."""
        if not self._thread.is_alive():
            raise ModelError(f"model {self._name} was closed")
        future: Future[Answer] = Future()
        self._waiting.put((asked, future))
        return await asyncio.wrap_future(future)

    async def close(self) -> None:
        """Let the thread finish what it has and end it. May be called twice."""
        self._waiting.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        open_ = True
        while open_:
            batch: list[tuple[Asked, Future[Answer]]] = []
            try:
                entry = self._waiting.get()
                while entry is not None:
                    batch.append(entry)
                    entry = self._waiting.get(timeout=MOMENT_S)
                open_ = False
            except Empty:
                pass
            self._answer([(asked, future) for asked, future in batch if future.set_running_or_notify_cancel()])

    def _answer(self, batch: list[tuple[Asked, Future[Answer]]]) -> None:
        def give(index: int, answer: Answer | RowError) -> None:
            future = batch[index][1]
            if isinstance(answer, RowError):
                future.set_exception(answer)
            else:
                future.set_result(answer)

        if not batch:
            return
        try:
            with boundary(ModelError, f"running model {self._name}"), torch.inference_mode():
                self._run([asked for asked, _ in batch], give)
        except SsdError as broken:
            left = [entry for entry in batch if not entry[1].done()]
            if not isinstance(broken.__cause__, torch.OutOfMemoryError):
                for _, future in left:
                    future.set_exception(broken)
            elif len(left) > 1:
                self._answer(left[: len(left) // 2])
                self._answer(left[len(left) // 2 :])
            else:
                left[0][1].set_exception(RowError(f"model {self._name}: out of memory for one row", curable=True))
