"""A small process that ends what a killed worker leaves behind.

The owner tells it over a pipe what it has started: process groups, markers of processes that leave their group (a
browser does), directories to remove. When the pipe closes, however the owner ended, the guard ends what is still on
its list, so that a worker that dies by ``kill -9`` leaves no Appium, browser or emulator. It runs only while there is
something to look after, in a session of its own, so that what kills the owner's group does not kill it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from emulator_workers.processes.sweep import end, marked, members

TERM_SECONDS = 5.0
KILL_SECONDS = 5.0
STOP_SECONDS = 10.0
CLOCK_JITTER = 2.0  # start times are relative to a boot time that the kernel rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What is ended when the owner is gone.

    Attributes:
        group: A process group, named by its leader's id.
        created: The leader's start time in seconds since the epoch, so that a reused id is told apart.
        marker: On the command line of each process that belongs to it.
        directory: Removed at last.
    """

    group: int | None = None
    created: float = 0.0
    marker: str | None = None
    directory: str | None = None

    def processes(self) -> list[psutil.Process]:
        """Those that run."""
        found = marked(self.marker) if self.marker is not None else []
        if self.group is not None and not _reused(self.group, self.created):
            found += [process for process in members(self.group) if process not in found]
        return found


def _reused(pid: int, created: float) -> bool:
    try:
        return bool(abs(psutil.Process(pid).create_time() - created) > CLOCK_JITTER)
    except psutil.NoSuchProcess:
        return False  # no process can be given the id of a group that still has members


def clear(
    charge: Charge, *, term_seconds: float = TERM_SECONDS, kill_seconds: float = KILL_SECONDS
) -> list[psutil.Process]:
    """Ends what belongs to a charge and removes its directory; returns what could not be ended.

    It looks twice, because a process that is being ended may have started another one.
    """
    for _ in range(2):
        left = end(charge.processes(), term_seconds=term_seconds, kill_seconds=kill_seconds)
        if not left and not charge.processes():
            break
    if charge.directory is not None:
        shutil.rmtree(charge.directory, ignore_errors=True)
    return charge.processes()


class Guard:
    """The owner's side. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._charges: dict[int, Charge] = {}
        self._tokens = 0
        self._owner = os.getpid()
        self._process: subprocess.Popen[str] | None = None

    def take(self, charge: Charge) -> int:
        """Looks after ``charge`` until ``release`` is called with the token that this returns."""
        with self._lock:
            if self._owner != os.getpid():  # a fork: what is on the list is the parent's
                self._owner, self._charges, self._process = os.getpid(), {}, None
            self._tokens += 1
            self._charges[self._tokens] = charge
            self._tell(self._tokens, charge)
            return self._tokens

    def release(self, token: int) -> None:
        """Forgets a charge, because its owner has ended it. The last one ends the guard."""
        with self._lock:
            if self._owner != os.getpid() or self._charges.pop(token, None) is None:
                return
            self._tell(token, None)
            if not self._charges:
                self._stop()

    @property
    def pid(self) -> int | None:
        """The guard's process while there is one."""
        return self._process.pid if self._process is not None else None

    def _tell(self, token: int, charge: Charge | None) -> None:
        """Sends one line; a guard that is gone is replaced and told everything."""
        try:
            if self._process is None or self._process.poll() is not None:
                raise BrokenPipeError
            self._send(token, charge)
        except BrokenPipeError:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[2]), *sys.path))},
            )
            for each, known in self._charges.items():
                self._send(each, known)

    def _send(self, token: int, charge: Charge | None) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        known = dataclasses.asdict(charge) if charge is not None else None
        self._process.stdin.write(json.dumps([token, known]) + "\n")
        self._process.stdin.flush()

    def _stop(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait(STOP_SECONDS)
        self._process = None


GUARD = Guard()
"""This process's guard."""


def watch(lines: IO[str] | Iterable[str]) -> None:
    """The guard's side: keeps the list until the pipe closes, then clears it."""
    charges: dict[int, Charge] = {}
    for line in lines:
        token, known = json.loads(line)
        if known is None:
            charges.pop(token, None)
        else:
            charges[token] = Charge(**known)
    for charge in charges.values():
        clear(charge)


if __name__ == "__main__":
    watch(sys.stdin)
