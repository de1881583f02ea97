"""Batches for the learner: shuffled by a seed, read ahead by a thread, and resumable in the middle of an epoch.

A sample is a row of named columns; a column is an array in memory, or features or texts (``sampler_columns.py``), of
which only the rows of a batch are read. What a sampler holds is one permutation of the samples and ``prefetch``
batches: the thread is asked for that many and for no more, so it never waits for room, and the one wait there is, of
the consumer for its batch, has a deadline. A batch is a pure function of its epoch and number, so a position is two
integers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from digiq_ray.core.errors import DeadlineExceededError, InputError
from digiq_ray.store.batch_order import BatchOrder
from digiq_ray.store.sampler_columns import FeatureRows, KeyedRows, Texts

Column = NDArray[Any] | FeatureRows | KeyedRows | Texts


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch.

    Attributes:
        epoch, number: Which one it is.
        samples: The numbers of its ``b`` samples.
        columns: ``[b, ...]`` for each column, owned by the receiver.
    """

    epoch: int
    number: int
    samples: NDArray[np.int64]
    columns: dict[str, NDArray[Any]]


class BatchSampler:
    """An iterator over the batches of ``order``, epoch after epoch. For one consumer; close it, or use ``with``.

    Args:
        columns: What a sample is made of; each with ``order.samples`` rows.
        order: Which samples make up which batch.
        epochs: After how many epochs iteration ends; ``None`` is never.
        prefetch: How many batches the thread reads ahead; 0 reads in the consumer's thread.
        deadline_s: How long to wait for a batch, in seconds.

    Raises:
        InputError: a column has another number of rows.
        DeadlineExceededError: a batch was not read in time (from ``next`` and ``close``).
    """

    def __init__(
        self,
        *,
        columns: Mapping[str, Column],
        order: BatchOrder,
        epochs: int | None = None,
        prefetch: int = 2,
        deadline_s: float = 300.0,
    ) -> None:
        for name, column in columns.items():
            if len(column) != order.samples:
                raise InputError(f"column {name!r} has {len(column)} rows, there are {order.samples} samples")
        self._columns = dict(columns)
        self._order = order
        self._epochs = epochs
        self._prefetch = prefetch
        self._deadline_s = deadline_s
        self._next = 0  # counts batches from the beginning of epoch 0
        self._pending: deque[Future[Batch]] = deque()
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next batch. After an error of reading it, the same batch is tried again."""
        if self._closed or self._next >= self._end:
            raise StopIteration
        if self._prefetch > 0:
            return self._await()
        batch = self._read(self._next)
        self._next += 1
        return batch

    def state(self) -> dict[str, Any]:
        """Where iteration is, as JSON: ``resume`` goes on with the batch after the last one that ``next`` gave."""
        epoch, number = divmod(self._next, self._order.batches)
        return {"epoch": epoch, "number": number, "order": self._order.settings()}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Goes on where ``state`` was taken, also in another process.

        Raises:
            InputError: it was taken of other samples or another order.
        """
        order = self._order.settings()
        found, position = state.get("order"), (state.get("epoch"), state.get("number"))
        if (
            not isinstance(found, Mapping)
            or found.keys() != order.keys()
            or not all(isinstance(part, int) and part >= 0 for part in position)
        ):
            raise InputError("the state to resume from is not one of a batch sampler; start the training anew")
        for name, wanted in order.items():
            if found[name] != wanted:
                raise InputError(
                    f"the state to resume from was taken with {name} {found[name]}, not {wanted}: "
                    "its position means nothing here; use the same data and settings, or start the training anew"
                )
        self._drop_pending()
        self._next = int(state["epoch"]) * self._order.batches + int(state["number"])

    def close(self) -> None:
        """Ends the thread; iteration is over. May be called again."""
        self._closed = True
        self._drop_pending()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    @property
    def _end(self) -> float:
        return float("inf") if self._epochs is None else self._epochs * self._order.batches

    def _await(self) -> Batch:
        self._submit(1)
        first = self._pending[0]
        if not wait([first], timeout=self._deadline_s).done:
            raise DeadlineExceededError(self._late("was not read"))
        self._pending.popleft()
        if first.exception() is not None:
            self._drop_pending()
            return first.result()
        self._next += 1
        self._submit(self._prefetch)  # after the wait: what is read ahead must not delay what is needed now
        return first.result()

    def _submit(self, count: int) -> None:
        """Asks for batches until ``count`` are pending, or all that there are."""
        while len(self._pending) < count and self._next + len(self._pending) < self._end:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batch-sampler")
            self._pending.append(self._pool.submit(self._read, self._next + len(self._pending)))

    def _drop_pending(self) -> None:
        """Forgets what was asked for; waits for what is being read."""
        running = [future for future in self._pending if not future.cancel()]
        if wait(running, timeout=self._deadline_s).not_done:
            raise DeadlineExceededError(self._late("was still being read"))
        self._pending.clear()

    def _late(self, what: str) -> str:
        epoch, number = divmod(self._next, self._order.batches)
        return (
            f"batch {number} of epoch {epoch} {what} after {self._deadline_s:.0f} s: "
            "look at the disk or the network that the features lie on"
        )

    def _read(self, position: int) -> Batch:
        epoch, number = divmod(position, self._order.batches)
        samples = self._order.indices(epoch, number)
        columns = {name: column[samples] for name, column in self._columns.items()}
        return Batch(epoch, number, samples.copy(), columns)
