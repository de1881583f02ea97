"""Puts the requests of many callers into common batches: whoever asks while the model is busy shares the next batch.

One thread does the work, oldest request first. Requests share a batch only if they have the same key (which model,
which temperature). Nobody waits longer than its deadline, and what nobody waits for any more is not computed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from digiq_ray.core.errors import DeadlineExceededError, DigiQError

Key = TypeVar("Key", bound=Hashable)
Call = TypeVar("Call")
Request = TypeVar("Request")
Result = TypeVar("Result")


class BatcherClosedError(DigiQError):
    """A batcher was asked for something after it was closed."""


def take_batch(waiting: deque[tuple[Key, int, Call]], most: int) -> list[tuple[Key, int, Call]]:
    """Takes the oldest call and those after it that have its key and fit in; none if nothing waits.

    Args:
        waiting: Key, rows and call, oldest first; what is taken is removed.
        most: Rows of the largest batch; only a single call that is larger makes a larger one.
    """
    batch: list[tuple[Key, int, Call]] = []
    left: list[tuple[Key, int, Call]] = []
    rows = 0
    for entry in waiting:
        key, size, _ = entry
        if not batch or (key == batch[0][0] and rows + size <= most):
            batch.append(entry)
            rows += size
        else:
            left.append(entry)
    waiting.clear()
    waiting.extend(left)
    return batch


@dataclass(frozen=True, slots=True, eq=False)
class _Call(Generic[Request, Result]):
    """What one caller waits for."""

    requests: Sequence[Request]
    answer: Future[list[Result]] = field(default_factory=Future)


class MicroBatcher(Generic[Key, Request, Result]):
    """Runs ``handle`` on batches in one thread of its own.

    Args:
        handle: A key and the requests with that key in, as many results out, in the same order. What it raises reaches
            every caller of the batch.
        most: Largest batch; only a single call that is larger makes a larger one.
    """

    def __init__(self, handle: Callable[[Key, Sequence[Request]], Sequence[Result]], *, most: int) -> None:
        self._handle, self._most = handle, most
        self._waiting: deque[tuple[Key, int, _Call[Request, Result]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="micro-batcher", daemon=True)
        self._thread.start()

    def submit(self, key: Key, requests: Sequence[Request], *, deadline: float) -> list[Result]:
        """The results for ``requests``, at the latest after ``deadline`` seconds.

        Raises:
            DeadlineExceededError: there was no answer in time.
            BatcherClosedError: the batcher was closed before.
            Exception: whatever ``handle`` raised.
        """
        call: _Call[Request, Result] = _Call(requests)
        with self._changed:
            if self._closed:
                raise BatcherClosedError("the batcher was closed; make a new one")
            self._waiting.append((key, len(requests), call))
            self._changed.notify()
        if not wait([call.answer], timeout=deadline).done:
            call.answer.cancel()
            raise DeadlineExceededError(f"the model did not answer {len(requests)} requests in {deadline:g} s")
        return call.answer.result()

    @property
    def waiting(self) -> int:
        """How many calls are not in a batch yet."""
        with self._changed:
            return len(self._waiting)

    def close(self, *, deadline: float = 60.0) -> None:
        """Answers what is waiting and ends the thread; may be called again.

        Raises:
            DeadlineExceededError: that took longer than ``deadline`` seconds.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(deadline)
        if self._thread.is_alive():
            raise DeadlineExceededError(f"the batcher did not end in {deadline:g} s: a batch still runs")

    def _run(self) -> None:
        while batch := self._next_batch():
            self._answer(batch[0][0], [call for _, _, call in batch])

    def _next_batch(self) -> list[tuple[Key, int, _Call[Request, Result]]]:
        """Calls that begin now; empty when closed and done."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or self._closed)
            return take_batch(self._waiting, self._most)

    def _answer(self, key: Key, batch: Sequence[_Call[Request, Result]]) -> None:
        calls = [call for call in batch if call.answer.set_running_or_notify_cancel()]
        if not calls:
            return
        requests = [request for call in calls for request in call.requests]
        try:
            results = list(self._handle(key, requests))
            if len(results) != len(requests):
                raise DigiQError(f"there are {len(results)} results for {len(requests)} requests; each needs one")
        except BaseException as error:
            for call in calls:
                call.answer.set_exception(error)
            return
        start = 0
        for call in calls:
            call.answer.set_result(results[start : start + len(call.requests)])
            start += len(call.requests)
