"""One thing at a time in a thread of its own, so that a training goes on while a checkpoint is written.

What goes wrong there is raised in the training: at its next step, or where it waits. Every wait has a deadline and says
what it was for. The thread does not keep a process alive that has given up waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from digiq_ray.core.errors import DeadlineExceededError


class _Task(threading.Thread):
    """A function in a thread, and what it raised."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # raised again by ``Background.check``
            self.error = error


class Background:
    """Work in the background, at most one at a time.

    Args:
        deadline: Seconds that a wait for it may take.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._task: _Task | None = None

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Begins ``work``, which messages call ``name``, when what was begun before has ended; raises as ``wait``."""
        self.wait()
        self._task = _Task(name, work)
        self._task.start()

    def check(self) -> None:
        """Raises what the work raised, if it has ended; costs next to nothing."""
        if self._task is None or self._task.is_alive():
            return
        error, self._task = self._task.error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Returns when nothing is under way.

        Raises:
            DeadlineExceededError: the work has not ended in time; it is still under way.
            Exception: what the work raised.
        """
        if self._task is not None:
            self._task.join(self._deadline)
            if self._task.is_alive():
                raise DeadlineExceededError(
                    f"{self._task.name}: not done after {self._deadline:g} s; look at the place it is written to, "
                    "or allow more (learner.checkpoint_seconds), then run the same command again"
                )
        self.check()
