"""The reaper ends what a killed process leaves, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

PARENT = """
import subprocess, sys
from digiq_ray.loops.reaper import Reaper
with Reaper():
    stray = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    print(stray.pid, flush=True)
    if sys.stdin.readline() == "leave\\n":
        stray.kill()
        stray.wait()
"""


HOST = """
import subprocess, sys
from digiq_ray.loops import reaper
command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
start = lambda: subprocess.Popen(command, stdin=subprocess.PIPE)
# A shell whose child outlives it, in a session of its own: what Ray leaves when its agents lose their raylet.
leave = lambda: subprocess.run(
    ["sh", "-c", "setsid sleep 600 > /dev/null & echo $!; sleep 2.5"], stdout=subprocess.PIPE, text=True, check=True
)
before = start()
with reaper.Reaper():
    during = start()
    lost = leave().stdout
print(before.poll(), during.poll(), lost, flush=True)
before.kill(), during.kill(), before.wait(), during.wait()
"""


def _start() -> tuple[subprocess.Popen[str], psutil.Process]:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    return parent, psutil.Process(int(parent.stdout.readline()))


def test_a_killed_process_leaves_no_child() -> None:
    parent, stray = _start()
    reaper = next(child for child in psutil.Process(parent.pid).children() if child.pid != stray.pid)
    # The reaper looks once a second; it has seen the child when it has looked after the child was there.
    with pytest.raises(psutil.TimeoutExpired):
        stray.wait(timeout=2.5)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(timeout=10)
    gone, _ = psutil.wait_procs([stray, reaper], timeout=40)
    assert {process.pid for process in gone} == {stray.pid, reaper.pid}


def test_a_process_that_ends_by_itself_does_not_wait_long() -> None:
    parent, _ = _start()
    parent.communicate("leave\n", timeout=30)
    assert parent.returncode == 0


def test_a_process_that_goes_on_keeps_its_children_and_loses_what_lost_its_parent() -> None:
    """Before, a server that a test session had started was killed by any demo that ran in the session."""
    host = subprocess.run([sys.executable, "-c", HOST], capture_output=True, text=True, check=True, timeout=60)
    before, during, lost = host.stdout.split()
    assert (before, during) == ("None", "None")
    with suppress(psutil.NoSuchProcess):  # killed; init may take a moment to bury it
        psutil.Process(int(lost)).wait(timeout=20)


def test_a_killed_process_leaves_what_it_had_before() -> None:
    code = "import subprocess; before = subprocess.Popen(['sleep', '600']); print(before.pid, flush=True)" + PARENT
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    before, stray = (psutil.Process(int(parent.stdout.readline())) for _ in range(2))
    reaper = next(child for child in psutil.Process(parent.pid).children() if child not in (before, stray))
    with pytest.raises(psutil.TimeoutExpired):
        stray.wait(timeout=2.5)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(timeout=10)
    gone, _ = psutil.wait_procs([stray, reaper], timeout=40)
    try:
        assert set(gone) == {stray, reaper}
        assert before.is_running()
    finally:
        before.kill()
