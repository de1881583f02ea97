"""The supervisor's book-keeping, with actors and answers that the tests make up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from fake_phones import page_task
from ray.exceptions import GetTimeoutError

from digiq_ray.core.errors import WorkerLostError
from emulator_workers import supervisor as module
from emulator_workers.jobs import Ticket, make_jobs
from emulator_workers.stats import RolloutStats
from emulator_workers.supervisor import Supervisor
from emulator_workers.worker import WorkerProgress, WorkerReport


class Actor:
    """Calls are references that say what was asked; what was handed out is kept."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, method: str) -> Any:
        def remote(*arguments: Any, **options: Any) -> str:
            self.asked.append((method, (*arguments, *options.items())))
            return f"{self.name}.{method}.{len(self.asked)}"

        call = SimpleNamespace(remote=remote)
        call.options = lambda **_: call
        return call


class Pool:
    """As much of a pool as a supervisor asks for."""

    stall_seconds, start_seconds, probe_seconds, max_worker_losses = 10.0, 10.0, 0.0, 1
    farm = None

    def __init__(self, workers: int, slots: int, stored: set[str]) -> None:
        self.workers = workers
        store = SimpleNamespace(episode_ids=lambda: stored)
        self.spec = SimpleNamespace(slots=slots, store_path="episodes", open_store=lambda path: store)

    def hire(self, name: str) -> Actor:
        return Actor(name)

    def why_waiting(self, pending: int) -> tuple[str, bool]:
        return f"{pending} wait", True


@pytest.fixture
def answers(monkeypatch) -> dict[str, Any]:
    """What each reference answers; one that is not here never answers."""
    known: dict[str, Any] = {}

    def get(ref: str, timeout: float) -> Any:
        if ref not in known:
            raise GetTimeoutError
        return known[ref]

    monkeypatch.setattr(module.ray, "get", get)
    monkeypatch.setattr(module.ray, "kill", lambda actor: None)
    monkeypatch.setattr(module.ray, "wait", lambda refs, **_: (refs, []))
    return known


def staffed(answers, jobs: int, *, workers: int = 1, slots: int = 1, stored: set[str] | None = None) -> Supervisor:
    """A supervisor whose workers have started and got their first jobs."""
    names = make_jobs([page_task(1, name=f"t/{n}") for n in range(jobs)], run="r")
    supervisor = Supervisor(Pool(workers, slots, stored if stored is not None else set()), names, lambda done: None)
    supervisor._staff()
    for seat in list(supervisor._seats):
        answers[seat.call] = 100 + seat.number
        supervisor._receive(seat.call)
    supervisor._hand_out()
    return supervisor


def tickets_of(seat) -> list[Ticket]:
    return list(seat.jobs.values())


def test_a_worker_with_one_device_gets_one_job_at_a_time(answers):
    supervisor = staffed(answers, 5, workers=2)
    assert [len(seat.jobs) for seat in supervisor._seats] == [1, 1]
    assert [seat.pid for seat in supervisor._seats] == [100, 101]


def test_the_queue_of_a_worker_with_many_slots_is_filled_up_before_it_runs_dry(answers):
    supervisor = staffed(answers, 100, slots=8)
    (seat,) = supervisor._seats
    assert len(seat.jobs) == 16
    seat.waiting = 8
    supervisor._hand_out()
    assert not seat.gifts, "enough waits there"
    seat.waiting = 7
    supervisor._hand_out()
    (gift,) = seat.gifts.values()
    assert (len(gift), len(seat.jobs)) == (9, 25)


def test_jobs_are_shared_fairly_when_few_are_left(answers):
    supervisor = staffed(answers, 10, workers=2, slots=5)
    assert [len(seat.jobs) for seat in supervisor._seats] == [5, 5]


def test_a_gift_that_came_too_late_goes_back_to_the_queue(answers):
    supervisor = staffed(answers, 40, slots=8)
    (seat,) = supervisor._seats
    supervisor._hand_out()
    (ref,) = seat.gifts
    answers[ref] = False
    supervisor._receive(ref)
    assert len(seat.jobs) + len(supervisor._queue) == 40
    assert len(seat.jobs) == 16


def test_a_failed_job_goes_to_another_worker(answers):
    supervisor = staffed(answers, 2, workers=2)
    first, second = supervisor._seats
    (ticket,) = tickets_of(first)
    ticket.tries = 1
    answers[first.call] = WorkerReport(0, RolloutStats(), (ticket,))
    supervisor._receive(first.call)
    supervisor._hand_out()
    assert first.jobs is None, "what failed here is kept for the other one"
    answers[second.call] = WorkerReport(0, RolloutStats(episodes=1))
    supervisor._receive(second.call)
    supervisor._hand_out()
    assert (tickets_of(second), ticket.failed_on) == ([ticket], first.number)


def test_a_failed_job_returns_to_the_only_worker_that_is_there(answers):
    supervisor = staffed(answers, 1)
    (seat,) = supervisor._seats
    (ticket,) = tickets_of(seat)
    ticket.tries = 1
    answers[seat.call] = WorkerReport(0, RolloutStats(), (ticket,))
    supervisor._receive(seat.call)
    supervisor._hand_out()
    assert tickets_of(seat) == [ticket]


def test_a_failed_job_waits_for_a_worker_that_starts_but_not_for_ever(answers, monkeypatch):
    supervisor = staffed(answers, 2, workers=2)
    first, second = supervisor._seats
    supervisor._lose(second, "died", "killed")
    supervisor._staff()
    (ticket,) = tickets_of(first)
    ticket.tries = 1
    answers[first.call] = WorkerReport(0, RolloutStats(), (ticket,))
    supervisor._receive(first.call)
    supervisor._hand_out()
    answers[first.call] = WorkerReport(0, RolloutStats(episodes=1))
    supervisor._receive(first.call)
    supervisor._hand_out()
    assert first.jobs is None
    now = module.time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now + 61)
    supervisor._hand_out()
    assert tickets_of(first) == [ticket]


def test_jobs_that_a_pending_probe_hands_over_are_not_lost_when_the_run_ends(answers):
    supervisor = staffed(answers, 4, slots=4)
    (seat,) = supervisor._seats
    ticket = tickets_of(seat)[0]
    ticket.tries = 1
    supervisor._look_after()
    assert seat.probe is not None
    answers[seat.probe] = WorkerProgress(5, 3, 0, (ticket,))
    answers[seat.call] = WorkerReport(0, RolloutStats(episodes=3))
    supervisor._receive(seat.call)
    assert (list(supervisor._queue), supervisor.done) == ([ticket], 3)


def test_what_a_lost_worker_has_published_is_not_done_again(answers):
    stored: set[str] = set()
    supervisor = staffed(answers, 4, slots=4, stored=stored)
    (seat,) = supervisor._seats
    names = list(seat.jobs)
    stored |= set(names[:3])
    supervisor._lose(seat, "died", "killed")
    assert [ticket.job.episode_id for ticket in supervisor._queue] == names[3:]
    assert (supervisor.done, supervisor.losses, supervisor._seats) == (3, {"died": 1}, [])


def test_more_losses_than_the_budget_end_the_run(answers):
    supervisor = staffed(answers, 4, workers=2)
    first, second = supervisor._seats
    supervisor._lose(first, "died", "killed")
    with pytest.raises(WorkerLostError, match=r"2 emulator workers were lost \(1 died, 1 hung\)"):
        supervisor._lose(second, "hung", "silent")


def test_a_worker_that_does_not_answer_in_time_is_lost(answers):
    supervisor = staffed(answers, 1)
    supervisor._receive(supervisor._seats[0].call)
    assert supervisor.losses == {"hung": 1}


def test_a_smaller_farm_lets_the_idle_go_first_and_the_busy_end_their_jobs(answers):
    supervisor = staffed(answers, 3, workers=3)
    first, second, third = supervisor._seats
    answers[second.call] = WorkerReport(0, RolloutStats(episodes=1))
    supervisor._receive(second.call)
    supervisor._pool.workers = 1
    supervisor._staff()
    assert second not in supervisor._seats
    assert sorted(seat.leaving for seat in supervisor._seats) == [False, True]
    leaving = next(seat for seat in (first, third) if seat.leaving)
    assert ("drain", ()) in leaving.actor.asked
    answers[leaving.call] = WorkerReport(0, RolloutStats(episodes=1))
    supervisor._receive(leaving.call)
    supervisor._staff()
    assert len(supervisor._seats) == 1
    assert supervisor.stats.episodes == 2


def finish(supervisor: Supervisor, seat, answers, *, held: list[Ticket]) -> None:
    """A worker ends its run and holds these episodes."""
    names = tuple(ticket.job.episode_id for ticket in held)
    answers[seat.call] = WorkerReport(0, RolloutStats(episodes=1), (), names)
    supervisor._receive(seat.call)


def test_an_episode_that_is_held_counts_as_done_when_a_later_run_publishes_it(answers):
    supervisor = staffed(answers, 2)
    (seat,) = supervisor._seats
    first = tickets_of(seat)
    finish(supervisor, seat, answers, held=first)
    assert supervisor.done == 0
    supervisor._hand_out()
    assert seat.actor.asked[-1] == ("run", ([tickets_of(seat)[1]], ("hold", True)))
    finish(supervisor, seat, answers, held=[])
    assert (supervisor.done, seat.held) == (2, {})


def test_a_worker_that_gets_no_more_publishes_what_it_holds(answers):
    supervisor = staffed(answers, 1)
    (seat,) = supervisor._seats
    finish(supervisor, seat, answers, held=tickets_of(seat))
    supervisor._hand_out()
    assert seat.actor.asked[-1] == ("run", ([], ("hold", False)))
    finish(supervisor, seat, answers, held=[])
    assert (supervisor.done, seat.jobs, seat.held) == (1, None, {})


def test_a_worker_that_leaves_publishes_what_it_holds_first(answers):
    supervisor = staffed(answers, 2)
    (seat,) = supervisor._seats
    finish(supervisor, seat, answers, held=tickets_of(seat))
    seat.leaving = True
    supervisor._staff()
    assert seat in supervisor._seats
    supervisor._hand_out()
    assert seat.actor.asked[-1] == ("run", ([], ("hold", False)))


def test_what_a_lost_worker_held_is_done_again(answers):
    supervisor = staffed(answers, 3)
    (seat,) = supervisor._seats
    held = tickets_of(seat)
    finish(supervisor, seat, answers, held=held)
    supervisor._hand_out()
    supervisor._lose(seat, "died", "kill -9")
    assert (supervisor.done, len(supervisor._queue)) == (0, 3)
    assert held[0] in supervisor._queue
