"""The pools; those on Ray run on a local cluster of two processors, which is ended with the module."""

import functools
import logging
from pathlib import Path

import psutil
import pyarrow.parquet
import pytest
import ray
from fake_phones import DicePolicy, make_fake_environment, make_fatal_environment, page_task

from digiq_ray.core.errors import DeadlineExceededError, DigiQError, InputError, ModelError, WorkerLostError
from digiq_ray.store.episodes import EpisodeStore
from emulator_workers.pool import EmulatorPool, SerialPool
from emulator_workers.rollout import make_jobs
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
    with pytest.raises(DeadlineExceededError, match=r"no emulator worker was ready within 1 s.*1 android"):
        pool.run(jobs_of(2))


@pytest.mark.usefixtures("cluster")
def test_nothing_is_started_when_everything_is_done(store, monkeypatch):
    jobs = jobs_of(4)
    SerialPool(spec_of(store)).run(jobs)
    pool = pool_of(spec_of(store))
    monkeypatch.setattr(pool, "hire", lambda: pytest.fail("a worker was made"))
    report = pool.run(jobs)
    assert (report.skipped, report.stats.episodes) == (4, 0)
