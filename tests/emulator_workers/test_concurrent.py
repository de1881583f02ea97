"""Rollouts with a thread for each slot: the same episodes as in rounds, and devices that hang are given up."""

import dataclasses
import threading
import time

import pytest
from fake_phones import DeadPhone, DicePolicy, FakePhone, ScriptedPolicy, make_fake_environment, page_task
from hypothesis import given, settings
from hypothesis import strategies as st

from digiq_ray.core.episodes import Episode, StopReason
from digiq_ray.core.errors import DeadlineExceededError, ModelError
from digiq_ray.evaluation.judges import OracleJudge
from emulator_workers.concurrent import ConcurrentRollout
from emulator_workers.devices.base import DeviceBroken, Reset
from emulator_workers.environment import Environment
from emulator_workers.faults import FaultKind, FaultPlan, FaultyDevice
from emulator_workers.jobs import JobQueue, make_jobs
from emulator_workers.phases import Deadlines
from emulator_workers.rollout import rollout
from emulator_workers.slot import Rules
from emulator_workers.stats import RolloutStats

NEXT = "tap 0.90 0.50"


def jobs_of(count: int, **options):
    return make_jobs([page_task(n % 4 + 1, name=f"t/{n}") for n in range(count)], run="r", **options)


def collect(jobs, policy, make_environment=make_fake_environment, *, slots=3, deadlines=None, **options):
    episodes: list[Episode] = []
    rules = Rules(
        queue=jobs if isinstance(jobs, JobQueue) else JobQueue(jobs),
        make_environment=make_environment,
        on_episode=lambda episode, job: episodes.append(episode),
        stats=RolloutStats(),
        **options,
    )
    return episodes, ConcurrentRollout(rules, policy, slots, deadlines or Deadlines()).run()


def without_times(episodes) -> dict[str, Episode]:
    return {
        e.episode_id: dataclasses.replace(
            e, steps=tuple(dataclasses.replace(s, started_at=0.0, ended_at=0.0) for s in e.steps)
        )
        for e in episodes
    }


def in_rounds(jobs, policy):
    episodes: list[Episode] = []
    rollout(
        jobs,
        policy=policy,
        make_environment=make_fake_environment,
        slots=1,
        on_episode=lambda episode, job: episodes.append(episode),
    )
    return episodes


class HangingPhone(FakePhone):
    """Hangs at its ``at``-th screen until it is closed; ``once`` over all phones that share ``hung``."""

    def __init__(self, at: int, hung: list[str], *, where: str = "screenshot", once: bool = True) -> None:
        super().__init__()
        self._at, self._hung, self._where, self._once = at, hung, where, once
        self._count, self._closed = 0, threading.Event()

    def screenshot(self):
        self._maybe("screenshot")
        return super().screenshot()

    def reset(self, level: Reset = Reset.HOME):
        self._maybe("reset")
        return super().reset(level)

    def succeeded(self):
        self._maybe("succeeded")
        return super().succeeded()

    def close(self):
        super().close()
        self._closed.set()

    def _maybe(self, where: str) -> None:
        if where != self._where or (self._once and self._hung):
            return
        self._count += 1
        if self._count == self._at:
            self._hung.append(where)
            self._closed.wait(30)


SHORT = Deadlines(boot=0.4, reset=0.4, recover=0.4, act=0.4, settle=0.4, judge=0.4, policy=5.0)


def test_episodes_are_those_of_the_rollout_in_rounds():
    together, stats = collect(jobs_of(25), DicePolicy(), slots=7)
    assert without_times(together) == without_times(in_rounds(jobs_of(25), DicePolicy()))
    assert (stats.episodes, stats.steps) == (25, sum(len(e.steps) - 1 for e in together))


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), slots=st.integers(1, 6))
def test_episodes_do_not_depend_on_faults_that_retries_mend(seed, slots):
    seeds = iter(range(seed, seed + 10_000))

    def make_environment():
        kinds = (FaultKind.CRASH, FaultKind.UNREACHABLE, FaultKind.WRONG_FRAME, FaultKind.BROKEN_IMAGE)
        plan = FaultPlan(rates=dict.fromkeys(kinds, 0.01), seed=next(seeds))
        return Environment(FaultyDevice(FakePhone(), plan), OracleJudge())

    stormy, _ = collect(jobs_of(12), DicePolicy(), make_environment, slots=slots, device_retries=50)
    assert without_times(stormy) == without_times(in_rounds(jobs_of(12), DicePolicy()))


def test_a_slow_device_holds_up_nobody():
    class SlowPhone(FakePhone):
        def screenshot(self):
            time.sleep(0.3)
            return super().screenshot()

    lock, made = threading.Lock(), []

    def make_environment():
        with lock:
            made.append(SlowPhone() if not made else FakePhone())
            return Environment(made[-1], OracleJudge())

    ended = []
    rules = Rules(
        queue=JobQueue(make_jobs([page_task(3, name=f"t/{n}") for n in range(20)], run="r")),
        make_environment=make_environment,
        on_episode=lambda episode, job: ended.append(time.monotonic()),
        stats=RolloutStats(),
    )
    began = time.monotonic()
    ConcurrentRollout(rules, ScriptedPolicy(*[NEXT] * 3), 2, Deadlines()).run()
    assert len([at for at in ended if at - began < 0.9]) >= 18, "the fast device does all but what the slow one has"


@pytest.mark.parametrize("where", ["screenshot", "reset", "succeeded"])
def test_a_device_that_hangs_is_given_up_and_its_job_done_on_another(where):
    hung = []

    def make_environment():
        return Environment(HangingPhone(1, hung, where=where), OracleJudge())

    began = time.monotonic()
    episodes, stats = collect(jobs_of(6), DicePolicy(), make_environment, slots=2, deadlines=SHORT)
    assert time.monotonic() - began < 10
    assert without_times(episodes) == without_times(in_rounds(jobs_of(6), DicePolicy()))
    assert (stats.device_errors, stats.quarantined, stats.retries) == ({"DeviceHung": 1}, ["fake"], 1)


def test_a_hung_job_without_a_try_left_is_a_truncated_episode():
    phone = HangingPhone(2, [])
    episodes, stats = collect(
        make_jobs([page_task(5)], run="r"),
        ScriptedPolicy(*[NEXT] * 5),
        lambda: Environment(phone, OracleJudge()),
        slots=1,
        deadlines=SHORT,
        device_retries=0,
    )
    assert (episodes[0].stop_reason, episodes[0].is_terminal) == (StopReason.DEVICE_ERROR, False)
    assert [step.action_text for step in episodes[0].steps] == [NEXT, None]
    assert stats.device_errors == {"DeviceHung": 1}


def test_no_thread_is_left_behind():
    before = set(threading.enumerate())
    collect(
        jobs_of(6),
        DicePolicy(),
        lambda hung=[]: Environment(HangingPhone(1, hung), OracleJudge()),
        slots=2,
        deadlines=SHORT,
    )
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(2.0)
    assert [thread.name for thread in left if thread.is_alive()] == []


def test_dead_devices_end_the_rollout_with_their_cause():
    with pytest.raises(DeviceBroken, match=r"6 DeviceUnreachable in this run; the last: no answer"):
        collect(jobs_of(30), DicePolicy(), lambda: Environment(DeadPhone(), OracleJudge()), slots=1)


def test_a_dead_device_among_others_costs_no_job():
    phones = iter([DeadPhone(), *(FakePhone() for _ in range(50))])
    lock = threading.Lock()

    def make_environment():
        with lock:
            return Environment(next(phones), OracleJudge())

    episodes, _ = collect(jobs_of(12), DicePolicy(), make_environment, slots=2, device_retries=8)
    assert without_times(episodes) == without_times(in_rounds(jobs_of(12), DicePolicy()))


def test_an_error_of_the_policy_ends_the_rollout_and_closes_the_devices():
    class Failing(DicePolicy):
        def act(self, requests):
            if len(self.batches) == 5:
                raise ModelError("out of memory")
            return super().act(requests)

    phones = []

    def make_environment():
        phones.append(FakePhone())
        return Environment(phones[-1], OracleJudge())

    with pytest.raises(ModelError, match="out of memory"):
        collect(jobs_of(30), Failing(), make_environment)
    assert {phone.calls[-1] for phone in phones} == {"close"}


def test_a_policy_that_hangs_ends_the_rollout_at_its_deadline():
    go_on = threading.Event()

    class Hung(DicePolicy):
        def act(self, requests):
            go_on.wait(10)
            return super().act(requests)

    with pytest.raises(DeadlineExceededError, match="policy did not answer"):
        collect(jobs_of(2), Hung(), deadlines=dataclasses.replace(SHORT, policy=0.2))
    go_on.set()


def test_jobs_given_while_it_goes_on_are_done_too():
    queue = JobQueue(jobs_of(4))
    late = make_jobs([page_task(1, name=f"late/{n}") for n in range(4)], run="r")

    class Giving(DicePolicy):
        def act(self, requests):
            if not self.batches:
                assert queue.add(late)
            return super().act(requests)

    episodes, _ = collect(queue, Giving(), slots=2)
    assert len(episodes) == 8


def test_draining_ends_it_when_the_live_episodes_have_ended():
    queue = JobQueue(jobs_of(40))

    class Draining(DicePolicy):
        def act(self, requests):
            queue.drain()
            return super().act(requests)

    episodes, _ = collect(queue, Draining(), slots=2)
    assert 0 < len(episodes) <= 2
    assert len(episodes) + len(queue.collect()) == 40


def test_the_time_of_the_slots_is_booked():
    class SlowPhone(FakePhone):
        def screenshot(self):
            time.sleep(0.02)
            return super().screenshot()

    _, stats = collect(jobs_of(12), DicePolicy(), lambda: Environment(SlowPhone(), OracleJudge()), slots=2)
    assert stats.device_seconds >= 0.02 * stats.steps
    assert stats.slot_seconds >= stats.device_seconds + stats.policy_seconds
    assert 0 < stats.utilisation <= 1
