"""Owned processes: awaited, ended for certain with all that they started, and guarded against their owner's death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from digiq_ray.core.errors import DeadlineExceededError
from emulator_workers.processes.guard import GUARD, Charge, Guard, clear
from emulator_workers.processes.owned import OwnedProcess, ProcessFailedError
from emulator_workers.processes.sweep import end, marked, members, running
from tests.emulator_workers.appium_testing import gone_within, left_of

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
# Starts a child that leaves the group, as a browser does; the marker is on its command line.
PARENT = (
    "import subprocess, sys, time\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', sys.argv[1]], start_new_session=True)\n"
    "print('up', flush=True); time.sleep(600)"
)
OWNER = """
import os, signal, sys
from pathlib import Path
from emulator_workers.processes.owned import OwnedProcess
from emulator_workers.processes.guard import GUARD, Charge
marker, log = sys.argv[1], Path(sys.argv[2])
process = OwnedProcess([sys.executable, "-c", sys.argv[3], marker], name="x", log=log / "log", marker=marker)
process.start()
process.wait_until(lambda: "up" in process.output(), what="up", seconds=20)
GUARD.take(Charge(marker=marker, directory=str(log / "profile")))
os.kill(os.getpid(), signal.SIGKILL) if sys.argv[4] == "kill" else sys.exit(0)
"""


def python(code: str, *words: str) -> list[str]:
    return [sys.executable, "-c", code, *words]


@pytest.fixture
def make(tmp_path):
    made = []

    def make(*command: str, marker: str | None = None) -> OwnedProcess:
        made.append(OwnedProcess(command, name="the helper", log=tmp_path / "log", marker=marker))
        return made[-1]

    yield make
    for process in made:
        process.stop(term_seconds=0.1)


def up(process: OwnedProcess) -> OwnedProcess:
    process.start()
    process.wait_until(lambda: "up" in process.output(), what="being up", seconds=20)
    return process


# ---- waiting


def test_a_started_process_runs_in_a_group_of_its_own(make):
    process = up(make(*python(SLEEPER)))
    assert process.alive
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)


def test_waiting_ends_when_the_process_is_ready(make):
    assert up(make(*python(SLEEPER))).alive


def test_waiting_notices_at_once_that_the_process_ended_and_says_its_last_words(make):
    process = make(*python("import sys; print('no KVM here'); sys.exit(3)"))
    process.start()
    began = time.monotonic()
    with pytest.raises(ProcessFailedError, match=r"the helper ended with code 3 before booting \(no KVM here\)"):
        process.wait_until(lambda: False, what="booting", seconds=60)
    assert time.monotonic() - began < 20


def test_waiting_has_a_deadline_with_a_name(make):
    process = up(make(*python(SLEEPER)))
    with pytest.raises(DeadlineExceededError, match=r"the helper: booting took longer than 0.2 s \(up\)"):
        process.wait_until(lambda: False, what="booting", seconds=0.2)


def test_waiting_for_what_was_not_started_is_refused(make):
    with pytest.raises(ProcessFailedError, match="was not started"):
        make(*python(SLEEPER)).wait_until(lambda: False, what="booting", seconds=1)


def test_a_program_that_is_not_there_is_named(make):
    with pytest.raises(ProcessFailedError, match=r"cannot be started \(no-such-program\): No such file"):
        make("no-such-program").start()


def test_a_process_is_started_once(make):
    process = up(make(*python(SLEEPER)))
    with pytest.raises(ProcessFailedError, match="was started already"):
        process.start()


def test_output_is_that_of_the_last_start(make):
    process = make(*python("print('said once')"))
    for _ in range(2):
        process.start()
        assert process.ended_within(20)
        process.stop()
    assert process.output().count("said once") == 1
    assert process.log.read_text().count("said once") == 2


# ---- ending


def test_stopping_is_confirmed(make):
    process = up(make(*python(SLEEPER)))
    pid = process.pid
    process.stop()
    assert not process.alive
    assert not psutil.pid_exists(pid)


def test_what_ignores_sigterm_is_killed(make):
    process = up(make(*python(STUBBORN)))
    process.stop(term_seconds=0.2)
    assert not process.alive


def test_stopping_takes_descendants_along_that_left_the_group(make, tmp_path):
    marker = f"--marker={tmp_path}"
    process = up(make(*python(PARENT, marker), marker=marker))
    assert len(marked(marker)) == 2
    process.stop(term_seconds=0.2)
    assert left_of(marker) == []


def test_stopping_sweeps_what_a_killed_process_left_behind(make, tmp_path):
    marker = f"--marker={tmp_path}"
    process = up(make(*python(PARENT, marker), marker=marker))
    os.kill(process.pid, signal.SIGKILL)
    assert process.ended_within(20)
    assert len(marked(marker)) == 1
    process.stop(term_seconds=0.2)
    assert left_of(marker) == []


def test_stopping_twice_is_harmless(make):
    process = up(make(*python(SLEEPER)))
    process.stop()
    process.stop()
    assert not process.alive


# ---- sweeping


def test_processes_are_found_by_their_group(make):
    process = up(make(*python(SLEEPER)))
    assert [each.pid for each in members(process.pid)] == [process.pid]


def test_a_process_without_the_marker_is_not_found(make, tmp_path):
    up(make(*python(SLEEPER, f"--marker={tmp_path}")))
    assert marked(f"--marker={tmp_path}-other") == []


def test_a_marker_that_strangers_may_carry_is_refused():
    with pytest.raises(ValueError, match="too short"):
        marked("--port=80")


def test_ending_what_is_gone_already_is_harmless(make):
    process = up(make(*python(SLEEPER)))
    handle = psutil.Process(process.pid)
    process.stop()
    assert end([handle], term_seconds=0.1, kill_seconds=0.1) == []


def test_a_zombie_counts_as_gone():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    handle = psutil.Process(child.pid)
    try:
        assert gone_within(20, lambda: running(handle))
        assert handle.status() == psutil.STATUS_ZOMBIE
    finally:
        child.wait()


def test_a_group_whose_id_was_reused_is_left_alone(make):
    process = up(make(*python(SLEEPER)))
    assert clear(Charge(group=process.pid, created=1.0), term_seconds=0.1) == []
    assert process.alive


# ---- the guard


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_what_an_owner_leaves_behind_is_ended_and_its_directory_removed(tmp_path, end):
    marker = f"--marker={tmp_path}"
    (tmp_path / "profile").mkdir()
    subprocess.run(python(OWNER, marker, str(tmp_path), PARENT, end), timeout=60, check=False)
    assert gone_within(30, lambda: left_of(marker)), left_of(marker)
    assert gone_within(30, lambda: (tmp_path / "profile").exists())


def test_the_guard_ends_with_the_last_charge():
    guard = Guard()
    first, second = guard.take(Charge()), guard.take(Charge())
    handle = psutil.Process(guard.pid)
    guard.release(first)
    assert running(handle)
    guard.release(second)
    assert not running(handle)
    assert guard.pid is None


def test_a_guard_that_was_killed_is_replaced_and_knows_everything(tmp_path):
    guard = Guard()
    left = tmp_path / "left"
    left.mkdir()
    guard.take(Charge(directory=str(left)))
    killed = psutil.Process(guard.pid)
    killed.kill()
    killed.wait(20)
    second = guard.take(Charge())
    assert guard.pid != killed.pid
    guard.release(second)
    guard._process.stdin.close()  # as the owner's death does
    assert gone_within(30, left.exists)
    guard._process.wait(20)


def test_the_guard_forgets_a_process_that_was_stopped(make):
    before = dict(GUARD._charges)
    process = up(make(*python(SLEEPER)))
    assert process.pid in [charge.group for charge in GUARD._charges.values()]
    process.stop()
    assert GUARD._charges == before
