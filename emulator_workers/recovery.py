"""The recovery ladder: what is done to a device that failed, more thoroughly with each failure.

Relaunch the app, begin a new session, load the snapshot, reboot, replace the device, and at last give up its place.
A failure is answered by at least what its error asks for. It is answered by one rung more than the failure before if
the device had not worked for ``STEADY_STEPS`` since, because then the fault is the same one; a fault that comes after
some good steps is a new one, but only ``LATE_FAILURES`` times until an episode has been finished, so that a device that
always fails late climbs too. A replaced device is put in quarantine (it is not used again in this run) and a spare
takes its place. What bounds it is ``quarantine_after``: so
many resets that fail in a row, over all devices of the place, mean that no device will do.
"""

from __future__ import annotations

import enum

from emulator_workers.devices.base import Recovery, Reset

STEADY_STEPS = 5
LATE_FAILURES = 2


class Rung(enum.IntEnum):
    """What is done next, in rising cost."""

    RELAUNCH_APP = 0
    NEW_SESSION = 1
    SNAPSHOT = 2
    REBOOT = 3
    REPLACE = 4
    GIVE_UP = 5


_ASKED = {
    Recovery.NONE: Rung.RELAUNCH_APP,
    Recovery.NEW_SESSION: Rung.NEW_SESSION,
    Recovery.RESTORE_DEVICE: Rung.SNAPSHOT,
    Recovery.REPLACE_DEVICE: Rung.REPLACE,
}
_RESETS = {
    Rung.RELAUNCH_APP: Reset.HOME,
    Rung.NEW_SESSION: Reset.SESSION,
    Rung.SNAPSHOT: Reset.SNAPSHOT,
    Rung.REBOOT: Reset.REBOOT,
}


class Ladder:
    """The state of one place: how high it has climbed, and how many resets failed in a row.

    Args:
        quarantine_after: Failed resets in a row after which the place is given up.
    """

    def __init__(self, quarantine_after: int) -> None:
        self._quarantine_after = quarantine_after
        self._climbed: Rung | None = None
        self._late_failures = 0
        self.failed_resets = 0

    @property
    def rung(self) -> Rung | None:
        """What the last failure asks for; ``None`` when the device is in good order."""
        return self._climbed

    @property
    def reset(self) -> Reset:
        """How thoroughly the next reset has to be; a replaced device needs no more than any new one."""
        return _RESETS.get(self._climbed, Reset.HOME) if self._climbed is not None else Reset.HOME

    def failed(self, recovery: Recovery, *, in_reset: bool, good_steps: int = 0) -> Rung:
        """Climbs after a failure; returns what is to be done.

        Args:
            recovery: What the error asks for.
            in_reset: Whether it was a reset, or the start, that failed.
            good_steps: How many steps the device had taken since it was reset.
        """
        self.failed_resets += in_reset
        late = good_steps >= STEADY_STEPS and self._late_failures < LATE_FAILURES
        self._late_failures += late
        if self.failed_resets >= self._quarantine_after:
            self._climbed = Rung.GIVE_UP
        elif self._climbed in (None, Rung.REPLACE) or late:
            self._climbed = _ASKED[recovery]
        else:
            self._climbed = Rung(min(max(_ASKED[recovery], self._climbed + 1), Rung.REPLACE))
        return self._climbed

    def was_reset(self) -> None:
        """A reset went well: failed resets no longer add up."""
        self.failed_resets = 0

    def finished(self) -> None:
        """An episode was finished: the device is in good order."""
        self._climbed, self._late_failures, self.failed_resets = None, 0, 0
