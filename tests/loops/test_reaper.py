"""The reaper ends what a killed process leaves, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

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
