"""A process that its owner starts, waits for, and ends for certain.

It runs in a process group of its own, writes to a log file, and is on the guard's list from its start to its confirmed
end, so that it does not outlive its owner. Waiting for it to be ready notices at once when it ends instead, and says
its last words. Ending it asks by SIGTERM, insists by SIGKILL, and takes along its group and everything that carries
its marker.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from digiq_ray.core.errors import DeadlineExceededError, DigiQError
from emulator_workers.processes.guard import GUARD, Charge, clear

FIRST_PAUSE, LAST_PAUSE = 0.02, 0.5
LAST_WORDS = 300
LONGEST_OUTPUT = 20_000


class ProcessFailedError(DigiQError):
    """A process cannot be started, or it ended when it should have gone on."""


class OwnedProcess:
    """One process and all that it starts. Not thread-safe.

    Args:
        command: The program and its arguments; no shell is involved.
        name: Shown in errors.
        log: Its stdout and stderr are appended to this file.
        env: Its whole environment; this process's by default.
        marker: On the command line of descendants that may leave its group.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        log: Path,
        env: Mapping[str, str] | None = None,
        marker: str | None = None,
    ) -> None:
        self.command, self.name, self.log = tuple(command), name, log
        self._env, self._marker = env, marker
        self._process: subprocess.Popen[bytes] | None = None
        self._charge = Charge()
        self._token: int | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """Its process id, once started."""
        return self._process.pid if self._process is not None else None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts it.

        Raises:
            ProcessFailedError: it cannot be executed, or it runs already.
        """
        if self._token is not None:
            raise ProcessFailedError(f"{self.name} was started already: stop it before it is started again")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.log.open("ab") as log:
                self._log_start = log.tell()
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._env,
                    start_new_session=True,
                )
        except OSError as error:
            raise ProcessFailedError(f"{self.name} cannot be started ({self.command[0]}): {error.strerror}") from error
        self._charge = Charge(group=self._process.pid, created=_created(self._process.pid), marker=self._marker)
        self._token = GUARD.take(self._charge)

    def wait_until(self, ready: Callable[[], bool], *, what: str, seconds: float) -> None:
        """Asks ``ready`` again and again, at growing intervals, until it says yes.

        Raises:
            ProcessFailedError: the process ended first.
            DeadlineExceededError: ``seconds`` have passed.
        """
        if self._process is None:
            raise ProcessFailedError(f"{self.name} was not started")
        deadline, pause = time.monotonic() + seconds, FIRST_PAUSE
        while not ready():
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeadlineExceededError(
                    f"{self.name}: {what} took longer than {seconds:g} s{self._said()}; see {self.log}"
                )
            if self.ended_within(min(pause, left)):
                code = self._process.returncode
                raise ProcessFailedError(f"{self.name} ended with code {code} before {what}{self._said()}")
            pause = min(1.5 * pause, LAST_PAUSE)

    def ended_within(self, seconds: float) -> bool:
        """Waits for its end, at most so long; whether it has ended."""
        if self._process is None:
            return True
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, *, term_seconds: float = 10.0, kill_seconds: float = 5.0) -> None:
        """Ends it, its group and what carries its marker. May be called twice.

        Raises:
            ProcessFailedError: something survived SIGKILL for ``kill_seconds``; the guard goes on trying at the end.
        """
        if self._process is None or self._token is None:
            return
        if self.alive:
            self._process.terminate()
            self.ended_within(term_seconds)
        left = clear(self._charge, term_seconds=term_seconds, kill_seconds=kill_seconds)
        if left or not self.ended_within(kill_seconds):
            raise ProcessFailedError(f"{self.name}: {len(left)} processes could not be ended: {left}")
        GUARD.release(self._token)
        self._token = None

    def output(self) -> str:
        """The end of what it has written since its last start."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - LONGEST_OUTPUT))
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def last_words(self) -> str:
        """The last line that it has written, shortened; empty if it said nothing."""
        lines = self.output().splitlines()
        return next((line.strip()[:LAST_WORDS] for line in reversed(lines) if line.strip()), "")

    def _said(self) -> str:
        words = self.last_words()
        return f" ({words})" if words else ""


def _created(pid: int) -> float:
    """The start time of a child that is not reaped yet, so its id is still its own."""
    return float(psutil.Process(pid).create_time())
