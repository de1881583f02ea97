import logging
import os
import threading
import time

import pytest
from fake_phones import DeadPhone, DicePolicy, FakePhone, ScriptedPolicy, make_fake_environment, page_task

from digiq_ray.core.errors import DigiQError, ModelError, StoreError
from digiq_ray.evaluation.judges import OracleJudge
from digiq_ray.store.episodes import EpisodeStore
from emulator_workers.devices.base import DeviceBroken
from emulator_workers.environment import Environment
from emulator_workers.faults import Fault, FaultKind, FaultPlan, FaultyDevice
from emulator_workers.jobs import Ticket, make_jobs
from emulator_workers.worker import EmulatorWorker, WorkerProgress, WorkerSpec

NEXT = "tap 0.90 0.50"


def jobs_of(count: int):
    return make_jobs([page_task(n % 4 + 1, name=f"t/{n}") for n in range(count)], run="r")


class RecordingSink:
    """A store in memory that notes each segment and may fail at one."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.segments: list[list[str]] = []
        self._fail_at = fail_at

    def append(self, episodes):
        if self._fail_at == len(self.segments):
            raise StoreError("disk gone")
        self.segments.append([e.episode_id for e in episodes])

    def episode_ids(self):
        return {name for segment in self.segments for name in segment}


def worker_on(sink, **options) -> EmulatorWorker:
    spec = {"make_environment": make_fake_environment, "make_policy": DicePolicy, "slots": 2, "flush_episodes": 4}
    return EmulatorWorker(WorkerSpec(**spec | options, store_path="", open_store=lambda path: sink))


@pytest.fixture
def sink():
    return RecordingSink()


def test_every_job_is_published_once_in_segments(sink):
    jobs = jobs_of(10)
    report = worker_on(sink).run(jobs)
    assert [len(segment) for segment in sink.segments] == [4, 4, 2]
    assert sink.episode_ids() == {job.episode_id for job in jobs}
    assert (report.skipped, report.stats.episodes) == (0, 10)


def test_jobs_in_the_store_are_skipped(sink):
    jobs = jobs_of(10)
    worker_on(sink).run(jobs[:6])
    report = worker_on(sink).run(jobs)
    assert (report.skipped, report.stats.episodes) == (6, 4)
    assert sum(map(len, sink.segments)) == len(sink.episode_ids()) == 10


def test_finished_episodes_are_published_when_the_policy_fails(sink):
    class Failing(DicePolicy):
        def act(self, requests):
            if len(self.batches) == 12:
                raise ModelError("out of memory")
            return super().act(requests)

    jobs = jobs_of(40)
    with pytest.raises(ModelError):
        worker_on(sink, make_policy=Failing, flush_episodes=1000).run(jobs)
    assert 0 < len(sink.episode_ids()) < 40
    report = worker_on(sink).run(jobs)
    assert report.skipped + report.stats.episodes == 40
    assert sum(map(len, sink.segments)) == len(sink.episode_ids()) == 40


def test_an_episode_is_acknowledged_only_when_published():
    sink, published = RecordingSink(fail_at=1), []
    with pytest.raises(StoreError, match="disk gone"):
        worker_on(sink).run(jobs_of(10), published.append)
    assert published[:2] == [0, 4]
    assert max(published) == len(sink.episode_ids()) == 4


def test_acknowledged_jobs_count_those_skipped(sink):
    published = []
    worker_on(sink).run(jobs_of(3))
    worker_on(sink).run(jobs_of(10), published.append)
    assert (published[0], published[-1], published) == (3, 10, sorted(published))


def test_episodes_reach_a_real_store(tmp_path):
    path = str(tmp_path / "episodes")
    EpisodeStore.create(path)
    jobs = jobs_of(6)
    EmulatorWorker(
        WorkerSpec(make_environment=make_fake_environment, make_policy=DicePolicy, store_path=path, flush_episodes=4)
    ).run(jobs)
    assert EpisodeStore(path).episode_ids() == {job.episode_id for job in jobs}


def test_devices_and_the_policy_live_as_long_as_the_worker(sink):
    phones, policies = [], []

    def make_environment():
        phones.append(FakePhone())
        return Environment(phones[-1], OracleJudge())

    def make_policy():
        policies.append(DicePolicy())
        return policies[-1]

    worker = worker_on(sink, make_environment=make_environment, make_policy=make_policy)
    worker.run(jobs_of(5))
    worker.run(jobs_of(10))
    assert (len(phones), len(policies)) == (2, 1)
    assert [phone.calls.count("close") for phone in phones] == [0, 0]
    worker.close()
    assert [phone.calls[-1] for phone in phones] == ["close", "close"]


def test_progress_answers_while_a_run_goes_on(sink):
    inside, go_on = threading.Event(), threading.Event()

    class Waiting(ScriptedPolicy):
        def act(self, requests):
            results = super().act(requests)
            if sum(self.batches) == 9:
                inside.set()
                assert go_on.wait(10), "the test did not let the policy go on"
            return results

    worker = worker_on(sink, make_policy=lambda: Waiting(NEXT), slots=1, flush_episodes=4)
    jobs = make_jobs([page_task(1, name=f"t/{n}") for n in range(20)], run="r")
    before = worker.progress()
    thread = threading.Thread(target=worker.run, args=(jobs,))
    thread.start()
    assert inside.wait(10)
    during = worker.progress()
    go_on.set()
    thread.join(10)
    after = worker.progress()
    assert (before, during) == (WorkerProgress(0, 0), WorkerProgress(beats=8 + 9, done=8, waiting=11))
    assert during.stats.episodes == 8
    assert after.beats > during.beats


def test_between_runs_nothing_counts_as_done(sink):
    worker = worker_on(sink)
    worker.run(jobs_of(10))
    assert worker.progress().done == 0


def test_beats_go_on_from_run_to_run(sink):
    worker = worker_on(sink)
    worker.run(jobs_of(5))
    before = worker.progress().beats
    worker.run(jobs_of(10))
    assert worker.progress().beats > before > 0


def test_dead_devices_end_the_run(sink):
    worker = worker_on(sink, make_environment=lambda: Environment(DeadPhone(), OracleJudge()))
    with pytest.raises(DeviceBroken):
        worker.run(jobs_of(10))


def test_start_raises_what_the_factories_raise(sink):
    def make_policy():
        raise ModelError("no such model")

    with pytest.raises(ModelError, match="no such model"):
        worker_on(sink, make_policy=make_policy).start()


def test_a_missing_store_is_named():
    spec = WorkerSpec(make_environment=make_fake_environment, make_policy=DicePolicy, store_path="nowhere/episodes")
    with pytest.raises(DigiQError, match="nowhere/episodes"):
        EmulatorWorker(spec).start()


def test_ping_and_start_tell_the_process(sink):
    worker = worker_on(sink)
    assert worker.ping() == worker.start() == os.getpid()


class Gate(DicePolicy):
    """A policy that lets the test act once, in the midst of a run."""

    def __init__(self, at: int, act) -> None:
        super().__init__()
        self._at, self._act = at, act

    def act(self, requests):
        if len(self.batches) == self._at:
            self._act()
        return super().act(requests)


@pytest.mark.parametrize("concurrent", [False, True])
def test_jobs_given_during_a_run_are_done_in_it(sink, concurrent):
    more = make_jobs([page_task(1, name=f"more/{n}") for n in range(3)], run="r")
    given = []
    worker = worker_on(
        sink, make_policy=lambda: Gate(3, lambda: given.append(worker.give(more))), concurrent=concurrent
    )
    report = worker.run(jobs_of(5))
    assert given == [True]
    assert report.stats.episodes == 8
    assert {job.episode_id for job in more} <= sink.episode_ids()


def test_a_worker_that_runs_nothing_takes_no_jobs(sink):
    worker = worker_on(sink)
    assert not worker.give(jobs_of(1))
    worker.run(jobs_of(2))
    assert not worker.give(jobs_of(1))


@pytest.mark.parametrize("concurrent", [False, True])
def test_a_drained_worker_ends_its_live_episodes_and_hands_the_rest_over(sink, concurrent):
    worker = worker_on(sink, make_policy=lambda: Gate(0, worker.drain), concurrent=concurrent)
    report = worker.run(jobs_of(20))
    assert len(sink.episode_ids()) == report.stats.episodes <= 2
    assert len(report.handed) == 20 - report.stats.episodes
    assert len(worker.run(jobs_of(20)).handed) == 20 - report.stats.episodes, "it stays drained"


def test_failed_jobs_are_handed_over_with_their_tries(sink):
    spec = {"make_policy": DicePolicy, "store_path": "", "open_store": lambda path: sink, "slots": 1}
    worker = EmulatorWorker(
        WorkerSpec(
            make_environment=lambda: Environment(
                FaultyDevice(FakePhone(), FaultPlan(faults=(Fault(FaultKind.CRASH, step=1),))), OracleJudge()
            ),
            **spec,
        ),
        hand_over=True,
    )
    jobs = jobs_of(4)
    report = worker.run(jobs)
    assert [(ticket.job, ticket.tries) for ticket in report.handed] == [(jobs[0], 1)]
    assert sink.episode_ids() == {job.episode_id for job in jobs[1:]}


def test_a_job_that_comes_with_tries_has_only_the_others_left(sink):
    worker = worker_on(
        sink, make_environment=lambda: Environment(DeadPhone(), OracleJudge()), slots=1, quarantine_after=10
    )
    report = worker.run([Ticket(jobs_of(1)[0], tries=2)])
    assert (report.stats.resets, report.stats.episodes) == (1, 1)


def test_a_restart_reboots_each_device_once(sink):
    phones = []

    def make_environment():
        phones.append(FakePhone())
        return Environment(phones[-1], OracleJudge())

    worker = worker_on(sink, make_environment=make_environment)
    worker.run(jobs_of(4))
    worker.restart()
    report = worker.run(jobs_of(12))
    assert [phone.calls.count("reset REBOOT") for phone in phones] == [1, 1]
    assert report.stats.restarts == 2


def test_a_device_that_failed_is_mended_in_the_next_run(sink):
    phone = FakePhone()
    device = FaultyDevice(phone, FaultPlan(faults=(Fault(FaultKind.CRASH, step=1),)))
    worker = worker_on(sink, make_environment=lambda: Environment(device, OracleJudge()), slots=1, device_retries=0)
    worker.run(jobs_of(1))
    worker.run(jobs_of(2))
    assert [call for call in phone.calls if call.startswith("reset")] == ["reset HOME", "reset SESSION"]


def test_what_a_worker_logs_lies_in_its_file(sink, tmp_path):
    file = tmp_path / "logs" / "worker-0.log"
    root = logging.getLogger("emulator_workers")
    before = list(root.handlers)
    EmulatorWorker(
        WorkerSpec(
            make_environment=lambda: Environment(DeadPhone(), OracleJudge()),
            make_policy=DicePolicy,
            store_path="",
            open_store=lambda path: sink,
            slots=1,
            quarantine_after=10,
        ),
        log_file=file,
    ).run(jobs_of(1))
    for handler in set(root.handlers) - set(before):
        root.removeHandler(handler)
        handler.close()
    assert "DeviceUnreachable: no answer" in file.read_text()


def test_an_episode_does_not_wait_longer_than_it_may_for_its_segment(sink):
    worker_on(sink, flush_episodes=100, flush_seconds=0.0).run(jobs_of(5))
    assert [len(segment) for segment in sink.segments] == [1] * 5


@pytest.mark.parametrize("concurrent", [False, True])
@pytest.mark.parametrize("hand_over", [False, True])
def test_a_worker_whose_only_device_is_dead_says_so(sink, concurrent, hand_over):
    spec = WorkerSpec(
        make_environment=lambda: Environment(DeadPhone(), OracleJudge()),
        make_policy=DicePolicy,
        store_path="",
        open_store=lambda path: sink,
        slots=1,
        concurrent=concurrent,
    )
    worker = EmulatorWorker(spec, hand_over=hand_over)
    handed: list[object] = []

    def one_by_one() -> None:
        for job in jobs_of(8):
            handed.extend(worker.run([job]).handed)

    with pytest.raises(DeviceBroken, match="DeviceUnreachable in this run; the last: no answer"):
        one_by_one()
    assert len(handed) == (5 if hand_over else 0)


def test_a_segment_takes_the_episodes_of_several_runs(sink):
    worker = worker_on(sink, slots=1, flush_episodes=3)
    jobs = jobs_of(5)
    held = [worker.run([job], hold=True).held for job in jobs]
    ids = [job.episode_id for job in jobs]
    assert sink.segments == [ids[:3]]
    assert held == [tuple(ids[:1]), tuple(ids[:2]), (), tuple(ids[3:4]), tuple(ids[3:])]
    assert worker.run([]).held == ()
    assert sink.segments == [ids[:3], ids[3:]]


def test_an_episode_that_was_held_counts_in_the_run_that_publishes_it(sink):
    worker, published = worker_on(sink, slots=1, flush_episodes=2), []
    first, second = jobs_of(2)
    worker.run([first], hold=True)
    worker.run([second], published.append, hold=True)
    assert published == [0, 2]


def test_what_is_held_is_published_when_the_worker_closes(sink):
    worker = worker_on(sink, slots=1)
    held = worker.run(jobs_of(1), hold=True).held
    assert (len(held), sink.segments) == (1, [])
    worker.close()
    assert sink.segments == [list(held)]


def test_what_is_held_is_published_when_a_later_run_fails(sink):
    worker = worker_on(sink, slots=1, make_policy=lambda: Failing(2))
    first, second = make_jobs([page_task(9, horizon=2, name=f"t/{n}") for n in range(2)], run="r")
    worker.run([first], hold=True)
    with pytest.raises(ModelError):
        worker.run([second], hold=True)
    assert sink.segments == [[first.episode_id]]


@pytest.mark.parametrize("concurrent", [False, True])
def test_a_drained_worker_holds_nothing(sink, concurrent):
    worker = worker_on(sink, slots=1, make_policy=lambda: Gate(0, worker.drain), concurrent=concurrent)
    assert worker.run(jobs_of(3), hold=True).held == ()
    assert len(sink.segments) == 1


class Failing(DicePolicy):
    """A policy that answers so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._times = times

    def act(self, requests):
        if len(self.batches) == self._times:
            raise ModelError("out of memory")
        return super().act(requests)


@pytest.mark.parametrize("concurrent", [False, True])
def test_a_finished_episode_is_published_in_time_while_another_goes_on(sink, concurrent):
    first, second = make_jobs([page_task(9, horizon=n, name=f"t/{n}") for n in (1, 6)], run="r")

    class Patient(DicePolicy):
        def act(self, requests):
            deadline = time.monotonic() + 10
            while len(self.batches) == 3 and not sink.segments and concurrent:
                assert time.monotonic() < deadline, "nothing was published in time"
                time.sleep(0.02)
            return super().act(requests)

    worker = worker_on(sink, slots=1, flush_episodes=9, flush_seconds=0.05, concurrent=concurrent, make_policy=Patient)
    worker.run([first], hold=True)
    if not concurrent:
        time.sleep(0.06)
    worker.run([second], hold=True)
    assert sink.segments[0] == [first.episode_id]
