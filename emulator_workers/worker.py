"""A worker owns a few devices and a policy, and turns jobs into episodes in the store.

It knows nothing of Ray: the pool wraps it in an actor, the serial pool calls it, and tests use it as it is. An episode
is acknowledged only after its segment is published, and jobs whose episodes the store has already are skipped: a
worker may die at any moment, and whoever is given the same jobs again does what is left. Devices and the policy live
as long as the worker, so that a new chunk of jobs does not pay for their start.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from digiq_ray.core.episodes import Episode
from digiq_ray.core.policies import Policy
from digiq_ray.store.episodes import EpisodeStore
from emulator_workers.environment import Environment
from emulator_workers.rollout import Job, RolloutStats, rollout


class EpisodeSink(Protocol):
    """Where episodes go; an ``EpisodeStore`` is one."""

    def append(self, episodes: Sequence[Episode]) -> object:
        """Publishes episodes atomically; those that are there already are dropped."""
        ...

    def episode_ids(self) -> set[str]:
        """The ids of all published episodes."""
        ...


def open_episode_store(path: str) -> EpisodeSink:
    """The ``EpisodeStore`` at ``path``, which exists."""
    return EpisodeStore(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """All that makes a worker; the factories are called in the worker's process and must be picklable.

    Attributes:
        make_environment: Makes an environment with a device and a judge of its own.
        make_policy: Makes the policy.
        store_path: Where episodes are written.
        slots: Environments that are live at once.
        flush_episodes: Episodes per segment; what is not yet published is lost with the worker and done again.
        device_retries: How often a job is begun again after a device error.
        open_store: Opens ``store_path``.
    """

    make_environment: Callable[[], Environment]
    make_policy: Callable[[], Policy]
    store_path: str
    slots: int = 4
    flush_episodes: int = 32
    device_retries: int = 2
    open_store: Callable[[str], EpisodeSink] = open_episode_store


@dataclass(frozen=True, slots=True)
class WorkerProgress:
    """A sign of life: ``beats`` changes as long as anything moves; ``done`` jobs of the present run are published."""

    beats: int
    done: int


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What one run did: jobs that were in the store before, and the statistics of the others."""

    skipped: int
    stats: RolloutStats


class EmulatorWorker:
    """Owns devices and a policy. One thread calls ``start``, ``run`` and ``close``; another may ask ``progress``."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._ready: tuple[EpisodeSink, Policy] | None = None
        self._environments: list[Environment] = []
        self._stats = RolloutStats()
        self._earlier_beats = 0
        self._done = 0

    def start(self) -> int:
        """Opens the store and loads the policy, unless that is done; returns the process id.

        Raises:
            DigiQError: whatever the factories raise.
        """
        if self._ready is None:
            self._ready = (self._spec.open_store(self._spec.store_path), self._spec.make_policy())
        return os.getpid()

    def run(self, jobs: Sequence[Job], on_published: Callable[[int], None] | None = None) -> WorkerReport:
        """Carries out the jobs that the store does not have, and publishes their episodes.

        Args:
            jobs: In any order.
            on_published: Called with the number of jobs done so far, after each segment and once before the first.

        Raises:
            DeviceBroken: no device of this worker can be reset any more.
            DigiQError: what the store, the policy, the judge or a factory raises. What was finished is published.
        """
        self.start()
        assert self._ready is not None
        store, policy = self._ready
        stored = store.episode_ids()
        left = [job for job in jobs if job.episode_id not in stored]
        skipped = self._done = len(jobs) - len(left)
        pending: list[Episode] = []

        def publish() -> None:
            batch = pending.copy()
            pending.clear()
            if batch:
                store.append(batch)
            self._done += len(batch)
            if on_published is not None:
                on_published(self._done)

        def keep(episode: Episode, job: Job) -> None:
            del job
            pending.append(episode)
            if len(pending) >= self._spec.flush_episodes:
                publish()

        publish()
        self._stats = stats = RolloutStats()
        try:
            rollout(
                left,
                policy=policy,
                make_environment=self._spec.make_environment,
                slots=self._spec.slots,
                on_episode=keep,
                device_retries=self._spec.device_retries,
                spare=self._environments,
                stats=stats,
            )
        finally:
            publish()
            self._earlier_beats, self._stats = self.progress().beats, RolloutStats()
            self._done = 0
        return WorkerReport(skipped, stats)

    def progress(self) -> WorkerProgress:
        """How far the present run is; answers while ``run`` goes on."""
        return WorkerProgress(self._earlier_beats + self._stats.steps + self._stats.resets, self._done)

    def ping(self) -> int:
        """Answers with the process id."""
        return os.getpid()

    def close(self) -> None:
        """Closes the devices. The next ``run`` makes new ones."""
        while self._environments:
            self._environments.pop().close()
