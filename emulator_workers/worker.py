"""A worker owns a few devices and a policy, and turns jobs into episodes in the store.

It knows nothing of Ray: the pool wraps it in an actor, the serial pool calls it, and tests use it as it is. An episode
is acknowledged only after its segment is published, and jobs whose episodes the store has already are skipped: a worker
may die at any moment, and whoever is given the same jobs again does what is left. A segment takes the episodes of
several runs, where whoever gives the jobs agrees (``hold``); none waits longer than ``flush_seconds`` while a run goes
on, or after one that failed or was drained. Devices and the policy live as long as the worker. While ``run`` goes on
another thread may give more jobs, ask for the progress, take jobs that failed here away (for another worker), have the
devices restarted, and drain the worker.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Protocol

from digiq_ray.core.episodes import Episode
from digiq_ray.core.policies import Policy
from digiq_ray.store.episodes import EpisodeStore
from emulator_workers.concurrent import ConcurrentRollout
from emulator_workers.environment import Environment
from emulator_workers.jobs import Job, JobQueue, Ticket
from emulator_workers.naming import name_worker
from emulator_workers.phases import Deadlines
from emulator_workers.rollout import run_rounds
from emulator_workers.slot import Rules, Slot
from emulator_workers.stats import RolloutStats

_LOG_BYTES = 2**20
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


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
        concurrent: A thread for each slot, for devices that take their time; else all slots in one thread, in rounds.
        deadlines: Most seconds of each phase, where slots have threads.
        flush_episodes: Episodes per segment; what is not yet published is lost with the worker and done again.
        flush_seconds: A finished episode waits no longer than this for its segment while a run goes on.
        device_retries: How often a job is begun again after a device error.
        quarantine_after: Failed resets in a row after which a slot is given up.
        restart_every: Episodes after which a device is rebooted; 0: never.
        open_store: Opens ``store_path``.
    """

    make_environment: Callable[[], Environment]
    make_policy: Callable[[], Policy]
    store_path: str
    slots: int = 4
    concurrent: bool = False
    deadlines: Deadlines = field(default_factory=Deadlines)
    flush_episodes: int = 32
    flush_seconds: float = 60.0
    device_retries: int = 2
    quarantine_after: int = 6
    restart_every: int = 0
    open_store: Callable[[str], EpisodeSink] = open_episode_store


@dataclass(frozen=True, slots=True)
class WorkerProgress:
    """A sign of life: ``beats`` changes as long as anything moves.

    Attributes:
        beats: Signs of life so far.
        done: Jobs of the present run that are published.
        waiting: Jobs that no slot has taken yet.
        handed: Jobs that failed here and are to be done elsewhere; they are told once.
        stats: Statistics of the present run so far.
    """

    beats: int
    done: int
    waiting: int = 0
    handed: tuple[Ticket, ...] = ()
    stats: RolloutStats = field(default_factory=RolloutStats, compare=False)


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What one run did.

    Attributes:
        skipped: Jobs that were in the store before.
        stats: The statistics of the others.
        handed: Jobs that are to be done elsewhere and were not told of before.
        held: Ids of finished episodes that wait for the segment of the next run.
    """

    skipped: int
    stats: RolloutStats
    handed: tuple[Ticket, ...] = ()
    held: tuple[str, ...] = ()


class EmulatorWorker:
    """Owns devices and a policy. One thread calls ``start``, ``run`` and ``close``; another may call the rest.

    Args:
        spec: What it is made of.
        hand_over: Jobs that failed are handed over for another worker, instead of to another slot.
        log_file: Gets what the worker logs.
        name: What the farm calls it; devices that it numbers carry it in their names.
    """

    def __init__(
        self, spec: WorkerSpec, *, hand_over: bool = False, log_file: Path | None = None, name: str = ""
    ) -> None:
        self._spec, self._hand_over = spec, hand_over
        self._ready: tuple[EpisodeSink, Policy] | None = None
        self._pending: list[Episode] = []
        self._pending_since = 0.0
        self._slots: list[Slot] = []
        self._draining = False
        self._rules: Rules | None = None
        self._earlier_beats = 0
        self._done = self._restarts = 0
        if name:
            name_worker(name)
        if log_file is not None:
            log_to(log_file)

    def start(self) -> int:
        """Opens the store and loads the policy, unless that is done; returns the process id.

        Raises:
            DigiQError: whatever the factories raise.
        """
        if self._ready is None:
            self._ready = (self._spec.open_store(self._spec.store_path), self._spec.make_policy())
        return os.getpid()

    def run(
        self,
        jobs: Sequence[Job | Ticket],
        on_published: Callable[[int], None] | None = None,
        *,
        hold: bool = False,
    ) -> WorkerReport:
        """Carries out the jobs that the store does not have, and those that are given meanwhile.

        Args:
            jobs: In any order.
            on_published: Called with the number of jobs done so far, after each segment and once before the first.
            hold: Episodes may wait for the segment of another run, which follows at once and may have no jobs;
                those that waited for this one count as its jobs.

        Raises:
            DeviceBroken: no device of this worker can be reset any more.
            DigiQError: what the store, the policy, the judge or a factory raises. What was finished is published.
        """
        self.start()
        assert self._ready is not None
        store, policy = self._ready
        stored = store.episode_ids()
        left = [job for job in jobs if _job(job).episode_id not in stored]
        skipped = self._done = len(jobs) - len(left)

        def publish() -> None:
            batch, self._pending = self._pending, []
            if batch:
                store.append(batch)
            self._done += len(batch)
            if on_published is not None:
                on_published(self._done)

        def publish_if_due() -> None:
            if self._is_due():
                publish()

        def keep(episode: Episode, job: Job) -> None:
            del job
            if not self._pending:
                self._pending_since = time.monotonic()
            self._pending.append(episode)
            publish_if_due()

        if on_published is not None:
            on_published(self._done)
        self._rules = rules = self._new_rules(left, keep, publish_if_due)
        if self._draining:
            rules.queue.drain()
        in_order = False
        try:
            self._play(rules, policy)
            in_order = True
        finally:
            if not (hold and in_order and not self._draining):
                publish()
            self._earlier_beats, self._rules = self._earlier_beats + rules.stats.beats, None
            self._done = 0
        held = tuple(episode.episode_id for episode in self._pending)
        return WorkerReport(skipped, rules.stats, tuple(rules.queue.collect()), held)

    def give(self, jobs: Sequence[Job | Ticket]) -> bool:
        """Adds jobs to the present run; ``False`` if it is over, or about to be."""
        rules = self._rules
        return rules is not None and rules.queue.add(jobs)

    def progress(self) -> WorkerProgress:
        """How far the present run is; answers while ``run`` goes on."""
        rules = self._rules
        if rules is None:
            return WorkerProgress(self._earlier_beats, self._done)
        total = RolloutStats()
        with rules.lock:
            total.add(rules.stats)
        handed = tuple(rules.queue.collect())
        return WorkerProgress(self._earlier_beats + total.beats, self._done, rules.queue.waiting, handed, total)

    def restart(self) -> None:
        """Has each device rebooted before its next episode."""
        self._restarts += 1
        if self._rules is not None:
            self._rules.restarts = self._restarts

    def drain(self) -> None:
        """Begins no more jobs, now and later; the present run ends when its live episodes have ended."""
        self._draining = True
        if self._rules is not None:
            self._rules.queue.drain()

    def ping(self) -> int:
        """Answers with the process id."""
        return os.getpid()

    def close(self) -> None:
        """Publishes what is finished and closes the devices. The next ``run`` makes new ones."""
        batch, self._pending = self._pending, []
        try:
            if batch and self._ready is not None:
                self._ready[0].append(batch)
        finally:
            while self._slots:
                self._slots.pop().close()

    def _is_due(self) -> bool:
        """Whether the finished episodes should be published now."""
        if not self._pending:
            return False
        waited = time.monotonic() - self._pending_since
        return len(self._pending) >= self._spec.flush_episodes or waited >= self._spec.flush_seconds

    def _new_rules(
        self, jobs: Sequence[Job | Ticket], keep: Callable[[Episode, Job], None], on_look: Callable[[], None]
    ) -> Rules:
        spec = self._spec
        return Rules(
            queue=JobQueue(jobs, hand_over=self._hand_over),
            make_environment=spec.make_environment,
            on_episode=keep,
            on_look=on_look,
            stats=RolloutStats(),
            device_retries=spec.device_retries,
            quarantine_after=spec.quarantine_after,
            restart_every=spec.restart_every,
            spare=self._slots,
            restarts=self._restarts,
        )

    def _play(self, rules: Rules, policy: Policy) -> None:
        spec = self._spec
        if spec.concurrent:
            ConcurrentRollout(rules, policy, spec.slots, spec.deadlines).run()
        else:
            run_rounds(rules, policy, spec.slots)


def _job(job: Job | Ticket) -> Job:
    return job.job if isinstance(job, Ticket) else job


def log_to(path: Path) -> None:
    """Writes what this process logs to ``path``, which is cut when it grows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter(_LOG_FORMAT))
    root = logging.getLogger("emulator_workers")
    root.addHandler(handler)
    root.setLevel(logging.INFO)
