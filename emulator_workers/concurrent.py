"""Episodes from a policy on several slow devices in one process: a thread for each, and nobody waits for another.

A slot's thread takes a job, resets its device, asks the policy through a gate, steps, and takes the next job. Ended
episodes go to the calling thread, which publishes them and looks after the slots: a device that runs past the deadline
of its phase is given up with its thread (a call that hangs cannot be interrupted), its job goes to another slot, and a
new slot climbs the same recovery ladder with a new device. What bounds the rollout is the deadlines of the phases; what
it costs is one thread for each device and a few queue operations for each step.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from dataclasses import dataclass

from digiq_ray.core.episodes import Episode
from digiq_ray.core.policies import Policy
from emulator_workers.environment import Environment
from emulator_workers.gate import PolicyGate
from emulator_workers.jobs import Job
from emulator_workers.phases import Deadlines, Phase
from emulator_workers.rollout import next_slot, no_device_left, put_away
from emulator_workers.slot import Rules, Slot
from emulator_workers.stats import RolloutStats

log = logging.getLogger(__name__)

_CLOSE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class _Ended:
    """A slot's thread has ended, in order or by an error."""

    slot: Slot
    error: BaseException | None


class ConcurrentRollout:
    """One rollout with a thread for each slot.

    Args:
        rules: What the slots share; ``on_episode`` is called in the thread that calls ``run``.
        policy: Asked from one thread, for as many slots as wait.
        slots: Largest number of live environments.
        deadlines: Most seconds of each phase.
    """

    def __init__(self, rules: Rules, policy: Policy, slots: int, deadlines: Deadlines) -> None:
        self._rules, self._size, self._deadlines = rules, slots, deadlines
        self._publish = rules.on_episode
        self._outbox: queue.SimpleQueue[tuple[Episode, Job] | _Ended] = queue.SimpleQueue()
        rules.on_episode = lambda episode, job: self._outbox.put((episode, job))
        self._gate = PolicyGate(policy, largest_batch=slots, deadline=deadlines.policy)
        self._look_every = min(1.0, deadlines.shortest / 4)
        self._open: dict[Slot, threading.Thread] = {}
        self._idle: list[Slot] = []
        self._given_up = self._numbers = 0
        self._broken_off = False
        self._closers: list[threading.Thread] = []

    def run(self) -> RolloutStats:
        """Carries out the jobs of the queue.

        Raises:
            DeviceBroken: every slot was given up while jobs remained.
            DeadlineExceededError: the policy did not answer.
            DigiQError: what the policy, the judge, a factory or ``on_episode`` raises.
        """
        stats, in_order = self._rules.stats, False
        used, looked = time.process_time(), time.monotonic()
        try:
            self._staff()
            while self._open:
                self._receive(self._look_every)
                now = time.monotonic()
                if now - looked >= self._look_every:
                    stats.cpu_seconds, used = stats.cpu_seconds + time.process_time() - used, time.process_time()
                    stats.looks += 1
                    looked = now
                    self._look_after()
                    self._staff()
                    self._rules.on_look()
            while not self._outbox.empty():  # what was handed on in the name of the last slot that hung
                self._receive(self._look_every)
            if self._given_up and not self._idle:  # whoever was given up last has handed a job back
                raise no_device_left(self._rules)
            in_order = True
        finally:
            self._end(in_order)
            stats.cpu_seconds += time.process_time() - used
        return stats

    def _staff(self) -> None:
        """Starts slots while there are jobs that no free slot would take."""
        room = self._size - self._given_up - len(self._open)
        for _ in range(min(room, self._rules.queue.waiting)):
            self._start(self._idle.pop() if self._idle else next_slot(self._number(), self._rules))

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _start(self, slot: Slot, after: threading.Thread | None = None) -> None:
        """Starts a slot's thread; ``after`` is what closes the device that it replaces and may still hold its lease."""
        thread = threading.Thread(target=self._work, args=(slot, after), name=f"slot {slot.number}", daemon=True)
        self._open[slot], slot.since = thread, time.monotonic()
        thread.start()

    def _work(self, slot: Slot, after: threading.Thread | None) -> None:
        """The life of a slot, in its own thread."""
        error: BaseException | None = None
        try:
            if after is not None:
                after.join(_CLOSE_SECONDS)
            while not (slot.given_up or slot.abandoned):
                ticket = self._rules.queue.take(slot.number, others=lambda: len(self._open) > 1, wait=True)
                if ticket is None:
                    break
                slot.begin(ticket)
                while slot.live and (environment := slot.environment) is not None:
                    request = slot.request()
                    with environment.watch.phase(Phase.POLICY):
                        result = self._gate.act(request)
                    slot.step(result)
        except Exception as raised:  # raised again by the thread that runs the rollout
            error = raised
        if not slot.abandoned:
            slot.book()
        if error is not None or slot.abandoned or self._broken_off:  # a close from elsewhere may have met a reset
            slot.close()
        self._outbox.put(_Ended(slot, error))

    def _receive(self, seconds: float) -> None:
        """Takes what slots have sent, for ``seconds`` at most."""
        try:
            item = self._outbox.get(timeout=seconds)
        except queue.Empty:
            return
        if not isinstance(item, _Ended):
            self._publish(*item)
            return
        if self._open.pop(item.slot, None) is None:  # it was given up before; its end is of no interest
            return
        if item.error is not None:
            raise item.error
        if item.slot.given_up:
            self._given_up += 1
        else:
            self._idle.append(item.slot)

    def _look_after(self) -> None:
        """Gives up slots whose device hangs; another with the same ladder takes their place."""
        for slot in list(self._open):
            error = slot.give_up_if_hung(self._deadlines)
            if error is None:
                continue
            log.warning("%s is given up: %s", slot.device_name, error)
            del self._open[slot]
            slot.book()
            closer = self._close(slot.environment) if slot.environment is not None else None
            if slot.given_up:
                self._given_up += 1
            else:
                self._start(Slot(self._number(), self._rules, slot.ladder), closer)

    def _close(self, environment: Environment) -> threading.Thread:
        """Closes an environment whose thread hangs, in a thread of its own: closing may hang too."""
        closer = threading.Thread(target=environment.close, name=f"closes {environment.device_name}", daemon=True)
        self._closers.append(closer)
        closer.start()
        return closer

    def _end(self, in_order: bool) -> None:
        self._rules.on_episode = self._publish
        self._gate.close()
        if not in_order:
            self._broken_off = True
            self._rules.queue.drain()
            for slot in self._open:
                if slot.environment is not None:
                    self._close(slot.environment)
        deadline = time.monotonic() + _CLOSE_SECONDS
        for thread in [*self._closers, *self._open.values()]:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                log.error("the thread '%s' has not ended within %g s; it is left behind", thread.name, _CLOSE_SECONDS)
        put_away(self._idle, self._rules, keep=in_order)
