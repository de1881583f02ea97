"""The phases of a device's work, how long each took, and how long each may take.

A ``Watch`` belongs to one environment. The thread that works there says which phase goes on; any other thread may ask,
so that a supervisor can tell a device that hangs in a reset from one that is slow in a step. What bounds a phase is its
deadline in ``Deadlines``; a device that runs past it counts as hung and is not waited for.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from emulator_workers.devices.base import DeviceError, Recovery


class Phase(enum.StrEnum):
    """What a device, or who waits for it, is doing."""

    BOOT = "boot"
    RESET = "reset"
    RECOVER = "recover"
    ACT = "act"
    SETTLE = "settle"
    JUDGE = "judge"
    POLICY = "policy"


class DeviceHung(DeviceError):
    """A device ran past the deadline of a phase; the call is abandoned with it."""

    recovery = Recovery.REPLACE_DEVICE


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Most seconds of each phase. ``act`` and ``settle`` are the two halves of a step."""

    boot: float = 600.0
    reset: float = 120.0
    recover: float = 600.0
    act: float = 60.0
    settle: float = 60.0
    judge: float = 120.0
    policy: float = 300.0

    def of(self, phase: Phase) -> float:
        """The deadline of ``phase`` in seconds."""
        seconds: float = getattr(self, phase.value)
        return seconds

    @property
    def shortest(self) -> float:
        """The shortest of them: how often somebody has to look."""
        return min(self.of(phase) for phase in Phase)


class Watch:
    """Tells which phase goes on, and adds up what each has taken. One thread writes, any may read.

    Attributes:
        seconds: Time spent in each phase since the watch was made; the phase that goes on is not in it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds: dict[Phase, float] = dict.fromkeys(Phase, 0.0)
        self._clock = clock
        self._now: tuple[Phase, float] | None = None

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Books the time inside on ``phase``. Phases do not nest."""
        began = self._clock()
        self._now = (phase, began)
        try:
            yield
        finally:
            self._now = None
            self.seconds[phase] += self._clock() - began

    def current(self) -> tuple[Phase, float] | None:
        """The phase that goes on and its seconds so far; ``None`` between phases."""
        now = self._now
        return None if now is None else (now[0], self._clock() - now[1])

    def overrun(self, deadlines: Deadlines) -> DeviceHung | None:
        """The error to raise in the name of a device whose phase has run past its deadline, else ``None``.

        The policy is no device: who asks it has a deadline of their own.
        """
        current = self.current()
        if current is None or current[0] is Phase.POLICY or current[1] <= deadlines.of(current[0]):
            return None
        phase, seconds = current
        return DeviceHung(
            f"the device hangs in {phase} for {seconds:.1f} s (deadline {deadlines.of(phase):g} s); it is given up"
        )
