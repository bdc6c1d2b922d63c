"""Cases of requests that are under way at once, through the model together: whatever waits when the model is free is its next batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from hepdist.inference.case import Case
from hepdist.inference.predictor import Answer

Predict = Callable[[Sequence[Case]], list[Answer]]


class Batches:
    """One thread runs the model; the event loop stays free.

    Not `ray.serve.batch`: that one closes a batch by the clock even while the model is busy, so that either batches stay small or an idle
    server makes its only client wait; and it works in a Serve replica alone, so that tests would have to start one.
    """

    def __init__(self, predict: Predict, most: int, seen: Callable[[int], None] = lambda size: None) -> None:
        """most: cases of one batch; seen: is told the size of each."""
        self._predict, self._most, self._seen = predict, most, seen
        self._waiting: deque[tuple[Case, asyncio.Future[Answer]]] = deque()
        self._thread = ThreadPoolExecutor(1, "model")
        self._running: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Cases that are not yet in a batch."""
        return len(self._waiting)

    async def __call__(self, cases: Sequence[Case]) -> list[Answer]:
        """One answer a case, in order."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Answer]] = [loop.create_future() for _ in cases]
        self._waiting.extend(zip(cases, futures, strict=True))
        if self._running is None or self._running.done():
            self._running = loop.create_task(self._run())
        return list(await asyncio.gather(*futures))

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            batch = [(case, future) for case, future in batch if not future.done()]  # whose client has gone
            if not batch:
                continue
            self._seen(len(batch))
            try:
                answers = await loop.run_in_executor(self._thread, self._predict, [case for case, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
