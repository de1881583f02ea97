"""The simulated phone as a ``Device``: screenshots are PNG bytes, time passes one frame at each screenshot."""

from __future__ import annotations

import io
import time

from digiq_ray.core.tasks import Task
from emulator_workers.devices.base import ActionRejected, DeviceInfo, Frame, Key, Reset, SessionLost
from emulator_workers.simphone.phone import Hazards, SimPhone
from emulator_workers.simphone.screens import render
from emulator_workers.simphone.style import Style
from emulator_workers.simphone.world import HEIGHT, WIDTH, Release


class SimulatedDevice:
    """A phone without hardware. ``prepare`` gives it a task; ``reset`` starts that task from its seed.

    Args:
        name: Shown in episodes and logs.
        scale: Pixels per unit of the 96 x 192 screen.
        release, style, hazards: See ``SimPhone``.
    """

    def __init__(
        self,
        name: str = "simphone",
        *,
        scale: int = 1,
        release: Release = Release.UPDATED,
        style: Style | None = None,
        hazards: Hazards | None = None,
    ) -> None:
        self.info: DeviceInfo | None = None
        self._name, self._scale = name, scale
        self._release, self._style, self._hazards = release, style, hazards
        self._task: Task | None = None
        self._phone: SimPhone | None = None

    @property
    def phone(self) -> SimPhone:
        """The state machine, for judges and diagnosis."""
        if self._phone is None:
            raise SessionLost(f"{self._name}: no task is running; call prepare(task) and reset() first")
        return self._phone

    def start(self) -> None:
        """Makes the device ready."""
        self.info = DeviceInfo("simulated", self._name, WIDTH * self._scale, HEIGHT * self._scale)

    def prepare(self, task: Task) -> None:
        """Sets the task that the next ``reset`` starts."""
        self._task, self._phone = task, None

    def reset(self, level: Reset = Reset.HOME) -> Frame:
        """A fresh phone for the prepared task; every level costs the same here."""
        if self.info is None and level is not Reset.HOME:
            self.start()
        if self.info is None:
            raise SessionLost(f"{self._name}: not started; call start() first")
        if self._task is None:
            raise SessionLost(f"{self._name}: no task; call prepare(task) first")
        self._phone = SimPhone(self._task, release=self._release, style=self._style, hazards=self._hazards)
        return self.screenshot()

    def screenshot(self) -> Frame:
        """The next frame."""
        self.phone.advance()
        image = render(self.phone, self._scale)
        encoded = io.BytesIO()
        image.save(encoded, "PNG", compress_level=1)
        return Frame(encoded.getvalue(), "image/png", *image.size, time.monotonic())

    def tap(self, x: float, y: float, hold_ms: int = 50) -> None:
        """Touches ``(x, y)``; a long press acts as a tap on this phone."""
        del hold_ms
        self.phone.tap(x, y)

    def swipe(self, x1: float, y1: float, x2: float, y2: float, duration_ms: int = 200) -> None:
        """Swipes from one point to the other."""
        del duration_ms
        self.phone.swipe(x1, y1, x2, y2)

    def type_text(self, text: str) -> None:
        """Types; raises ``ActionRejected`` if nothing has the focus."""
        if not self.phone.type_text(text):
            raise ActionRejected("nothing on the screen has the focus, so nothing was typed")

    def press(self, key: Key) -> None:
        """Presses a key."""
        {Key.BACK: self.phone.press_back, Key.HOME: self.phone.press_home, Key.ENTER: self.phone.press_enter}[key]()

    def healthy(self) -> bool:
        """Always, once started."""
        return self.info is not None

    def close(self) -> None:
        """Forgets the phone."""
        self._phone, self.info = None, None

    def succeeded(self) -> bool:
        """Whether the goal is reached now (for the oracle judge)."""
        return self.phone.succeeded()
