"""The pools; those on Ray run on a local cluster of two processors, which is ended with the module."""

import functools
import logging
import threading
import time
from pathlib import Path

import psutil
import pyarrow.parquet
import pytest
import ray
from fake_phones import (
    DicePolicy,
    make_fake_environment,
    make_fatal_environment,
    make_named_environment,
    make_slow_environment,
    page_task,
)

from digiq_ray.core.errors import DeadlineExceededError, DigiQError, InputError, ModelError, WorkerLostError
from digiq_ray.store.episodes import EpisodeStore
from emulator_workers.farm_state import FarmDirectory, Request
from emulator_workers.jobs import make_jobs
from emulator_workers.pool import EmulatorPool, FarmDrainedError, SerialPool
from emulator_workers.worker import WorkerSpec


def jobs_of(count: int):
    return make_jobs([page_task(n % 4 + 1, name=f"t/{n}") for n in range(count)], run="r")


@pytest.fixture
def store(tmp_path):
    return EpisodeStore.create(tmp_path / "episodes")


@pytest.fixture
def diary(tmp_path) -> Path:
    """Where the processes of fatal phones note themselves."""
    path = tmp_path / "diary"
    path.mkdir()
    return path


def spec_of(store, **options) -> WorkerSpec:
    defaults = {"make_environment": make_fake_environment, "make_policy": DicePolicy, "slots": 2, "flush_episodes": 2}
    return WorkerSpec(store_path=str(store.path), **defaults | options)


def written(store) -> list[str]:
    """The id of each episode in each segment, as often as it was written."""
    rows = [pyarrow.parquet.read_table(file) for file in sorted(store.path.glob("*.parquet"))]
    return [
        name
        for table in rows
        for name, first in zip(table["episode_id"].to_pylist(), table["is_first"].to_pylist(), strict=True)
        if first
    ]


def assert_each_once(store, jobs) -> None:
    assert sorted(written(store)) == sorted(job.episode_id for job in jobs)


def assert_ended(diary: Path) -> None:
    """No process of the diary lives on."""
    pids = [int(file.name) for file in diary.iterdir() if file.name.isdigit()]
    assert pids
    living = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(living, timeout=10)
    assert alive == []


def refuse():
    raise ImportError("no wheels for this node")


class Unreadable:
    """A factory that cannot be unpickled in a worker."""

    def __reduce__(self):
        return refuse, ()


def broken_policy():
    raise ModelError("the model is not there")


# Without Ray.


def test_the_serial_pool_does_every_job(store):
    jobs, seen = jobs_of(9), []
    report = SerialPool(spec_of(store)).run(jobs, lambda done, total: seen.append((done, total)))
    assert_each_once(store, jobs)
    assert (report.jobs, report.skipped, report.stats.episodes, report.losses) == (9, 0, 9, {})
    assert (seen[0], seen[-1], seen) == ((0, 9), (9, 9), sorted(seen))


def test_the_serial_pool_resumes(store):
    jobs, seen = jobs_of(9), []
    SerialPool(spec_of(store)).run(jobs[:4])
    report = SerialPool(spec_of(store)).run(jobs, lambda done, total: seen.append((done, total)))
    assert (report.skipped, report.stats.episodes, seen[0]) == (4, 5, (4, 9))
    assert_each_once(store, jobs)


def test_two_jobs_for_one_episode_are_refused(store):
    with pytest.raises(InputError, match="2 jobs would write episode"):
        SerialPool(spec_of(store)).run(jobs_of(3) + jobs_of(1))


def test_the_ray_pool_needs_ray(store):
    with pytest.raises(InputError, match=r"ray\.init"):
        EmulatorPool(spec_of(store), workers=1).run(jobs_of(1))


def test_a_pool_needs_a_worker(store):
    with pytest.raises(InputError, match="at least 1 worker"):
        EmulatorPool(spec_of(store), workers=0)


# On Ray.


@pytest.fixture(scope="module")
def cluster():
    here = str(Path(__file__).parent)
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": here}},
    )
    yield
    ray.shutdown()


def pool_of(spec: WorkerSpec, **options) -> EmulatorPool:
    defaults = {"workers": 2, "num_cpus": 0.5, "probe_seconds": 0.2, "stall_seconds": 3.0, "start_seconds": 60.0}
    return EmulatorPool(spec, **defaults | options)


@pytest.mark.usefixtures("cluster")
def test_the_ray_pool_does_what_the_serial_pool_does(store, tmp_path):
    jobs, seen = jobs_of(24), []
    report = pool_of(spec_of(store)).run(jobs, lambda done, total: seen.append((done, total)))
    assert_each_once(store, jobs)
    assert (report.skipped, report.stats.episodes, report.losses) == (0, 24, {})
    assert (seen[0], seen[-1], seen) == ((0, 24), (24, 24), sorted(seen))
    serial = EpisodeStore.create(tmp_path / "serial")
    SerialPool(spec_of(serial)).run(jobs)
    columns = ["episode_id", "step", "screen_hash", "action", "reward", "stop_reason"]
    assert store.table(columns).equals(serial.table(columns))


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_is_replaced_and_nothing_is_lost_or_doubled(store, diary):
    jobs = jobs_of(24)
    make = functools.partial(make_fatal_environment, diary, "kill", 8)
    report = pool_of(spec_of(store, make_environment=make), workers=1).run(jobs)
    assert_each_once(store, jobs)
    assert report.losses == {"died": 1}
    assert report.stats.episodes < 24, "the killed worker had published nothing that its successor could skip"
    assert_ended(diary)


@pytest.mark.usefixtures("cluster")
def test_a_hung_worker_is_replaced(store, diary):
    jobs, seen = jobs_of(24), []
    make = functools.partial(make_fatal_environment, diary, "hang", 3)
    report = pool_of(spec_of(store, make_environment=make), stall_seconds=1.5).run(
        jobs, lambda done, total: seen.append(done)
    )
    assert_each_once(store, jobs)
    assert report.losses == {"hung": 1}
    assert seen == sorted(seen)
    assert_ended(diary)


@pytest.mark.usefixtures("cluster")
def test_a_worker_whose_devices_are_dead_is_replaced(store, diary):
    jobs = jobs_of(6)
    make = functools.partial(make_fatal_environment, diary, "dead", 1)
    report = pool_of(spec_of(store, make_environment=make, slots=1), workers=1).run(jobs)
    assert_each_once(store, jobs)
    assert report.losses == {"DeviceBroken": 1}
    assert_ended(diary)


@pytest.mark.usefixtures("cluster")
def test_the_budget_of_losses_is_respected(store, diary):
    make = functools.partial(make_fatal_environment, diary, "kill", 1, once=False)
    with pytest.raises(WorkerLostError, match=r"2 emulator workers were lost \(2 died\)"):
        pool_of(spec_of(store, make_environment=make), workers=1, max_worker_losses=1).run(jobs_of(4))
    assert len([file for file in diary.iterdir() if file.name.isdigit()]) == 2
    assert_ended(diary)


@pytest.mark.usefixtures("cluster")
def test_an_error_of_the_job_itself_comes_back_typed(store):
    with pytest.raises(ModelError, match=r"^the model is not there$"):
        pool_of(spec_of(store, make_policy=broken_policy), workers=1).run(jobs_of(2))


@pytest.mark.usefixtures("cluster")
def test_no_worker_is_left_when_the_run_is_broken_off(store, diary):
    def break_off(done, total):
        if done:
            raise KeyboardInterrupt

    make = functools.partial(make_fatal_environment, diary, "hang", 1)
    with pytest.raises(KeyboardInterrupt):
        pool_of(spec_of(store, make_environment=make), stall_seconds=60.0).run(jobs_of(24), break_off)
    assert_ended(diary)


@pytest.mark.usefixtures("cluster")
def test_a_worker_that_cannot_be_made_ends_the_run_with_the_reason(store):
    with pytest.raises(DigiQError, match=r"^an emulator worker cannot be made: .*no wheels for this node"):
        pool_of(spec_of(store, make_policy=Unreadable()), workers=1).run(jobs_of(2))


@pytest.mark.usefixtures("cluster")
def test_a_pool_that_nobody_can_staff_ends_at_its_deadline(store):
    pool = pool_of(spec_of(store), workers=1, resources={"android": 1}, start_seconds=1.0)
    with pytest.raises(DeadlineExceededError, match=r"1 worker waits for 1 android each, but no node offers it: add a"):
        pool.run(jobs_of(2))


@pytest.mark.usefixtures("cluster")
def test_nothing_is_started_when_everything_is_done(store, monkeypatch):
    jobs = jobs_of(4)
    SerialPool(spec_of(store)).run(jobs)
    pool = pool_of(spec_of(store))
    monkeypatch.setattr(pool, "hire", lambda: pytest.fail("a worker was made"))
    report = pool.run(jobs)
    assert (report.skipped, report.stats.episodes) == (4, 0)


def until(condition, *, seconds: float = 30.0) -> None:
    """Waits for something that another thread does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.05)


class Running:
    """A pool that runs in another thread."""

    def __init__(self, pool: EmulatorPool, jobs) -> None:
        self.outcome: list[object] = []
        self._thread = threading.Thread(target=self._run, args=(pool, jobs))
        self._thread.start()

    def _run(self, pool, jobs) -> None:
        try:
            self.outcome.append(pool.run(jobs))
        except DigiQError as error:
            self.outcome.append(error)

    def result(self):
        self._thread.join(60)
        assert not self._thread.is_alive(), "the pool did not end"
        return self.outcome[0]


def slow_spec(store, **options) -> WorkerSpec:
    return spec_of(store, make_environment=make_slow_environment, slots=1, flush_episodes=1, **options)


def states(farm: FarmDirectory) -> dict[str, str]:
    """The workers that are there."""
    if not (farm.path / "state.json").exists():
        return {}
    return {worker.name: worker.state for worker in farm.read().workers if worker.state not in ("gone", "lost")}


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("concurrent", [False, True])
def test_devices_with_threads_and_in_rounds_write_the_same_episodes(store, tmp_path, concurrent):
    jobs = jobs_of(30)
    pool_of(spec_of(store, concurrent=concurrent, slots=3)).run(jobs)
    serial = EpisodeStore.create(tmp_path / "serial")
    SerialPool(spec_of(serial)).run(jobs)
    columns = ["episode_id", "step", "screen_hash", "action", "reward", "stop_reason"]
    assert store.table(columns).equals(serial.table(columns))


@pytest.mark.usefixtures("cluster")
def test_a_job_that_failed_is_begun_again_on_another_worker(store, diary):
    jobs = jobs_of(4)
    make = functools.partial(make_fatal_environment, diary, "dead", 1)
    spec = spec_of(store, make_environment=make, slots=1, flush_episodes=1)
    report = pool_of(spec).run(jobs)
    assert_each_once(store, jobs)
    assert "device_error" not in store.table(["stop_reason"])["stop_reason"].to_pylist()
    assert report.stats.retries == sum(report.stats.device_errors.values()) >= 1


@pytest.mark.usefixtures("cluster")
def test_a_farm_tells_its_state_and_reports_its_use(store, tmp_path):
    farm = FarmDirectory(tmp_path / "farm")
    report = pool_of(slow_spec(store), farm=farm.path).run(jobs_of(8))
    state = farm.read()
    assert (state.state, state.done, state.total) == ("ended", 8, 8)
    assert {worker.state for worker in state.workers} == {"gone"}
    assert sum(worker.episodes for worker in state.workers) == 8
    busiest = max(state.workers, key=lambda worker: worker.episodes)
    assert "ended after" in "".join(farm.log_lines(busiest.name, 1))
    assert state.device_errors == report.stats.device_errors == {}
    figures = report.as_json()
    assert (figures["episodes"], figures["jobs"]) == (8, 8)
    assert figures["episodes_per_hour"] > 0


@pytest.mark.usefixtures("cluster")
def test_workers_with_one_device_share_segments_and_name_their_devices(store, tmp_path):
    jobs = jobs_of(12)
    spec = spec_of(store, make_environment=make_named_environment, slots=1, flush_episodes=32)
    pool_of(spec).run(jobs)
    assert_each_once(store, jobs)
    assert len(list(store.path.glob("*.parquet"))) <= 4
    assert set(store.table(["device"])["device"].to_pylist()) <= {"worker-0/fake", "worker-1/fake"}


@pytest.mark.usefixtures("cluster")
def test_a_farm_grows_while_it_runs(store, tmp_path):
    farm, jobs = FarmDirectory(tmp_path / "farm"), jobs_of(40)
    pool = pool_of(slow_spec(store), workers=1, farm=farm.path)
    running = Running(pool, jobs)
    until(lambda: states(farm).get("worker-0") == "busy")
    pool.resize(2)
    until(lambda: states(farm).get("worker-1") == "busy" or running.outcome)
    assert states(farm).keys() >= {"worker-1"}
    assert running.result().losses == {}
    assert_each_once(store, jobs)


@pytest.mark.usefixtures("cluster")
def test_a_farm_shrinks_on_request_and_loses_nothing(store, tmp_path):
    farm, jobs = FarmDirectory(tmp_path / "farm"), jobs_of(40)
    running = Running(pool_of(slow_spec(store), farm=farm.path), jobs)
    until(lambda: list(states(farm).values()) == ["busy", "busy"])
    farm.ask(Request("resize", workers=1), time.time())
    until(lambda: len(states(farm)) == 1)
    assert running.result().losses == {}
    assert_each_once(store, jobs)


@pytest.mark.usefixtures("cluster")
def test_a_drained_farm_ends_with_what_is_done_and_continues(store, tmp_path):
    farm, jobs = FarmDirectory(tmp_path / "farm"), jobs_of(40)
    running = Running(pool_of(slow_spec(store), farm=farm.path), jobs)
    until(lambda: "busy" in states(farm).values())
    farm.ask(Request("drain"), time.time())
    outcome = running.result()
    assert isinstance(outcome, FarmDrainedError)
    done = len(written(store))
    assert 0 < done < 40
    assert f"{done} of 40 episodes" in str(outcome)
    assert farm.read().state == "ended"
    pool_of(spec_of(store)).run(jobs)
    assert_each_once(store, jobs)


@pytest.mark.usefixtures("cluster")
def test_devices_are_rebooted_on_request(store, tmp_path):
    farm = FarmDirectory(tmp_path / "farm")
    running = Running(pool_of(slow_spec(store), workers=1, farm=farm.path), jobs_of(30))
    until(lambda: "busy" in states(farm).values())
    farm.ask(Request("restart", worker="worker-0"), time.time())
    assert running.result().stats.restarts == 1
