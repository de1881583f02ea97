"""Episodes from a policy on several environments in one thread, for devices that answer at once.

Each slot holds one environment; a slot whose episode has ended takes the next job in the next round. The requests of
all live slots go to the policy as one batch; the seed of a sample is a function of the job and the step, so an episode
does not depend on what shared its batch or its slot. A slot whose device cannot even be reset is given up after
``quarantine_after`` resets in a row; when no slot is left the rollout ends, rather than report every job that remains
as a device error. Devices that take their time want ``concurrent_rollout``: here the slowest would hold up the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from digiq_ray.core.errors import InputError
from digiq_ray.core.policies import Policy
from emulator_workers.devices.base import DeviceBroken
from emulator_workers.environment import Environment
from emulator_workers.gate import ask
from emulator_workers.jobs import Job, JobQueue, make_jobs
from emulator_workers.phases import Phase
from emulator_workers.slot import OnEpisode, Rules, Slot
from emulator_workers.stats import RolloutStats

__all__ = ["Job", "RolloutStats", "make_jobs", "no_device_left", "rollout"]


def rollout(
    jobs: Iterable[Job] | JobQueue,
    *,
    policy: Policy,
    make_environment: Callable[[], Environment],
    slots: int,
    on_episode: OnEpisode,
    device_retries: int = 2,
    quarantine_after: int = 6,
    restart_every: int = 0,
    spare: list[Slot] | None = None,
    stats: RolloutStats | None = None,
) -> RolloutStats:
    """Carries out every job and hands each episode on as soon as it has ended.

    Args:
        jobs: Taken one by one, as slots become free; to a queue more may be added in the meantime.
        policy: Asked once per round for all live slots.
        make_environment: Makes an environment of its own for a slot.
        slots: Largest number of live environments.
        on_episode: Called in this thread; what it raises ends the rollout.
        device_retries: How often a job is begun again after a device error before that is reported.
        quarantine_after: Failed resets in a row after which a slot is given up.
        restart_every: Episodes after which a device is rebooted; 0: never.
        spare: Slots, with their devices, to use before new ones are made; they are put back at the end. Without it
            the devices are closed.
        stats: Filled in while the rollout goes on; a new one by default. It is returned.

    Raises:
        InputError: there is no slot.
        DeviceBroken: every slot was given up while jobs remained.
        DigiQError: the policy did not answer each request.
    """
    if slots < 1:
        raise InputError(f"a rollout needs at least 1 slot, not {slots}")
    rules = Rules(
        queue=jobs if isinstance(jobs, JobQueue) else JobQueue(jobs),
        make_environment=make_environment,
        on_episode=on_episode,
        stats=stats if stats is not None else RolloutStats(),
        device_retries=device_retries,
        quarantine_after=quarantine_after,
        restart_every=restart_every,
        spare=spare,
    )
    return run_rounds(rules, policy, slots)


def run_rounds(rules: Rules, policy: Policy, slots: int) -> RolloutStats:
    """``rollout``, with its rules made."""
    rounds = _Rounds(rules, policy, [next_slot(number, rules) for number in range(slots)])
    used, in_order = time.process_time(), False
    try:
        rounds.run()
        in_order = True
    finally:
        rules.stats.cpu_seconds += time.process_time() - used
        put_away(rounds.open, rules, keep=in_order)
    return rules.stats


def next_slot(number: int, rules: Rules) -> Slot:
    """A slot of an earlier rollout, or a new one."""
    return rules.spare.pop().join(number, rules) if rules.spare else Slot(number, rules)


def put_away(slots: Iterable[Slot], rules: Rules, *, keep: bool) -> None:
    """Gives the slots to ``rules.spare``, with their devices and what is known of them, or closes the devices."""
    for slot in slots:
        if keep and rules.spare is not None:
            rules.spare.append(slot)
        else:
            slot.close()


def no_device_left(rules: Rules) -> DeviceBroken:
    """The error of a rollout whose slots were all given up."""
    causes = ", ".join(f"{count} {cause}" for cause, count in sorted(rules.stats.device_errors.items()))
    return DeviceBroken(
        f"no device is left for the jobs that remain: each failed {rules.quarantine_after} resets in a row "
        f"({causes} in this run; the last: {rules.last_error}); mend the devices and run the same command again"
    )


class _Rounds:
    """One rollout: the slots that are not given up."""

    def __init__(self, rules: Rules, policy: Policy, slots: list[Slot]) -> None:
        self.open = slots
        self._rules, self._policy = rules, policy

    def run(self) -> None:
        """Rounds of filling free slots, asking the policy once, and stepping every live slot."""
        began = time.monotonic()
        while self._round():
            self._rules.on_look()
            now = time.monotonic()
            self._rules.stats.slot_seconds += now - began
            began = now
        self._rules.stats.slot_seconds += time.monotonic() - began
        if not self.open:  # whoever was given up last has handed a job back
            raise no_device_left(self._rules)

    def _round(self) -> bool:
        """One round; ``False`` if nothing is left to do, or nobody to do it."""
        for slot in [slot for slot in self.open if not slot.live]:
            self._fill(slot)
        busy = [slot for slot in self.open if slot.live]
        if not busy:
            return bool(self.open) and not self._rules.queue.is_over()
        asked = time.monotonic()
        results = ask(self._policy, [slot.request() for slot in busy])
        seconds = self._rules.stats.phase_seconds
        seconds[Phase.POLICY.value] = seconds.get(Phase.POLICY.value, 0.0) + time.monotonic() - asked
        for slot, result in zip(busy, results, strict=True):
            slot.step(result)
        return True

    def _fill(self, slot: Slot) -> None:
        """Begins jobs until an episode is live, no job is left for this slot, or it is given up."""
        while not slot.live and not slot.given_up:
            ticket = self._rules.queue.take(slot.number, others=lambda: len(self.open) > 1)
            if ticket is None:
                return
            slot.begin(ticket)
        if slot.given_up:
            self.open.remove(slot)
