"""Finding processes by group or by a marker on their command line, and ending them so that it is certain.

A marker is a text that is on no other command line, such as the path of a fresh directory. Only processes of the same
user are looked at, and each is known by its id and its start time, so a stranger with a reused id is never touched.
A process that has ended but that nobody has reaped (a zombie) counts as gone. Every wait has a deadline.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

import psutil

MIN_MARKER = 12


def running(process: psutil.Process) -> bool:
    """Whether the process still runs: neither gone nor a zombie."""
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def marked(marker: str) -> list[psutil.Process]:
    """This user's running processes whose command line holds ``marker``, but for this process.

    Raises:
        ValueError: the marker is too short to be unique.
    """
    if len(marker) < MIN_MARKER:
        raise ValueError(f"marker {marker!r} is too short to be on one command line only")
    return _own(lambda process: any(marker in word for word in process.cmdline()))


def members(group: int) -> list[psutil.Process]:
    """This user's running processes in a process group."""
    return _own(lambda process: os.getpgid(process.pid) == group)


def end(processes: Iterable[psutil.Process], *, term_seconds: float, kill_seconds: float) -> list[psutil.Process]:
    """SIGTERM, and after ``term_seconds`` SIGKILL for those that are left.

    Returns:
        Processes that still run ``kill_seconds`` after their SIGKILL; empty unless the kernel holds one.
    """
    left = _signalled(processes, psutil.Process.terminate, term_seconds)
    return _signalled(left, psutil.Process.kill, kill_seconds)


def _own(belongs: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    return [process for process in _of_this_user() if _holds(process, belongs) and running(process)]


def _of_this_user() -> Iterator[psutil.Process]:
    user, me = os.getuid(), os.getpid()
    for process in psutil.process_iter():
        if process.pid != me and _holds(process, lambda each: each.uids().real == user):
            yield process


def _holds(process: psutil.Process, fact: Callable[[psutil.Process], bool]) -> bool:
    """``fact`` of a process; false if it ended meanwhile or its owner hides it."""
    try:
        return fact(process)
    except (psutil.Error, ProcessLookupError, PermissionError):
        return False


def _signalled(
    processes: Iterable[psutil.Process], signal: Callable[[psutil.Process], None], seconds: float
) -> list[psutil.Process]:
    """Sends a signal to those that run; returns those that run ``seconds`` later."""
    told = [process for process in processes if running(process) and _holds(process, _sent(signal))]
    psutil.wait_procs(told, timeout=seconds)
    return [process for process in told if running(process)]


def _sent(signal: Callable[[psutil.Process], None]) -> Callable[[psutil.Process], bool]:
    def send(process: psutil.Process) -> bool:
        signal(process)
        return True

    return send
