"""A small process that ends what a killed command leaves behind.

Ray's own agents outlive a driver that died by ``kill -9``. The reaper holds one end of a pipe whose other end only the
command has: when the pipe closes, however the command ended, it gives the descendants that the command got meanwhile
``GRACE`` seconds to end by themselves and then kills those that have lost their parent. What the command had started
before, and what a command that goes on still has, is its own business. Processes are known by id and start time, so a
stranger that was given a reused id is never ended.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Collection, Set
from contextlib import suppress
from types import TracebackType
from typing import Self

import psutil

GRACE = 8.0
LOOK_EVERY = 1.0


class Reaper:
    """Starts the process; leaving the context closes the pipe."""

    def __enter__(self) -> Self:
        others = psutil.Process().children(recursive=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "digiq_ray.loops.reaper", str(os.getpid()), *(str(other.pid) for other in others)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=2 * GRACE)


def watch(parent: int, others: Collection[int]) -> None:
    """Remembers the descendants of ``parent`` until stdin closes, then ends those that are left without it.

    Args:
        parent: Process id of the command.
        others: Process ids of descendants that it had before; they and their descendants are let alone.
    """
    seen: set[psutil.Process] = set()
    spared = set(map(psutil.Process, filter(psutil.pid_exists, others))) | {psutil.Process()}
    while True:
        seen |= _descendants(parent, spared)
        ready, _, _ = select.select([sys.stdin], [], [], LOOK_EVERY)
        if ready and not os.read(sys.stdin.fileno(), 1):
            break
    _, alive = psutil.wait_procs(list(seen), timeout=GRACE)
    for process in set(alive) - _descendants(parent, spared):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _descendants(process: int, spared: Set[psutil.Process]) -> set[psutil.Process]:
    """Those of a process, without the spared ones and theirs; none if it has ended."""
    try:
        children = set(psutil.Process(process).children()) - spared
    except psutil.NoSuchProcess:
        return set()
    return children.union(*(_descendants(child.pid, spared) for child in children))


if __name__ == "__main__":
    watch(int(sys.argv[1]), [int(other) for other in sys.argv[2:]])
