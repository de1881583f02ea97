"""Pools turn a list of jobs into episodes in a store: one on Ray that survives its workers, one in this process.

The Ray pool hands jobs to actors, keeps their queues filled, probes their progress, and replaces a worker that died or
hangs; its jobs go back to the queue, less those that the store has. A job that failed on a worker with one device goes
to another worker. Only jobs and counters travel through this process. Every wait has a deadline: a round waits
``probe_seconds`` at most, a worker may stand still for ``stall_seconds``, and the pool may be without any worker that
is ready for ``start_seconds``. Inside a worker the phases of each device have deadlines of their own.

Ray's own parts are used where they fit: actors, concurrency groups, custom resources, ``ray.wait``, ``ray.kill``. The
pool asks for all the workers that it wants, so that an autoscaler sees them wait; ``resize`` changes how many.
``ray.util.ActorPool`` neither replaces an actor nor sees one that hangs. ``max_restarts`` with ``max_task_retries``
mends crashes, but not hangs, and out of sight: its budget is per actor, nothing is counted per cause, and a job
stays with its actor instead of going to one that is free. Both are left at 0 here.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import ray

from digiq_ray.core.errors import DigiQError, InputError
from emulator_workers.capacity import in_words, lacking, why_waiting
from emulator_workers.farm_state import FarmDirectory
from emulator_workers.jobs import Job
from emulator_workers.stats import RolloutStats
from emulator_workers.supervisor import CONTROL, Supervisor
from emulator_workers.worker import EmulatorWorker, WorkerSpec

OnProgress = Callable[[int, int], None]


class FarmDrainedError(DigiQError):
    """A farm was drained on request before all of its jobs were done."""


@dataclass(frozen=True, slots=True)
class PoolReport:
    """What a run of a pool did.

    Attributes:
        jobs: Jobs asked for; all of them are in the store now.
        skipped: Those that were there before.
        losses: Workers lost, by cause: ``died``, ``hung``, or the type of the device error that ended one.
        stats: Sums over the workers; of a lost worker, what was last heard.
        seconds: Wall time.
        while_busy: The same sums at the moment when the last job had been handed out: after that devices stand idle
            because nothing is left to do.
    """

    jobs: int
    skipped: int
    losses: dict[str, int]
    stats: RolloutStats
    seconds: float
    while_busy: RolloutStats = field(default_factory=RolloutStats)

    @property
    def episodes_per_hour(self) -> float:
        """Episodes that were played here, an hour."""
        return 3600 * self.stats.episodes / self.seconds if self.seconds else 0.0

    @property
    def utilisation(self) -> float | None:
        """Share of the slots' time in which devices worked, while there were jobs to hand out."""
        return self.while_busy.utilisation

    def as_json(self) -> dict[str, Any]:
        """The figures of a report."""
        stats = self.stats
        return {
            "jobs": self.jobs,
            "skipped": self.skipped,
            "episodes": stats.episodes,
            "steps": stats.steps,
            "retries": stats.retries,
            "restarts": stats.restarts,
            "losses": self.losses,
            "device_errors": stats.device_errors,
            "recoveries": stats.recoveries,
            "quarantined": stats.quarantined,
            "screens": stats.tags,
            "utilisation": self.utilisation,
            "utilisation_to_the_end": stats.utilisation,
            "phase_seconds": stats.phase_seconds,
            "cpu_seconds": stats.cpu_seconds,
            "episodes_per_hour": self.episodes_per_hour,
            "seconds": self.seconds,
        }


class Pool(Protocol):
    """Anything that carries out jobs."""

    def run(self, jobs: Sequence[Job], on_progress: OnProgress = ...) -> PoolReport:
        """Returns when every job's episode is published; ``on_progress(done, total)`` counts published ones."""
        ...


def _ignore(done: int, total: int) -> None:
    del done, total


def _unfinished(spec: WorkerSpec, jobs: Sequence[Job]) -> list[Job]:
    """The jobs that the store does not have; ``InputError`` if two would write the same episode."""
    ids = Counter(job.episode_id for job in jobs)
    name, count = ids.most_common(1)[0] if ids else ("", 0)
    if count > 1:
        raise InputError(f"{count} jobs would write episode {name}: give each task and attempt once")
    stored = spec.open_store(spec.store_path).episode_ids()
    return [job for job in jobs if job.episode_id not in stored]


class SerialPool:
    """One worker in this process, without Ray: for debugging and for fast tests."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec

    def run(self, jobs: Sequence[Job], on_progress: OnProgress = _ignore) -> PoolReport:
        """See ``Pool``.

        Raises:
            DigiQError: what the worker raises, ``DeviceBroken`` included: nobody replaces it here.
        """
        began = time.monotonic()
        left = _unfinished(self._spec, jobs)
        skipped = len(jobs) - len(left)
        worker = EmulatorWorker(self._spec)
        try:
            report = worker.run(left, lambda done: on_progress(skipped + done, len(jobs)))
        finally:
            worker.close()
        return PoolReport(len(jobs), skipped, {}, report.stats, time.monotonic() - began, report.stats)


class EmulatorPool:
    """Workers on Ray and their supervisor. Ray must be initialised.

    Args:
        spec: What each worker is made of.
        workers: How many actors are wanted; never more than there is work for.
        num_cpus, resources: What each actor takes from the cluster, for instance ``{"android": 1}``.
        stall_seconds: A worker that moved nothing for so long is hung. Longer than one policy call and one reset.
        start_seconds: How long the pool may be without a ready worker (scheduling, loading the policy).
        probe_seconds: How often a worker is asked for its progress.
        max_worker_losses: How many workers may be lost in one run.
        farm: Where the state of the farm is told and requests are taken; nowhere by default.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        workers: int,
        num_cpus: float = 1.0,
        resources: Mapping[str, float] | None = None,
        stall_seconds: float = 300.0,
        start_seconds: float = 600.0,
        probe_seconds: float = 5.0,
        max_worker_losses: int = 8,
        farm: Path | None = None,
    ) -> None:
        self.spec, self.workers = spec, 0
        self.resize(workers)
        self.stall_seconds, self.start_seconds, self.probe_seconds = stall_seconds, start_seconds, probe_seconds
        self.max_worker_losses = max_worker_losses
        self.farm = FarmDirectory(farm) if farm is not None else None
        self._options: dict[str, Any] = {
            "num_cpus": num_cpus,
            "resources": dict(resources or {}),
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}},
            "scheduling_strategy": "SPREAD",
        }

    def resize(self, workers: int) -> None:
        """Sets how many workers are wanted, also while ``run`` goes on: more are hired, or some leave when done.

        Raises:
            InputError: none is wanted.
        """
        if workers < 1:
            raise InputError(f"a pool needs at least 1 worker, not {workers}")
        self.workers = workers

    def run(self, jobs: Sequence[Job], on_progress: OnProgress = _ignore) -> PoolReport:
        """See ``Pool``. No worker is left when it returns or raises.

        Raises:
            FarmDrainedError: somebody drained the farm before all jobs were done.
            WorkerLostError: more workers were lost than ``max_worker_losses``.
            DeadlineExceededError: no worker was ready for ``start_seconds``.
            InputError: Ray is not initialised, or two jobs are the same.
            DigiQError: what the store, the policy, the judge or a factory raises in a worker.
        """
        if not ray.is_initialized():
            raise InputError("Ray is not running in this process: call ray.init() first, or use the serial pool")
        began = time.monotonic()
        left = _unfinished(self.spec, jobs)
        skipped = len(jobs) - len(left)
        supervisor = Supervisor(self, left, lambda done: on_progress(skipped + done, len(jobs)))
        try:
            supervisor.run()
        finally:
            supervisor.end()
        if supervisor.done < len(left):
            raise FarmDrainedError(
                f"the farm was drained: {skipped + supervisor.done} of {len(jobs)} episodes are in "
                f"{self.spec.store_path}; the same command continues"
            )
        seconds = time.monotonic() - began
        return PoolReport(len(jobs), skipped, supervisor.losses, supervisor.stats, seconds, supervisor.while_busy)

    @property
    def takes(self) -> dict[str, float]:
        """What one worker takes from the cluster, by Ray's names."""
        return {"CPU": self._options["num_cpus"], **self._options["resources"]}

    @property
    def takes_in_words(self) -> str:
        """What one worker takes from the cluster, for people."""
        return in_words(self.takes)

    def why_waiting(self, pending: int) -> tuple[str, bool]:
        """Why ``pending`` workers are not placed, and whether the cluster lacks something for them."""
        total, free = ray.cluster_resources(), ray.available_resources()
        said = why_waiting(pending, takes=self.takes, total=total, free=free)
        return said, bool(lacking(self.takes, total, free))

    def hire(self, name: str) -> Any:
        """A new actor. Probes have a thread of their own, so that they are answered while ``run`` goes on."""
        actor = ray.remote(concurrency_groups={CONTROL: 1})(EmulatorWorker)
        return actor.options(**self._options).remote(
            self.spec,
            hand_over=self.spec.slots == 1 and self.workers > 1,
            log_file=self.farm.log_path(name) if self.farm is not None else None,
            name=name,
        )
