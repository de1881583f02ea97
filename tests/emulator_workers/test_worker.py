import os
import threading

import pytest
from fake_phones import DeadPhone, DicePolicy, FakePhone, ScriptedPolicy, make_fake_environment, page_task

from digiq_ray.core.errors import DigiQError, ModelError, StoreError
from digiq_ray.evaluation.judges import OracleJudge
from digiq_ray.store.episodes import EpisodeStore
from emulator_workers.devices.base import DeviceBroken
from emulator_workers.environment import Environment
from emulator_workers.rollout import make_jobs
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
    assert (before, during) == (WorkerProgress(0, 0), WorkerProgress(beats=8 + 9, done=8))
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
