"""The ``Device`` protocol: a thing with a screen that takes touches, text and keys.

Android through Appium, Chromium through Appium and the simulated phone all look like this. Errors are typed and carry
what mends them, so that whoever supervises a device needs to know nothing else about it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from digiq_ray.core.errors import DigiQError


class Key(enum.Enum):
    """Hardware or navigation keys."""

    BACK = "back"
    HOME = "home"
    ENTER = "enter"


class Reset(enum.Enum):
    """How thoroughly a device is reset, in rising cost."""

    HOME = 0
    SESSION = 1
    SNAPSHOT = 2
    REBOOT = 3


class Recovery(enum.Enum):
    """What mends an error, in rising cost."""

    NONE = 0
    NEW_SESSION = 1
    RESTORE_DEVICE = 2
    REPLACE_DEVICE = 3


class DeviceError(DigiQError):
    """A device failed; ``recovery`` says what mends it. The episode is truncated, never failed."""

    recovery = Recovery.RESTORE_DEVICE


class SessionLost(DeviceError):
    """The automation session is gone; the device itself is fine."""

    recovery = Recovery.NEW_SESSION


class DeviceUnreachable(DeviceError):
    """The device does not answer."""

    recovery = Recovery.RESTORE_DEVICE


class DeviceBroken(DeviceError):
    """The device answers wrongly and a restore did not help."""

    recovery = Recovery.REPLACE_DEVICE


class ActionRejected(DeviceError):
    """The device refuses an action in its present state (typing with nothing focused): a bad action, no fault."""

    recovery = Recovery.NONE


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """Identity of a device and the size of its screenshots in pixels."""

    kind: str
    name: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One screenshot: encoded bytes, their MIME type, size in pixels, and when it was taken (``time.monotonic``)."""

    image: bytes
    mime: str
    width: int
    height: int
    monotonic: float


class Device(Protocol):
    """One phone. Coordinates are normalised to [0, 1]; times are milliseconds. Not thread-safe.

    Every method but ``close`` and ``healthy`` may raise a ``DeviceError``.
    """

    @property
    def info(self) -> DeviceInfo | None:
        """Known once it was started."""
        ...

    def start(self) -> None:
        """Makes the device ready; ``info`` is known afterwards."""
        ...

    def reset(self, level: Reset = Reset.HOME) -> Frame:
        """Brings the device back to its home screen and returns the first frame.

        Above ``HOME`` it starts a device that is not started.
        """
        ...

    def screenshot(self) -> Frame:
        """The screen now."""
        ...

    def tap(self, x: float, y: float, hold_ms: int = 50) -> None:
        """Touches ``(x, y)`` for ``hold_ms``; a long press is a long hold."""
        ...

    def swipe(self, x1: float, y1: float, x2: float, y2: float, duration_ms: int = 200) -> None:
        """Moves a finger in a straight line."""
        ...

    def type_text(self, text: str) -> None:
        """Types into what has the focus; raises ``ActionRejected`` if nothing has."""
        ...

    def press(self, key: Key) -> None:
        """Presses a key."""
        ...

    def healthy(self) -> bool:
        """Whether the device answers; never raises."""
        ...

    def close(self) -> None:
        """Gives everything back. May be called twice; never raises."""
        ...
