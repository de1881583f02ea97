"""A small process that ends what a killed command leaves behind.

Ray's own agents outlive a driver that died by ``kill -9``. The reaper holds one end of a pipe whose other end only the
command has: when the pipe closes, however the command ended, it gives the command's descendants ``GRACE`` seconds to
end by themselves and then kills those that it has seen. It knows them by process id and start time, so it never ends a
stranger that was given a reused id.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from types import TracebackType
from typing import Self

import psutil

GRACE = 8.0
LOOK_EVERY = 1.0


class Reaper:
    """Starts the process; leaving the context closes the pipe."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "digiq_ray.loops.reaper", str(os.getpid())],
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


def watch(parent: int) -> None:
    """Remembers the descendants of ``parent`` until stdin closes, then ends those that are left."""
    seen: set[psutil.Process] = set()
    while True:
        try:
            seen |= set(psutil.Process(parent).children(recursive=True))
        except psutil.NoSuchProcess:
            break
        ready, _, _ = select.select([sys.stdin], [], [], LOOK_EVERY)
        if ready and not os.read(sys.stdin.fileno(), 1):
            break
    seen.discard(psutil.Process())
    _, alive = psutil.wait_procs(list(seen), timeout=GRACE)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


if __name__ == "__main__":
    watch(int(sys.argv[1]))
