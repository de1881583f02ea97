"""Pools turn a list of jobs into episodes in a store: one on Ray that survives its workers, one in this process.

The Ray pool hands chunks of jobs to actors, probes their progress, and replaces a worker that died or hangs; its chunk
goes back to the queue, and whoever takes it skips the episodes that are published. Only jobs and counters travel
through this process. Every wait has a deadline: a round waits ``probe_seconds`` at most, a worker may stand still for
``stall_seconds``, and the pool may be without any worker that is ready for ``start_seconds``.

Ray's own parts are used where they fit: actors, concurrency groups, custom resources, ``ray.wait``, ``ray.kill``.
``ray.util.ActorPool`` neither replaces an actor nor sees one that hangs. ``max_restarts`` with ``max_task_retries``
mends crashes, but not hangs, and out of sight: its budget is per actor, nothing is counted per cause, and a chunk
stays with its actor instead of going to one that is free. Both are left at 0 here.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from digiq_ray.core.errors import DeadlineExceededError, DigiQError, InputError, WorkerLostError
from emulator_workers.devices.base import DeviceError
from emulator_workers.rollout import Job, RolloutStats
from emulator_workers.worker import EmulatorWorker, WorkerProgress, WorkerReport, WorkerSpec

log = logging.getLogger(__name__)

CONTROL = "control"
CLOSE_SECONDS = 10.0
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class PoolReport:
    """What a run of a pool did.

    Attributes:
        jobs: Jobs asked for; all of them are in the store now.
        skipped: Those that were there before.
        losses: Workers lost, by cause: ``died``, ``hung``, or the type of the device error that ended one.
        stats: Sums over the workers; what a lost worker did in its last chunk is not in them.
        seconds: Wall time.
    """

    jobs: int
    skipped: int
    losses: dict[str, int]
    stats: RolloutStats
    seconds: float


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
        return PoolReport(len(jobs), skipped, {}, report.stats, time.monotonic() - began)


class EmulatorPool:
    """Workers on Ray and their supervisor. Ray must be initialised.

    Args:
        spec: What each worker is made of.
        workers: How many actors at most; never more than there are chunks.
        num_cpus, resources: What each actor takes from the cluster, for instance ``{"android": 1}``.
        stall_seconds: A worker that moved nothing for so long is hung. Longer than one policy call and one reset.
        start_seconds: How long the pool may be without a ready worker (scheduling, loading the policy).
        probe_seconds: How often a worker is asked for its progress.
        max_worker_losses: How many workers may be lost in one run.
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
    ) -> None:
        if workers < 1:
            raise InputError(f"a pool needs at least 1 worker, not {workers}")
        self.spec, self.workers = spec, workers
        self.stall_seconds, self.start_seconds, self.probe_seconds = stall_seconds, start_seconds, probe_seconds
        self.max_worker_losses = max_worker_losses
        self._options: dict[str, Any] = {
            "num_cpus": num_cpus,
            "resources": dict(resources or {}),
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}},
            "scheduling_strategy": "SPREAD",
        }

    def run(self, jobs: Sequence[Job], on_progress: OnProgress = _ignore) -> PoolReport:
        """See ``Pool``. No worker is left when it returns or raises.

        Raises:
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
        size = max(self.spec.slots, -(-len(left) // (4 * self.workers)))
        chunks = [_Chunk(left[start : start + size]) for start in range(0, len(left), size)]
        supervisor = _Supervisor(self, chunks, lambda done: on_progress(skipped + done, len(jobs)))
        try:
            supervisor.run()
        finally:
            supervisor.end()
        return PoolReport(len(jobs), skipped, supervisor.losses, supervisor.stats, time.monotonic() - began)

    @property
    def takes(self) -> str:
        """What one worker takes from the cluster, in words."""
        return ", ".join(
            f"{amount:g} {name}"
            for name, amount in {"cpu": self._options["num_cpus"], **self._options["resources"]}.items()
        )

    def hire(self) -> Any:
        """A new actor. Probes have a thread of their own, so that they are answered while ``run`` goes on."""
        actor = ray.remote(concurrency_groups={CONTROL: 1})(EmulatorWorker)
        return actor.options(**self._options).remote(self.spec)


@dataclass(slots=True, eq=False)
class _Chunk:
    """Jobs that go to one worker; ``done`` of them are known to be published."""

    jobs: Sequence[Job]
    done: int = 0


@dataclass(slots=True, eq=False)
class _Seat:
    """A worker: starting, idle, or running a chunk.

    Attributes:
        call: The pending ``start`` or ``run``; ``None`` when idle.
        chunk: What it runs.
        probe: The pending question for its progress.
        beats: Its last sign of life, seen at ``moved_at`` (monotonic).
        probed_at: When it was asked last.
    """

    actor: Any
    call: Any
    chunk: _Chunk | None = None
    probe: Any = None
    beats: int = -1
    moved_at: float = field(default_factory=time.monotonic)
    probed_at: float = field(default_factory=time.monotonic)

    @property
    def starting(self) -> bool:
        return self.call is not None and self.chunk is None


class _Supervisor:
    """One run of an ``EmulatorPool``."""

    def __init__(self, pool: EmulatorPool, chunks: Sequence[_Chunk], on_done: Callable[[int], None]) -> None:
        self._pool, self._chunks, self._on_done = pool, chunks, on_done
        self._queue = deque(chunks)
        self._seats: list[_Seat] = []
        self._shown = -1
        self._ready_at = time.monotonic()
        self.losses: dict[str, int] = {}
        self.stats = RolloutStats()

    def run(self) -> None:
        """Rounds of hiring, handing out, one bounded wait, and looking after the workers, until nothing is left."""
        self._show()
        while self._queue or any(seat.chunk is not None for seat in self._seats):
            self._hire_and_hand_out()
            calls = [ref for seat in self._seats for ref in (seat.call, seat.probe) if ref is not None]
            answered, _ = ray.wait(calls, num_returns=1, timeout=self._pool.probe_seconds)
            for ref in answered:
                self._receive(ref)
            self._look_after()
            self._show()

    def end(self) -> None:
        """Lets idle workers close their devices, within a deadline, and ends all of them."""
        closing = [seat.actor.close.remote() for seat in self._seats if seat.call is None]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS)
        for seat in self._seats:
            ray.kill(seat.actor)
        self._seats.clear()

    def _show(self) -> None:
        done = sum(chunk.done for chunk in self._chunks)
        if done != self._shown:
            self._shown = done
            self._on_done(done)

    def _hire_and_hand_out(self) -> None:
        busy = sum(seat.chunk is not None for seat in self._seats)
        for _ in range(min(self._pool.workers, busy + len(self._queue)) - len(self._seats)):
            actor = self._pool.hire()
            self._seats.append(_Seat(actor, actor.start.remote()))
        for seat in self._seats:
            if seat.call is None and self._queue:
                seat.chunk = self._queue.popleft()
                seat.call = seat.actor.run.remote(seat.chunk.jobs)
                seat.moved_at = time.monotonic()

    def _receive(self, ref: Any) -> None:
        """Takes an answer, or the news that its worker is lost."""
        seat = next(seat for seat in self._seats if ref in (seat.call, seat.probe))
        try:
            answer = ray.get(ref, timeout=self._pool.stall_seconds)
        except (RayActorError, OutOfMemoryError) as error:
            if isinstance(error, RayActorError) and error.actor_init_failed:
                reason = str(error).strip().splitlines()[-1]
                raise DigiQError(f"an emulator worker cannot be made: {reason}") from error
            self._lose(seat, "died", error)
            return
        except RayTaskError as error:
            if isinstance(error.cause, DeviceError):
                self._lose(seat, type(error.cause).__name__, error.cause)
                return
            if isinstance(error.cause, DigiQError):
                raise error.cause from error
            raise
        if isinstance(answer, WorkerProgress):
            seat.probe = None
            if answer.beats != seat.beats:
                seat.beats, seat.moved_at = answer.beats, time.monotonic()
            if seat.chunk is not None:
                seat.chunk.done = max(seat.chunk.done, answer.done)
            return
        if isinstance(answer, WorkerReport) and seat.chunk is not None:
            self.stats.add(answer.stats)
            seat.chunk.done = len(seat.chunk.jobs)
        seat.call = seat.chunk = seat.probe = None

    def _look_after(self) -> None:
        """Replaces workers that stand still and asks the others how far they are."""
        now = time.monotonic()
        if not all(seat.starting for seat in self._seats):
            self._ready_at = now
        elif now - self._ready_at > self._pool.start_seconds:
            raise DeadlineExceededError(
                f"no emulator worker was ready within {self._pool.start_seconds:g} s: ask for less per worker "
                f"({self._pool.takes}), add nodes, or raise start_seconds"
            )
        for seat in [seat for seat in self._seats if seat.chunk is not None]:
            if now - seat.moved_at > self._pool.stall_seconds:
                self._lose(seat, "hung", f"nothing moved for {self._pool.stall_seconds:g} s")
            elif seat.probe is None and now - seat.probed_at >= self._pool.probe_seconds:
                seat.probed_at = now
                seat.probe = seat.actor.progress.options(concurrency_group=CONTROL).remote()

    def _lose(self, seat: _Seat, cause: str, why: object) -> None:
        """Ends a worker, gives its chunk back, and counts the loss against the budget."""
        self._seats.remove(seat)
        ray.kill(seat.actor)
        if seat.chunk is not None:
            self._queue.appendleft(seat.chunk)
        self.losses[cause] = self.losses.get(cause, 0) + 1
        lost, budget = sum(self.losses.values()), self._pool.max_worker_losses
        log.warning("an emulator worker is lost (%s, %d of at most %d): %s", cause, lost, budget, why)
        if lost > budget:
            causes = ", ".join(f"{count} {name}" for name, count in sorted(self.losses.items()))
            raise WorkerLostError(
                f"{lost} emulator workers were lost ({causes}), more than max_worker_losses={budget}; what was "
                f"finished is in {self._pool.spec.store_path}: mend the cause and run the same command again"
            )
