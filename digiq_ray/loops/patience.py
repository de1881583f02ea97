"""A deadline for work whose length nobody knows: it may take as long as it likes, but it has to move."""

from __future__ import annotations

import time
from collections.abc import Callable

from digiq_ray.core.errors import DeadlineExceededError


class Patience:
    """Ends a wait that has stopped moving.

    Args:
        name: What is waited for, in words.
        seconds: How long it may stand still.
        clock: Seconds that only go up.
    """

    def __init__(self, name: str, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._seconds, self._clock = name, seconds, clock
        self._seen: object = None
        self._since = clock()

    def look(self, state: object) -> None:
        """Tells how far the work is.

        Raises:
            DeadlineExceededError: ``state`` has been the same for too long.
        """
        now = self._clock()
        if state != self._seen:
            self._seen, self._since = state, now
        elif now - self._since > self._seconds:
            raise DeadlineExceededError(
                f"{self._name} has not moved for {self._seconds:g} s; the same command continues"
            )
