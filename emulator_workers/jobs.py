"""Jobs, and the queue that hands them to the slots of one rollout.

A job that failed on one slot goes to the front of the queue, and another slot takes it if there is one: a device must
not spend the whole budget of a task. Jobs may be added while the rollout goes on; when nothing waits and nothing is
being carried out the queue is finished and takes no more. A draining queue hands out nothing that is new.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from digiq_ray.core.episodes import episode_id
from digiq_ray.core.rng import seed_of
from digiq_ray.core.tasks import Task

_LOOK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Job:
    """One episode to be: the ``attempt``-th on ``task``. ``seed`` decides every action that is sampled in it."""

    task: Task
    attempt: int
    episode_id: str
    seed: int


def make_jobs(tasks: Iterable[Task], *, run: str, attempts: int = 1, seed: int = 0) -> list[Job]:
    """``attempts`` jobs for each task; ids and seeds depend on nothing but the arguments."""
    return [
        Job(task, attempt, episode_id(run, task.task_id, attempt), seed_of(seed, task.task_id, attempt))
        for task in tasks
        for attempt in range(attempts)
    ]


@dataclass(slots=True, eq=False)
class Ticket:
    """A job in a queue: how often it was begun, and the slot (for a pool: the worker) where it failed last."""

    job: Job
    tries: int = 0
    failed_on: int | None = None


class JobQueue:
    """The jobs of one rollout. Thread-safe.

    Args:
        jobs: Jobs, or tickets of jobs that were begun elsewhere.
        hand_over: Gives jobs that failed to whoever collects them (a pool, for another worker), instead of to
            another slot of this rollout.
    """

    def __init__(self, jobs: Iterable[Job | Ticket] = (), *, hand_over: bool = False) -> None:
        self._waiting = deque(_ticket(job) for job in jobs)
        self._hand_over = hand_over
        self._handed: list[Ticket] = []
        self._out = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """Jobs that no slot has taken."""
        return len(self._waiting)

    def add(self, jobs: Iterable[Job | Ticket]) -> bool:
        """Adds jobs at the end; ``False`` (and none is added) if the rollout is over or draining."""
        with self._changed:
            if self._is_over():
                return False
            self._waiting.extend(_ticket(job) for job in jobs)
            self._changed.notify_all()
            return True

    def take(self, slot: int, *, others: Callable[[], bool], wait: bool = False) -> Ticket | None:
        """The next job for ``slot``.

        Args:
            slot: Who asks.
            others: Whether other slots could take what failed on this one.
            wait: Blocks until there is a job or the queue is over; else ``None`` may also mean: none just now.
        """
        with self._changed:
            while True:
                for ticket in self._waiting:
                    if ticket.failed_on != slot or not others():
                        self._waiting.remove(ticket)
                        self._out += 1
                        return ticket
                if not wait or self._is_over():
                    return None
                self._changed.wait(_LOOK_SECONDS)

    def give_back(self, ticket: Ticket) -> None:
        """Takes a job that failed: it goes to the front again, or to who collects it."""
        with self._changed:
            self._out -= 1
            if self._closed or self._hand_over:
                self._handed.append(ticket)
            else:
                self._waiting.appendleft(ticket)
            self._changed.notify_all()

    def finished(self) -> None:
        """A job that was taken is done."""
        with self._changed:
            self._out -= 1
            self._changed.notify_all()

    def drain(self) -> None:
        """Hands out no more; what nobody had begun is there to be collected."""
        with self._changed:
            self._closed = True
            self._handed.extend(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()

    def collect(self) -> list[Ticket]:
        """The jobs that were handed over, or left by a drain, since the last call."""
        with self._changed:
            handed, self._handed = self._handed, []
            return handed

    def is_over(self) -> bool:
        """Whether nothing waits and nothing is being carried out; nothing can be added then."""
        with self._changed:
            return self._is_over() and not self._out

    def _is_over(self) -> bool:
        if not self._waiting and not self._out:
            self._closed = True
        return self._closed and not self._waiting


def _ticket(job: Job | Ticket) -> Ticket:
    return job if isinstance(job, Ticket) else Ticket(job)
