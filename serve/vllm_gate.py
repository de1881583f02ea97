"""Many may read, one may write: the writer waits until those inside have left, and keeps new ones waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from digiq_ray.core.errors import DeadlineExceededError


class Gate:
    """Used by coroutines of one event loop; the writers must take turns by themselves."""

    def __init__(self) -> None:
        self._inside = 0
        self._open, self._empty = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._empty.set()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Waits while there is a writer, then counts as inside."""
        await self._open.wait()
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @asynccontextmanager
    async def writing(self, deadline: float) -> AsyncIterator[None]:
        """Keeps readers out and waits until none is inside.

        Raises:
            DeadlineExceededError: some were inside for longer than ``deadline`` seconds.
        """
        self._open.clear()
        try:
            try:
                await asyncio.wait_for(self._empty.wait(), deadline)
            except TimeoutError as error:
                raise DeadlineExceededError(
                    f"{self._inside} requests under way did not end in {deadline:g} s"
                ) from error
            yield
        finally:
            self._open.set()
