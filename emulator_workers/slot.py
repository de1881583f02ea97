"""One place for a device in a rollout: its environment, its recovery ladder, and the episode that goes on.

The slot knows how an episode begins, goes on, fails and is handed on; it does not know who drives it: a loop over all
slots (``rollout``) or a thread of its own (``concurrent``). The episode is the unit of retry: a step is never repeated.
A job that failed goes back to the queue while it has tries left, preferably for another slot; after that its episode
is handed on as it is, truncated by ``DEVICE_ERROR``. State changes hold the slot's lock, so that a supervisor can give
a slot up while a call to its device hangs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from digiq_ray.core.episodes import Episode
from digiq_ray.core.policies import ActRequest, ActResult
from digiq_ray.core.rng import seed_of
from emulator_workers.devices.base import DeviceError, Reset
from emulator_workers.environment import Environment, Observation
from emulator_workers.jobs import Job, JobQueue, Ticket
from emulator_workers.phases import Deadlines, DeviceHung, Phase
from emulator_workers.recovery import Ladder, Rung
from emulator_workers.stats import RolloutStats

log = logging.getLogger(__name__)

MOST_REDRAWS = 3
OnEpisode = Callable[[Episode, Job], None]


@dataclass(slots=True, kw_only=True)
class Rules:
    """What all slots of a rollout share.

    Attributes:
        queue: Where jobs come from.
        make_environment: Makes an environment of its own for a slot.
        on_episode: Takes an ended episode.
        on_look: Called now and then, in the thread that calls ``on_episode``.
        stats: Where everything is counted; guarded by ``lock``.
        device_retries: How often a job is begun again after a device error before that is reported.
        quarantine_after: Failed resets in a row after which a slot is given up.
        restart_every: Episodes after which a device is rebooted; 0: never.
        spare: Slots of an earlier rollout, with their devices, to be used before new ones are made.
        last_error: What failed last, for the message of a rollout that has no device left.
        restarts: How often a restart of all devices was asked for.
    """

    queue: JobQueue
    make_environment: Callable[[], Environment]
    on_episode: OnEpisode
    stats: RolloutStats
    device_retries: int = 2
    quarantine_after: int = 6
    restart_every: int = 0
    spare: list[Slot] | None = None
    last_error: str = ""
    restarts: int = 0
    on_look: Callable[[], None] = lambda: None
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True)
class _Live:
    """An episode that goes on. It carries the policy version that it began with."""

    observation: Observation
    policy_version: str = ""
    redraws: int = 0
    steps: int = 0


class Slot:
    """One place for a device.

    Attributes:
        number: Its name in the queue.
        environment: Made when the first job comes.
        given_up: No device will do here.
        abandoned: A supervisor has taken the job away because the device hangs.
        since: Since when the time of a slot with a thread of its own has not been booked; ``None`` without one.
    """

    def __init__(self, number: int, rules: Rules, ladder: Ladder | None = None) -> None:
        self.number = number
        self.environment: Environment | None = None
        self.given_up = self.abandoned = False
        self.since: float | None = None
        self.ladder = ladder if ladder is not None else Ladder(rules.quarantine_after)
        self.ticket: Ticket | None = None
        self._rules = rules
        self._live: _Live | None = None
        self._lock = threading.Lock()
        self._episodes = 0
        self._restarts = rules.restarts
        self._booked: dict[Phase, float] = {}

    def join(self, number: int, rules: Rules) -> Slot:
        """Takes the slot, which has no job, into another rollout, with its device and its ladder."""
        self.number, self._rules = number, rules
        return self

    def close(self) -> None:
        """Gives the device back."""
        if self.environment is not None:
            self.environment.close()

    @property
    def live(self) -> bool:
        """Whether an episode goes on."""
        return self._live is not None

    @property
    def device_name(self) -> str:
        """The device's name; empty before there is one."""
        return self.environment.device_name if self.environment is not None else ""

    def begin(self, ticket: Ticket) -> None:
        """Takes a job: makes or mends the device, resets it, and has a live episode if that went well."""
        rules = self._rules
        ticket.tries += 1
        with self._lock:
            self.ticket = ticket
        with rules.lock:
            rules.stats.resets += 1
        try:
            environment = self._device()
            observation = environment.reset(
                ticket.job.task, self._reset_level(), recovering=self.ladder.rung is not None
            )
        except DeviceError as error:
            self.book()
            self._failed(error, in_reset=True)
            return
        self.book()
        with self._lock:
            if not self.abandoned:
                self.ladder.was_reset()
                self._live = _Live(observation)

    def request(self) -> ActRequest:
        """What the policy is asked. An action that was none is drawn again with another seed."""
        live, ticket = self._live, self.ticket
        assert live is not None
        assert ticket is not None
        seen, seed = live.observation, ticket.job.seed
        again = (live.redraws,) if live.redraws else ()
        return ActRequest(seen.screen, seen.task, seen.history, seed_of(seed, len(seen.history), *again))

    def step(self, result: ActResult) -> None:
        """Does what the policy wrote, unless it is to be asked again."""
        live, environment, rules = self._live, self.environment, self._rules
        assert live is not None
        assert environment is not None
        live.policy_version = live.policy_version or result.policy_version
        if live.redraws < MOST_REDRAWS and environment.wants_another(result.text):
            live.redraws += 1
            with rules.lock:
                rules.stats.redraws += 1
            return
        live.redraws = 0
        live.observation, _, terminated, truncated, info = environment.step(result)
        self.book()
        with rules.lock:
            rules.stats.steps += 1
            rules.stats.rejected += info["rejected"] is not None
            if info["tag"] is not None:
                rules.stats.tags[info["tag"]] = rules.stats.tags.get(info["tag"], 0) + 1
        if info["device_error"] is not None:
            self._failed(info["device_error"], in_reset=False)
            return
        live.steps += 1
        if terminated or truncated:
            with self._lock:
                if not self.abandoned:
                    self.ladder.finished()
                    self._episodes += 1
                    self._report()

    def give_up_if_hung(self, deadlines: Deadlines) -> DeviceHung | None:
        """Takes the job away, from another thread, if a call to the device has run past its deadline."""
        with self._lock:
            environment = self.environment
            if self.abandoned or environment is None or self.ticket is None:
                return None
            error = environment.watch.overrun(deadlines)
            if error is None:
                return None
            self.abandoned = True
            environment.give_up()
            self._settle_accounts(error, in_reset=self._live is None)
            return error

    def _device(self) -> Environment:
        """The environment, made if there is none; a place whose device is replaced has none."""
        if self.environment is None:
            self.environment = self._rules.make_environment()
            self._episodes = 0
            self._booked = dict(self.environment.watch.seconds)
        return self.environment

    def book(self) -> None:
        """Adds what each phase, and the slot itself, has taken since the last call."""
        with self._rules.lock:
            stats = self._rules.stats
            if self.since is not None:
                now = time.monotonic()
                stats.slot_seconds, self.since = stats.slot_seconds + now - self.since, now
            for phase, seconds in self.environment.watch.seconds.items() if self.environment is not None else ():
                spent = seconds - self._booked.get(phase, 0.0)
                if spent:
                    stats.phase_seconds[phase.value] = stats.phase_seconds.get(phase.value, 0.0) + spent
                    self._booked[phase] = seconds

    def _reset_level(self) -> Reset:
        rules, level = self._rules, self.ladder.reset
        due = self._restarts < rules.restarts or (rules.restart_every and self._episodes >= rules.restart_every)
        if not due:
            return level
        self._restarts, self._episodes = rules.restarts, 0
        with rules.lock:
            rules.stats.restarts += 1
        return Reset.REBOOT

    def _failed(self, error: DeviceError, *, in_reset: bool) -> None:
        with self._lock:
            if not self.abandoned:
                self._settle_accounts(error, in_reset=in_reset)
        if self.environment is not None and self.ladder.rung in (Rung.REPLACE, Rung.GIVE_UP):
            self.environment.close()
            self.environment = None

    def _settle_accounts(self, error: DeviceError, *, in_reset: bool) -> None:
        """Counts a device error, decides what is done about it, and hands the job back or its episode on."""
        rules, ticket, cause = self._rules, self.ticket, type(error).__name__
        assert ticket is not None
        good_steps = self._live.steps if self._live is not None else 0
        rung = self.ladder.failed(error.recovery, in_reset=in_reset, good_steps=good_steps)
        again = ticket.tries <= rules.device_retries or rung is Rung.GIVE_UP or self.environment is None
        with rules.lock:
            stats, rules.last_error = rules.stats, str(error)
            stats.device_errors[cause] = stats.device_errors.get(cause, 0) + 1
            stats.recoveries[rung.name.lower()] = stats.recoveries.get(rung.name.lower(), 0) + 1
            stats.retries += again
            if rung in (Rung.REPLACE, Rung.GIVE_UP) and self.device_name:
                stats.quarantined.append(self.device_name)
        log.warning(
            "%s: try %d of %s failed (%s: %s); next: %s",
            *(self.device_name or "a device that is not there", ticket.tries, ticket.job.task.task_id),
            *(cause, error, rung.name.lower()),
        )
        self.given_up = rung is Rung.GIVE_UP
        if again:
            ticket.failed_on = self.number
            self.ticket = self._live = None
            rules.queue.give_back(ticket)
        else:
            self._report()

    def _report(self) -> None:
        """Hands the ended episode on; the slot is free then."""
        environment, ticket, version = self.environment, self.ticket, self._live.policy_version if self._live else ""
        assert environment is not None
        assert ticket is not None
        self.ticket = self._live = None
        episode = environment.episode(ticket.job.episode_id, version, environment.device_name)
        self._rules.on_episode(episode, ticket.job)
        log.info(
            "%s: %s ended after %d steps: %s",
            *(environment.device_name, ticket.job.task.task_id, len(episode.steps) - 1, episode.stop_reason),
        )
        with self._rules.lock:
            self._rules.stats.episodes += 1
        self._rules.queue.finished()
