"""One run of an emulator pool: who works at what, who is lost, and what others are told and ask.

Rounds of hiring, handing out jobs, one bounded wait for an answer, and looking after the workers, until nothing is
left. Each worker is a ``Seat``, a small state machine: starting, idle, busy, leaving. A busy worker's queue is filled
up before it runs dry, so that none of its slots waits for the slowest. What bounds a round is the pool's
``probe_seconds``.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayTaskError

from digiq_ray.core.errors import DeadlineExceededError, DigiQError, WorkerLostError
from emulator_workers.devices.base import DeviceError
from emulator_workers.farm_state import FarmState, WorkerState
from emulator_workers.jobs import Job, Ticket
from emulator_workers.stats import RolloutStats
from emulator_workers.worker import WorkerProgress, WorkerReport

if TYPE_CHECKING:
    from emulator_workers.pool import EmulatorPool

log = logging.getLogger(__name__)

CONTROL = "control"
CLOSE_SECONDS = 10.0
_REMEMBERED = 32
_PATIENCE = 5.0
_SOON_SECONDS = 60.0


@dataclass(slots=True, eq=False)
class Seat:
    """A worker.

    Attributes:
        number, actor: Its name and its handle.
        call: The pending ``start`` or ``run``; ``None`` when idle.
        jobs: The jobs that it has, by episode; ``None`` when it runs nothing.
        done: How many of the present run are published.
        held: Jobs that it has finished and not published, by episode; the next run counts them as its own.
        probe: The pending question for its progress.
        beats: Its last sign of life, seen at ``moved_at`` (monotonic).
        probed_at: When it was asked last.
        waiting: Jobs that none of its slots has taken, when last heard.
        gifts: Jobs that are on their way to it, by the pending call.
        leaving: It gets no more jobs and ends when it is idle.
        earlier, now: Statistics of its runs before and of the present one.
    """

    number: int
    actor: Any
    call: Any
    jobs: dict[str, Ticket] | None = None
    done: int = 0
    held: dict[str, Ticket] = field(default_factory=dict)
    probe: Any = None
    beats: int = -1
    moved_at: float = field(default_factory=time.monotonic)
    probed_at: float = field(default_factory=time.monotonic)
    waiting: int = 0
    gifts: dict[Any, list[Ticket]] = field(default_factory=dict)
    leaving: bool = False
    pid: int | None = None
    earlier: RolloutStats = field(default_factory=RolloutStats)
    now: RolloutStats = field(default_factory=RolloutStats)

    @property
    def name(self) -> str:
        """What people call it."""
        return f"worker-{self.number}"

    @property
    def starting(self) -> bool:
        """Whether it has not answered yet."""
        return self.call is not None and self.jobs is None

    @property
    def owes(self) -> int:
        """How many of its jobs are not published."""
        return len(self.jobs or ()) - self.done

    @property
    def may_help(self) -> bool:
        """Whether it can take, now or soon, what failed on another worker."""
        soon = time.monotonic() - self.moved_at < _SOON_SECONDS
        return not self.leaving and (soon or not self.starting)

    @property
    def pending(self) -> list[Any]:
        """The calls that it has not answered."""
        return [ref for ref in (self.call, self.probe, *self.gifts) if ref is not None]

    @property
    def stats(self) -> RolloutStats:
        """All that it has done, as last heard."""
        total = RolloutStats()
        total.add(self.earlier)
        total.add(self.now)
        return total

    def state(self, note: str = "") -> WorkerState:
        """What others are told of it."""
        stats = self.stats
        name = "leaving" if self.leaving else "starting" if self.starting else "idle" if self.jobs is None else "busy"
        return WorkerState(
            name=self.name,
            state=name,
            pid=self.pid,
            jobs=self.owes,
            episodes=stats.episodes,
            steps=stats.steps,
            utilisation=stats.utilisation,
            device_errors=stats.device_errors,
            note=note,
        )


class Supervisor:
    """One run of ``pool`` over ``jobs``; ``on_done`` is told how many are published.

    Attributes:
        done: Published jobs.
        losses: Workers lost, by cause.
        while_busy: The sums over all workers when the last job had been handed out, as last heard.
    """

    def __init__(self, pool: EmulatorPool, jobs: Sequence[Job], on_done: Callable[[int], None]) -> None:
        self._pool, self._total, self._on_done = pool, len(jobs), on_done
        self._queue = deque(Ticket(job) for job in jobs)
        self._seats: list[Seat] = []
        self._hired = 0
        self._finished = 0
        self._shown = -1
        self._ready_at = self._told_at = time.monotonic()
        self._waiting, self._starting_since = "", time.monotonic()
        self._draining = False
        self._gone: deque[WorkerState] = deque(maxlen=_REMEMBERED)
        self._earlier = RolloutStats()
        self.losses: dict[str, int] = {}
        self.while_busy = RolloutStats()

    @property
    def done(self) -> int:
        """Jobs that are published, as last heard."""
        return self._finished + sum(seat.done for seat in self._seats)

    @property
    def stats(self) -> RolloutStats:
        """Sums over all workers, those that are gone included."""
        total = RolloutStats()
        for part in (self._earlier, *(seat.stats for seat in self._seats)):
            total.add(part)
        return total

    def run(self) -> None:
        """Until every job is published, or the farm is drained."""
        if self._pool.farm is not None:
            self._pool.farm.open()
        self._show()
        while self._queue or any(seat.jobs is not None or seat.held for seat in self._seats):
            self._take_requests()
            if self._draining:
                self._queue.clear()
            self._staff()
            self._hand_out()
            calls = [ref for seat in self._seats for ref in seat.pending]
            answered, _ = ray.wait(calls, num_returns=1, timeout=self._pool.probe_seconds) if calls else ([], [])
            for ref in answered:
                self._receive(ref)
            if self._queue:
                self.while_busy = self.stats
            self._look_after()
            self._show()

    def end(self) -> None:
        """Lets idle workers close their devices, within a deadline, and ends all of them."""
        self._dismiss(list(self._seats))
        self._tell("ended")

    def _dismiss(self, seats: Sequence[Seat]) -> None:
        closing = [seat.actor.close.remote() for seat in seats if seat.call is None]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS)
        for seat in seats:
            ray.kill(seat.actor)
            self._remember(seat, "gone")
            self._finished += seat.done
            self._earlier.add(seat.stats)
            self._seats.remove(seat)

    def _remember(self, seat: Seat, state: str, note: str = "") -> None:
        """Keeps what is told of a worker that is no more."""
        self._gone.append(dataclasses.replace(seat.state(), state=state, note=note))

    def _show(self) -> None:
        if self.done != self._shown:
            self._shown = self.done
            self._on_done(self._shown)
        if time.monotonic() - self._told_at >= self._pool.probe_seconds:
            self._tell("draining" if self._draining else "running")

    def _tell(self, state: str) -> None:
        """Writes the state of the farm for other processes."""
        self._told_at = time.monotonic()
        if self._pool.farm is None:
            return
        stats = self.stats
        workers = [seat.state(self._waiting if seat.starting else "") for seat in self._seats]
        self._pool.farm.write(
            FarmState(
                pid=os.getpid(),
                updated_at=time.time(),
                wanted=self._pool.workers,
                done=self.done,
                total=self._total,
                state=state,
                waiting=self._waiting,
                losses=self.losses,
                device_errors=stats.device_errors,
                utilisation=stats.utilisation,
                workers=(*self._gone, *workers),
            )
        )

    def _take_requests(self) -> None:
        for request in self._pool.farm.take_requests() if self._pool.farm is not None else ():
            log.info("asked to %s %s", request.verb, request.worker or request.workers or "")
            if request.verb == "resize" and request.workers is not None:
                self._pool.resize(max(1, request.workers))
                continue
            if request.verb == "drain" and request.worker is None:
                self._draining = True
            for seat in self._seats:
                if request.worker not in (None, seat.name):
                    continue
                if request.verb == "restart":
                    seat.actor.restart.options(concurrency_group=CONTROL).remote()
                elif request.verb == "drain":
                    self._let_go(seat)

    def _let_go(self, seat: Seat) -> None:
        """Has a worker leave when its live episodes have ended."""
        seat.leaving = True
        seat.actor.drain.options(concurrency_group=CONTROL).remote()

    def _staff(self) -> None:
        """Hires what is wanted and lets go what is too much, starting with those that do nothing."""
        staying = [seat for seat in self._seats if not seat.leaving]
        busy = sum(seat.jobs is not None for seat in staying)
        room = -(-len(self._queue) // self._pool.spec.slots)
        wanted = min(self._pool.workers, busy + room)
        for _ in range(wanted - len(staying)):
            name = f"worker-{self._hired}"
            actor = self._pool.hire(name)
            self._seats.append(Seat(self._hired, actor, actor.start.remote()))
            self._hired += 1
        order = sorted(staying, key=lambda seat: (seat.jobs is not None, not seat.starting, -seat.number))
        for seat in order[: max(0, len(staying) - self._pool.workers)]:
            self._let_go(seat)
        self._dismiss([seat for seat in self._seats if seat.leaving and seat.jobs is None and not seat.held])

    def _hand_out(self) -> None:
        """Gives jobs to idle workers, and to busy ones whose queues run low.

        An idle worker that gets none publishes what it holds.
        """
        slots = self._pool.spec.slots
        for seat in self._seats:
            if seat.starting:
                continue
            more = self._queue and not seat.leaving
            if seat.jobs is None:
                chosen = self._choose(seat, 2 * slots if slots > 1 else 1) if more else []
                if chosen or seat.held:
                    seat.jobs, seat.held, seat.done, seat.waiting = seat.held, {}, 0, 0
                    seat.call = seat.actor.run.remote(self._take(seat, chosen), hold=bool(chosen))
                    seat.moved_at = time.monotonic()
            elif more and slots > 1 and not seat.gifts and seat.waiting < slots:
                chosen = self._choose(seat, 2 * slots - seat.waiting)
                if chosen:
                    call = seat.actor.give.options(concurrency_group=CONTROL).remote(self._take(seat, chosen))
                    seat.gifts[call] = chosen

    def _choose(self, seat: Seat, most: int) -> list[Ticket]:
        """Up to ``most`` jobs for a worker, a fair share; what failed there last goes to another if there is one."""
        share = -(-(len(self._queue) + sum(one.owes for one in self._seats)) // len(self._seats)) - seat.owes
        most = min(most, max(1, share))
        chosen = list(itertools.islice((one for one in self._queue if one.failed_on != seat.number), most))
        others = any(one is not seat and one.may_help for one in self._seats)
        return chosen if chosen or others else list(itertools.islice(self._queue, most))

    def _take(self, seat: Seat, tickets: list[Ticket]) -> list[Ticket]:
        """Moves jobs from the queue to a worker."""
        assert seat.jobs is not None
        for ticket in tickets:
            self._queue.remove(ticket)
            seat.jobs[ticket.job.episode_id] = ticket
        return tickets

    def _receive(self, ref: Any) -> None:
        """Takes an answer, or the news that its worker is lost."""
        seat = next((seat for seat in self._seats if ref in seat.pending), None)
        if seat is None:
            return
        try:
            answer = ray.get(ref, timeout=self._pool.stall_seconds)
        except GetTimeoutError:
            self._lose(seat, "hung", f"a call was not answered within {self._pool.stall_seconds:g} s")
            return
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
        if ref in seat.gifts:
            gift = seat.gifts.pop(ref)
            if not answer:
                self._take_back(seat, gift)
            seat.waiting += len(gift) if answer else 0
        elif isinstance(answer, WorkerProgress):
            self._hear(seat, answer)
        elif isinstance(answer, WorkerReport):
            if seat.probe is not None:  # its answer may hold jobs that are handed over, and tells of them only once
                self._receive(seat.probe)
            if seat in self._seats:
                self._close_account(seat, answer)
        else:
            seat.pid, seat.call = int(answer), None

    def _hear(self, seat: Seat, progress: WorkerProgress) -> None:
        seat.probe = None
        if progress.beats != seat.beats:
            seat.beats, seat.moved_at = progress.beats, time.monotonic()
        if seat.jobs is not None:
            seat.now, seat.waiting = progress.stats, progress.waiting
            self._take_back(seat, progress.handed)
            seat.done = max(seat.done, progress.done)

    def _close_account(self, seat: Seat, report: WorkerReport) -> None:
        """A worker's run is over: all that it had is published, but for what it hands over and what it holds."""
        self._take_back(seat, report.handed)
        for gift in seat.gifts.values():  # the answer will say that they came too late
            self._take_back(seat, gift)
        seat.gifts.clear()
        seat.held = {name: ticket for name, ticket in (seat.jobs or {}).items() if name in report.held}
        self._finished += len(seat.jobs or ()) - len(seat.held)
        seat.earlier.add(report.stats)
        seat.now = RolloutStats()
        seat.call = seat.probe = seat.jobs = None
        seat.done = 0

    def _take_back(self, seat: Seat, tickets: Sequence[Ticket]) -> None:
        """Puts what a worker has not done at the front of the queue."""
        for ticket in reversed(tickets):
            if seat.jobs is not None and seat.jobs.pop(ticket.job.episode_id, None) is not None:
                ticket.failed_on = seat.number if ticket.tries else None
                self._queue.appendleft(ticket)

    def _look_after(self) -> None:
        """Replaces workers that stand still, asks the others how far they are, and says what the starting wait for."""
        now, pool = time.monotonic(), self._pool
        starting = [seat for seat in self._seats if seat.starting]
        self._say_why_waiting(len(starting), now)
        if len(starting) < len(self._seats) or not self._seats:
            self._ready_at = now
        elif now - self._ready_at > pool.start_seconds:
            raise DeadlineExceededError(
                f"no emulator worker was ready within {pool.start_seconds:g} s "
                f"(each takes {pool.takes_in_words}): {pool.why_waiting(len(starting))[0]}"
            )
        for seat in [seat for seat in self._seats if seat.jobs is not None]:
            if now - seat.moved_at > pool.stall_seconds:
                self._lose(seat, "hung", f"nothing moved for {pool.stall_seconds:g} s")
            elif seat.probe is None and now - seat.probed_at >= pool.probe_seconds:
                seat.probed_at = now
                seat.probe = seat.actor.progress.options(concurrency_group=CONTROL).remote()

    def _say_why_waiting(self, starting: int, now: float) -> None:
        if not starting:
            self._waiting, self._starting_since = "", now
        elif now - self._told_at >= self._pool.probe_seconds:
            why, lacks = self._pool.why_waiting(starting)
            if why != self._waiting and now - self._starting_since > _PATIENCE:
                log.log(logging.WARNING if lacks else logging.INFO, "%s", why)
                self._waiting = why

    def _lose(self, seat: Seat, cause: str, why: object) -> None:
        """Ends a worker, puts what it had and has not published back, and counts the loss against the budget."""
        ray.kill(seat.actor)
        self._seats.remove(seat)
        self._remember(seat, "lost", f"{cause}: {why}")
        self._earlier.add(seat.stats)
        if seat.jobs:
            stored = self._pool.spec.open_store(self._pool.spec.store_path).episode_ids()
            left = [ticket for name, ticket in seat.jobs.items() if name not in stored]
            self._finished += len(seat.jobs) - len(left)
            self._queue.extendleft(reversed(left))
        self.losses[cause] = self.losses.get(cause, 0) + 1
        lost, budget = sum(self.losses.values()), self._pool.max_worker_losses
        log.warning("%s is lost (%s, %d of at most %d): %s", seat.name, cause, lost, budget, why)
        if lost > budget:
            causes = ", ".join(f"{count} {name}" for name, count in sorted(self.losses.items()))
            raise WorkerLostError(
                f"{lost} emulator workers were lost ({causes}), more than max_worker_losses={budget}; what was "
                f"finished is in {self._pool.spec.store_path}: mend the cause and run the same command again"
            )
