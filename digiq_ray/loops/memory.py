"""Peak memory of this process and all that it started: the sum of their proportional set sizes, each second."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import psutil


class PeakMemory:
    """Watches from entry to exit; ``peak_mb`` is the largest sum seen, in MB (10^6 bytes)."""

    def __init__(self, every: float = 1.0) -> None:
        self.peak_mb = 0.0
        self._every, self._end = every, threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(timeout=10.0)

    def _watch(self) -> None:
        while True:
            self.peak_mb = max(self.peak_mb, _sum_mb())
            if self._end.wait(self._every):
                return


def _sum_mb() -> float:
    me = psutil.Process()
    total = 0
    for process in [me, *me.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it ended, or belongs to somebody else: not ours to count
    return total / 1e6
