"""One thread that owns a model, asked by any number of coroutines: batches start together and advance in turns.

What waits while the model is busy begins as the next batch. A batch is an iterator whose steps (one token, say) take
turns with those of the other batches, so that a long answer does not hold up a short one. ``batches`` bounds how many
are under way, ``most`` how large each is, ``waiting`` how many calls may wait: one more is refused at once. A call
whose caller has gone is marked, and a batch may leave it out from then on.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Hashable, Iterator, Sequence
from typing import Generic, TypeVar

from digiq_ray.core.errors import DeadlineExceededError, DigiQError
from serve.batcher import take_batch

Key = TypeVar("Key", bound=Hashable)
Request = TypeVar("Request")
Item = TypeVar("Item")


class OverloadedError(DigiQError):
    """More is waiting than may wait; asking again later may work."""


class ModelClosedError(DigiQError):
    """A model was asked for something after it was closed."""


class _End:
    """Ends a call: as asked, or with what went wrong."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Call(Generic[Request, Item]):
    """What one coroutine asked for; the model's thread gives it items and ends it.

    Attributes:
        request: What was asked.
        size: How many rows of a batch it takes.
        gone: Whether nobody waits for it any more.
    """

    def __init__(self, request: Request, size: int) -> None:
        self.request, self.size, self.gone = request, size, False
        self._ended = False
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Item | _End] = asyncio.Queue()

    def give(self, item: Item) -> None:
        """Hands one item to the caller."""
        self._put(item)

    def end(self, error: BaseException | None = None) -> None:
        """Ends the call; a second end does nothing."""
        if not self._ended:
            self._ended = True
            self._put(_End(error))

    def _put(self, item: Item | _End) -> None:
        if self.gone:
            return
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
        except RuntimeError:  # the caller's event loop was closed: nobody can wait any more
            self.gone = True

    async def items(self) -> AsyncGenerator[Item, None]:
        """The items, until the call ends. Raises what it was ended with."""
        try:
            while not isinstance(item := await self._items.get(), _End):
                yield item
            if item.error is not None:
                raise item.error
        finally:
            self.gone = True


class ModelThread(Generic[Key, Request, Item]):
    """Runs batches in one thread of its own.

    Args:
        begin: A key and calls with that key to the steps of their batch. What a step raises ends its calls.
        most: Rows of the largest batch; only a single call that is larger makes a larger one.
        batches: How many batches may be under way.
        waiting: How many calls may wait.
        on_batch: Told the rows of each batch.
    """

    def __init__(
        self,
        begin: Callable[[Key, Sequence[Call[Request, Item]]], Iterator[None]],
        *,
        most: int,
        batches: int = 4,
        waiting: int = 256,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        self._begin, self._most, self._batches, self._limit = begin, most, batches, waiting
        self._on_batch = on_batch
        self._waiting: deque[tuple[Key, int, Call[Request, Item]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    async def ask(self, key: Key, request: Request, *, size: int = 1) -> AsyncGenerator[Item, None]:
        """The items for ``request``, as they come.

        Raises:
            OverloadedError: too much is waiting.
            ModelClosedError: the model was closed before.
            Exception: whatever the batch raised.
        """
        call: Call[Request, Item] = Call(request, size)
        with self._changed:
            if self._closed:
                raise ModelClosedError("the model was closed; ask another replica")
            if len(self._waiting) >= self._limit:
                raise OverloadedError(f"{self._limit} requests wait for the model already; ask again later")
            self._waiting.append((key, size, call))
            self._changed.notify()
        items = call.items()
        try:
            async for item in items:
                yield item
        finally:
            call.gone = True
            await items.aclose()

    def answers(self, stall_seconds: float) -> bool:
        """Whether the thread lives and its present step began less than ``stall_seconds`` ago."""
        since = self._busy_since
        return self._thread.is_alive() and (since is None or time.monotonic() - since < stall_seconds)

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
            raise DeadlineExceededError(f"the model's thread did not end in {deadline:g} s: a batch still runs")

    def _run(self) -> None:
        running: deque[tuple[Iterator[None], Sequence[Call[Request, Item]]]] = deque()
        while (batch := self._next(len(running))) is not None:
            if batch:
                begun = [call for _, _, call in batch]
                if self._on_batch is not None:
                    self._on_batch(sum(size for _, size, _ in batch))
                running.append((self._begin(batch[0][0], begun), begun))
            for _ in range(len(running)):
                steps, calls = running.popleft()
                if self._step(steps, calls):
                    running.append((steps, calls))

    def _step(self, steps: Iterator[None], calls: Sequence[Call[Request, Item]]) -> bool:
        """Whether the batch goes on after its next step."""
        error: BaseException | None = None
        self._busy_since = time.monotonic()
        try:
            next(steps)
            return True
        except StopIteration:
            pass
        except BaseException as raised:
            error = raised
        finally:
            self._busy_since = None
        for call in calls:
            call.end(error)
        return False

    def _next(self, running: int) -> list[tuple[Key, int, Call[Request, Item]]] | None:
        """Calls that begin now, perhaps none; waits for one if nothing runs; ``None`` when closed and done."""
        with self._changed:
            if not running:
                self._changed.wait_for(lambda: bool(self._waiting) or self._closed)
                if not self._waiting:
                    return None
            if running >= self._batches:
                return []
            self._waiting = deque(entry for entry in self._waiting if not entry[2].gone)
            return take_batch(self._waiting, self._most)
