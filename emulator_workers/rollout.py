"""Episodes from a policy on several environments in one process, without lock-step and without Ray.

Each slot holds one environment; a slot whose episode has ended takes the next job at once. The requests of all live
slots go to the policy as one batch; the seed of a sample is a function of the job and the step, so an episode does not
depend on what shared its batch or its slot. The episode is the unit of retry: a slot whose device fails mends it, more
thoroughly with each attempt, and begins the same job again, ``device_retries`` times at most. A slot whose device
cannot even be reset is given up after ``quarantine_after`` resets in a row and its job goes to another slot; when no
slot is left the rollout ends, rather than report every job that remains as a device error.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from digiq_ray.core.episodes import Episode, episode_id
from digiq_ray.core.errors import DigiQError, InputError
from digiq_ray.core.policies import ActRequest, ActResult, Policy
from digiq_ray.core.rng import seed_of
from digiq_ray.core.tasks import Task
from emulator_workers.devices.base import DeviceBroken, DeviceError, Recovery, Reset
from emulator_workers.environment import Environment, Observation

log = logging.getLogger(__name__)


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


@dataclass(slots=True)
class RolloutStats:
    """What a rollout has done so far. Another thread may read it.

    Attributes:
        episodes: Episodes handed on.
        steps: Actions taken, those of episodes that were begun again included.
        resets: Resets tried; ``steps + resets`` grows as long as anything moves.
        rejected: Actions that a device refused.
        retries: Jobs begun again after a device error.
        policy_seconds, device_seconds: Time spent in the policy, and in devices and judges.
        device_errors: Device errors by the name of their type.
    """

    episodes: int = 0
    steps: int = 0
    resets: int = 0
    rejected: int = 0
    retries: int = 0
    policy_seconds: float = 0.0
    device_seconds: float = 0.0
    device_errors: dict[str, int] = field(default_factory=dict)

    def add(self, other: RolloutStats) -> None:
        """Adds the numbers of another rollout."""
        self.episodes += other.episodes
        self.steps += other.steps
        self.resets += other.resets
        self.rejected += other.rejected
        self.retries += other.retries
        self.policy_seconds += other.policy_seconds
        self.device_seconds += other.device_seconds
        for cause, count in other.device_errors.items():
            self.device_errors[cause] = self.device_errors.get(cause, 0) + count


def escalate(recovery: Recovery, tries: int) -> Recovery:
    """What mends a device that failed the same job for the ``tries``-th time.

    At least what the error asks for, and one rung higher with each attempt: new session, restore, replace.
    """
    return Recovery(min(max(recovery.value, tries), Recovery.REPLACE_DEVICE.value))


def rollout(
    jobs: Iterable[Job],
    *,
    policy: Policy,
    make_environment: Callable[[], Environment],
    slots: int,
    on_episode: Callable[[Episode, Job], None],
    device_retries: int = 2,
    quarantine_after: int = 6,
    spare: list[Environment] | None = None,
    stats: RolloutStats | None = None,
) -> RolloutStats:
    """Carries out every job and hands each episode on as soon as it has ended.

    Args:
        jobs: Taken one by one, as slots become free.
        policy: Asked once per round for all live slots.
        make_environment: Makes an environment of its own for a slot.
        slots: Largest number of live environments.
        on_episode: Called in this thread; what it raises ends the rollout.
        device_retries: How often a job is begun again after a device error before that is reported.
        quarantine_after: Failed resets in a row after which a slot is given up.
        spare: Environments to use before new ones are made; those in good order are put back at the end. Without it
            they are closed.
        stats: Filled in while the rollout goes on; a new one by default. It is returned.

    Raises:
        InputError: there is no slot.
        DeviceBroken: every slot was given up while jobs remained.
        DigiQError: the policy did not answer each request.
    """
    if slots < 1:
        raise InputError(f"a rollout needs at least 1 slot, not {slots}")
    run = _Rollout(
        jobs=iter(jobs),
        policy=policy,
        make_environment=make_environment,
        on_episode=on_episode,
        device_retries=device_retries,
        quarantine_after=quarantine_after,
        spare=spare,
        stats=stats if stats is not None else RolloutStats(),
        open=[_Slot() for _ in range(slots)],
    )
    in_order = False
    try:
        run.run()
        in_order = True
    finally:
        run.end(keep=in_order)
    return run.stats


@dataclass(slots=True)
class _Live:
    """An episode that goes on. It carries the policy version that it began with."""

    environment: Environment
    job: Job
    observation: Observation
    policy_version: str = ""


@dataclass(slots=True)
class _Slot:
    """An environment, the job on it, and its live episode once the device is reset."""

    environment: Environment | None = None
    job: Job | None = None
    live: _Live | None = None
    tries: int = 0
    failed_resets: int = 0
    reset_level: Reset = Reset.HOME


@dataclass(slots=True, kw_only=True)
class _Rollout:
    """The state of one ``rollout``: the slots that are not given up, and the jobs that given-up slots handed back."""

    jobs: Iterator[Job]
    policy: Policy
    make_environment: Callable[[], Environment]
    on_episode: Callable[[Episode, Job], None]
    device_retries: int
    quarantine_after: int
    spare: list[Environment] | None
    stats: RolloutStats
    open: list[_Slot]
    returned: list[Job] = field(default_factory=list)

    def run(self) -> None:
        """Rounds of filling free slots, asking the policy once, and stepping every live slot."""
        while self.open:
            for slot in [slot for slot in self.open if slot.live is None]:
                self._fill(slot)
            busy = [(slot, slot.live) for slot in self.open if slot.live is not None]
            if busy:
                results = self._act([live for _, live in busy])
                for (slot, live), result in zip(busy, results, strict=True):
                    self._step(slot, live, result)
            elif not self.returned:
                return
        job = self._next()
        if job is not None:
            raise DeviceBroken(
                f"no device is left for {job.task.task_id}: each failed {self.quarantine_after} resets in a row "
                f"({_causes(self.stats)}); mend the devices and run the same command again"
            )

    def end(self, *, keep: bool) -> None:
        """Gives the environments back: to ``spare`` if they are in good order, else they are closed."""
        for slot in self.open:
            if slot.environment is None:
                continue
            if keep and self.spare is not None and slot.reset_level is Reset.HOME:
                self.spare.append(slot.environment)
            else:
                slot.environment.close()

    def _next(self) -> Job | None:
        return self.returned.pop() if self.returned else next(self.jobs, None)

    def _fill(self, slot: _Slot) -> None:
        """Begins jobs until an episode is live, no job is left, or the slot is given up."""
        while slot.live is None and slot.failed_resets < self.quarantine_after:
            if slot.job is None:
                slot.job, slot.tries = self._next(), 0
            if slot.job is None:
                return
            self._begin(slot, slot.job)
        if slot.live is None:
            log.error("a device is given up after %d failed resets in a row", slot.failed_resets)
            self.open.remove(slot)
            if slot.environment is not None:
                slot.environment.close()
            if slot.job is not None:
                self.returned.append(slot.job)

    def _begin(self, slot: _Slot, job: Job) -> None:
        environment = slot.environment
        if environment is None:
            environment = slot.environment = self.spare.pop() if self.spare else self.make_environment()
        slot.tries += 1
        self.stats.resets += 1
        failure: DeviceError | None = None
        began = time.perf_counter()
        try:
            slot.live = _Live(environment, job, environment.reset(job.task, slot.reset_level))
            slot.failed_resets, slot.reset_level = 0, Reset.HOME
        except DeviceError as error:
            failure = error
        self.stats.device_seconds += time.perf_counter() - began
        if failure is not None:
            slot.failed_resets += 1
            self._mend(slot, environment, job, failure)

    def _act(self, lives: Sequence[_Live]) -> list[ActResult]:
        requests = [
            ActRequest(seen.screen, seen.task, seen.history, seed_of(live.job.seed, len(seen.history)))
            for live in lives
            for seen in (live.observation,)
        ]
        began = time.perf_counter()
        results = self.policy.act(requests)
        self.stats.policy_seconds += time.perf_counter() - began
        if len(results) != len(requests):
            raise DigiQError(
                f"the policy gave {len(results)} actions for {len(requests)} requests; it must answer each"
            )
        return results

    def _step(self, slot: _Slot, live: _Live, result: ActResult) -> None:
        live.policy_version = live.policy_version or result.policy_version
        began = time.perf_counter()
        live.observation, _, terminated, truncated, info = live.environment.step(result)
        self.stats.device_seconds += time.perf_counter() - began
        self.stats.steps += 1
        self.stats.rejected += info["rejected"] is not None
        if info["device_error"] is not None:
            self._mend(slot, live.environment, live.job, info["device_error"])
        elif terminated or truncated:
            self._report(slot, live.environment, live.job)

    def _report(self, slot: _Slot, environment: Environment, job: Job) -> None:
        """Hands the ended episode on; the slot is free then."""
        version = slot.live.policy_version if slot.live is not None else ""
        self.on_episode(environment.episode(job.episode_id, version, environment.device_name), job)
        self.stats.episodes += 1
        slot.job = slot.live = None

    def _mend(self, slot: _Slot, environment: Environment, job: Job, error: DeviceError) -> None:
        """Counts a device error, reports its episode if no try is left, and mends the device for the next reset."""
        cause = type(error).__name__
        self.stats.device_errors[cause] = self.stats.device_errors.get(cause, 0) + 1
        log.warning(
            "%s: try %d of %s failed (%s: %s)", environment.device_name, slot.tries, job.task.task_id, cause, error
        )
        recovery = escalate(error.recovery, slot.tries)
        if slot.tries <= self.device_retries:
            self.stats.retries += 1
        elif slot.failed_resets < self.quarantine_after:
            self._report(slot, environment, job)
        slot.live = None
        environment.close()
        slot.reset_level = Reset.SNAPSHOT if recovery is Recovery.RESTORE_DEVICE else Reset.HOME
        if recovery is Recovery.REPLACE_DEVICE:
            slot.environment = self.make_environment()


def _causes(stats: RolloutStats) -> str:
    return ", ".join(f"{count} {cause}" for cause, count in sorted(stats.device_errors.items()))
