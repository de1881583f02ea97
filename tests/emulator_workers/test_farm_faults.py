"""Faults in the middle of episodes of a real farm: Ray, real Appium, the real driver and adb, phones of the stub.

One run of one pool meets all of them; the tests look at what it left: episodes, statistics, logs, processes.
"""

from __future__ import annotations

import functools
import logging
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import ray
from stub_farm import AT, HORIZON, BackAndForth, fault_task, make_stub_environment, read

from digiq_ray.store.episodes import EpisodeStore
from emulator_workers.farm_state import FarmDirectory
from emulator_workers.jobs import make_jobs
from emulator_workers.pool import EmulatorPool, PoolReport
from emulator_workers.processes.sweep import running
from emulator_workers.stub.faults import StubFault
from emulator_workers.worker import WorkerSpec
from tests.emulator_workers.appium_testing import (
    adb_processes,
    gone_within,
    left_of,
    listens,
    need_adb,
    need_appium,
)

ENDS_THE_TRY = {
    StubFault.UIA2_CRASH: {"SessionLost"},
    StubFault.STOLEN_SESSION: {"SessionLost"},
    StubFault.PORT_CLASH: {"SessionLost"},  # what strikes with it; the clash itself meets the next session
    StubFault.ADB_OFFLINE: {"SessionLost", "DeviceUnreachable"},
    StubFault.WRONG_SIZE: {"SessionLost"},
    StubFault.TRUNCATED_SCREENSHOT: {"BrokenFrame"},
    StubFault.SLOW_SCREENSHOT: {"DeviceUnreachable", "SessionLost"},
}
"""The causes under which each is counted; the other faults are the agent's business."""
AT_EACH_TRY = (StubFault.UIA2_CRASH, StubFault.TRUNCATED_SCREENSHOT)
"""No try of theirs is finished."""
FROZEN = fault_task(StubFault.FROZEN_SCREENSHOT, "each")
"""At each try: what another task's fault left on the phone may end the first one, whose rows are then gone."""
RETRIES = 3
FINE = 4
FAILURE = re.compile(r": try (\d+) of (\S+) failed \((\w+): ")


@dataclass(frozen=True)
class Outcome:
    """What the run left."""

    report: PoolReport
    store: EpisodeStore
    diary: Path
    failures: list[tuple[str, str]]
    """Task and cause of each failure that the workers logged, in the order of each worker."""

    def rows(self, task_id: str) -> list[dict]:
        columns = ["task_id", "step", "stop_reason", "is_last", "is_terminal", "reward", "settle_tag"]
        return [row for row in self.store.table(columns).to_pylist() if row["task_id"] == task_id]

    def causes(self, task_id: str) -> list[str]:
        return [cause for task, cause in self.failures if task == task_id]

    def strikes(self, task_id: str) -> int:
        return sum(line.startswith(task_id.replace("/", " ")) for line in read(self.diary, "struck"))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    need_appium()
    need_adb()
    here, place = Path(__file__).parent, tmp_path_factory.mktemp("farm-faults")
    (diary := place / "diary").mkdir()
    store, farm = EpisodeStore.create(place / "episodes"), FarmDirectory(place / "farm")
    tasks = [fault_task(fault) for fault in StubFault] + [fault_task(fault, "each") for fault in AT_EACH_TRY]
    tasks += [FROZEN, *(fault_task(None, number=number) for number in range(FINE))]
    spec = WorkerSpec(
        make_environment=functools.partial(make_stub_environment, diary),
        make_policy=BackAndForth,
        store_path=str(store.path),
        slots=1,
        concurrent=True,
        flush_episodes=1,
        device_retries=RETRIES,
    )
    paths = f"{here}:{here.parents[1]}"
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )
    try:
        pool = EmulatorPool(spec, workers=2, probe_seconds=0.5, stall_seconds=60, farm=farm.path)
        report = pool.run(make_jobs(tasks, run="faults"))
    finally:
        ray.shutdown()
    # On a busy machine one worker may have done everything before the other was there.
    busy = [worker.name for worker in farm.read().workers if farm.log_path(worker.name).is_file()]
    lines = [line for name in busy for line in farm.log_lines(name, 10_000)]
    found = [match for line in lines if (match := FAILURE.search(line))]
    return Outcome(report, store, diary, [(match[2], match[3]) for match in found])


def test_every_job_ends_in_an_episode_and_no_worker_is_lost(outcome):
    jobs = len(StubFault) + len(AT_EACH_TRY) + len([FROZEN]) + FINE
    assert outcome.store.summary().episodes == outcome.report.jobs == jobs
    assert outcome.report.losses == {}


@pytest.mark.parametrize("fault", list(StubFault))
def test_an_episode_that_a_fault_struck_once_is_whole(outcome, fault):
    task = fault_task(fault).task_id
    rows = outcome.rows(task)
    assert outcome.strikes(task) == 1
    assert [row["step"] for row in rows] == list(range(HORIZON + 1))
    assert {row["stop_reason"] for row in rows} == {"time_limit"}
    assert not any(row["is_terminal"] for row in rows)


@pytest.mark.parametrize("fault", ENDS_THE_TRY)
def test_a_fault_that_ends_a_try_is_counted_under_its_cause(outcome, fault):
    causes = outcome.causes(fault_task(fault).task_id)
    assert ENDS_THE_TRY[fault] & set(causes)
    assert outcome.report.stats.device_errors.keys() >= set(causes)


@pytest.mark.parametrize("fault", [fault for fault in StubFault if fault not in ENDS_THE_TRY])
def test_a_fault_that_only_shows_on_the_screen_costs_no_try(outcome, fault):
    mine = ENDS_THE_TRY[StubFault.ADB_OFFLINE] | {"PortClash"}  # what another task's fault may have left to this one
    assert set(outcome.causes(fault_task(fault).task_id)) <= mine
    assert len(outcome.causes(fault_task(fault).task_id)) <= 2


def test_a_frozen_screen_is_tagged_in_the_statistics_and_in_the_episode(outcome):
    assert outcome.report.stats.tags.get("frozen", 0) >= 1
    tags = [row["settle_tag"] for row in outcome.rows(FROZEN.task_id)]
    assert tags[:AT] == [None] * AT
    assert "frozen" in tags


@pytest.mark.parametrize("fault", AT_EACH_TRY)
def test_an_episode_that_no_device_could_finish_is_truncated_and_never_terminal(outcome, fault):
    task = fault_task(fault, "each").task_id
    rows = outcome.rows(task)
    assert {row["stop_reason"] for row in rows} == {"device_error"}
    assert len(outcome.causes(task)) == RETRIES + 1
    assert [row["step"] for row in rows if row["is_last"]] == [len(rows) - 1]
    assert len(rows) <= AT
    assert not any(row["is_terminal"] or row["reward"] for row in rows)


def test_the_other_jobs_are_done_as_if_nothing_had_happened(outcome):
    for number in range(FINE):
        rows = outcome.rows(fault_task(None, number=number).task_id)
        assert {row["stop_reason"] for row in rows} == {"success"}
        assert [row["is_terminal"] for row in rows] == [False, True]


def test_the_statistics_count_every_failure_once_and_what_was_done_about_it(outcome):
    stats = outcome.report.stats
    assert stats.device_errors == Counter(cause for _, cause in outcome.failures)
    assert stats.device_errors["PortClash"] == 1
    assert sum(stats.recoveries.values()) == sum(stats.device_errors.values())
    assert stats.retries == sum(stats.device_errors.values()) - len(AT_EACH_TRY)
    assert {"new_session", "snapshot"} <= stats.recoveries.keys()


def test_nothing_is_left_running_or_listening(outcome):
    directories, ports = read(outcome.diary, "directory"), [int(port) for port in read(outcome.diary, "port")]
    assert len(directories) >= 2
    assert all(gone_within(20, functools.partial(left_of, name)) for name in directories)
    pids = [int(pid) for pid in read(outcome.diary, "process")]
    assert len(pids) >= 4
    assert gone_within(20, lambda: [pid for pid in pids if psutil.pid_exists(pid) and running(psutil.Process(pid))])
    assert gone_within(20, lambda: [port for port in ports if listens(port) or adb_processes(port)])
