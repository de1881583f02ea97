"""Puts the requests of many callers into common batches: whoever asks while the model is busy shares the next batch."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from digiq_ray.core.errors import DeadlineExceededError

Request = TypeVar("Request")
Result = TypeVar("Result")


class MicroBatcher(Generic[Request, Result]):
    """Runs ``handle`` on batches in one thread of its own.

    Args:
        handle: Requests in, as many results out, in the same order. What it raises reaches every caller of the batch.
        most: Largest batch.
    """

    def __init__(self, handle: Callable[[Sequence[Request]], Sequence[Result]], *, most: int) -> None:
        self._handle, self._most = handle, most
        self._queue: queue.SimpleQueue[tuple[Sequence[Request], Future[list[Result]]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="micro-batcher", daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[Request], *, deadline: float) -> list[Result]:
        """The results for ``requests``, at the latest after ``deadline`` seconds.

        Raises:
            DeadlineExceededError: the model did not answer in time.
        """
        future: Future[list[Result]] = Future()
        self._queue.put((requests, future))
        try:
            return future.result(timeout=deadline)
        except TimeoutError as error:
            if future.done():
                raise
            raise DeadlineExceededError(f"the model did not answer {len(requests)} requests in {deadline:g} s") from error

    def close(self) -> None:
        """Ends the thread after what is queued."""
        self._queue.put(None)

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            waiting = [first]
            count, ended = len(first[0]), False
            while count < self._most and not self._queue.empty():
                item = self._queue.get()
                if item is None:
                    ended = True
                    break
                waiting.append(item)
                count += len(item[0])
            self._answer(waiting)
            if ended:
                return

    def _answer(self, waiting: Sequence[tuple[Sequence[Request], Future[list[Result]]]]) -> None:
        try:
            results = list(self._handle([request for requests, _ in waiting for request in requests]))
        except BaseException as error:
            for _, future in waiting:
                future.set_exception(error)
            return
        start = 0
        for requests, future in waiting:
            future.set_result(results[start : start + len(requests)])
            start += len(requests)
