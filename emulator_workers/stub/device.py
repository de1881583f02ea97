"""A phone of the stub as a ``Device``: the simulated phone behind real adb, Appium and UiAutomator2 driver.

Touches, text, keys and screenshots go through Appium, as for any Android. The task, the clock and the judge's answer
go to the phone directly (``PhoneControl``), because no real phone has them.

Time passes as in ``SimulatedDevice``: a frame at each ``screenshot`` and at each ``reset``, and at nothing else that
looks at the screen (the opening of a session, ``healthy``). Whoever takes several screenshots of one moment, as a wait
for a settled screen does, calls ``next_frame`` once before them; from then on that call alone lets time pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from digiq_ray.core.tasks import Task
from emulator_workers.appium_server import AppiumEndpoint
from emulator_workers.devices.android import AndroidDevice
from emulator_workers.devices.base import DeviceInfo, Frame, Key, Reset, SessionLost
from emulator_workers.stub.phone import PhoneControl


class StubDevice:
    """A phone of an ``AndroidStub``. ``prepare`` gives it a task; ``reset`` starts that task from its seed.

    Args:
        phone: The phone; it is plugged in while the device is started.
        server: The Appium server; it runs on this host.
        name: Shown in episodes and logs; the phone's serial by default.
        capabilities: More capabilities, or others.
        limits: ``ports``, ``devices`` and the deadlines of ``AndroidDevice``.
    """

    def __init__(
        self,
        phone: PhoneControl,
        server: AppiumEndpoint,
        *,
        name: str = "",
        capabilities: Mapping[str, object] | None = None,
        **limits: Any,
    ) -> None:
        self.phone = phone
        self._name = name or phone.udid
        self._android = AndroidDevice(
            phone, server, name=self._name, prepared=True, capabilities=capabilities, **limits
        )
        self._task: Task | None = None
        self._running = self._paced = False

    @property
    def info(self) -> DeviceInfo | None:
        """Known once it is started."""
        return self._android.info

    def start(self) -> None:
        """Plugs the phone in and opens a session."""
        self._running = False
        self._android.start()

    def prepare(self, task: Task) -> None:
        """Sets the task that the next ``reset`` starts."""
        self._task, self._running = task, False

    def reset(self, level: Reset = Reset.HOME) -> Frame:
        """A fresh phone for the prepared task, in a new session above ``HOME``, restored or rebooted above that."""
        if self._task is None:
            raise SessionLost(f"{self._name}: no task; call prepare(task) first")
        self._android.reset(level)
        self.phone.begin(self._task)
        self._running, self._paced = True, False
        return self.screenshot()

    def next_frame(self) -> None:
        """Lets one frame of time pass, which the coming screenshots show until the next call."""
        self._paced = True
        self.phone.tick()

    def screenshot(self) -> Frame:
        """The next frame; the present one if ``next_frame`` was called since the reset."""
        if not self._running:
            raise SessionLost(f"{self._name}: no task is running; call prepare(task) and reset() first")
        if not self._paced:
            self.phone.tick()
        return self._android.screenshot()

    def tap(self, x: float, y: float, hold_ms: int = 50) -> None:
        """Touches ``(x, y)``; a long press acts as a tap on this phone."""
        self._android.tap(x, y, hold_ms)

    def swipe(self, x1: float, y1: float, x2: float, y2: float, duration_ms: int = 200) -> None:
        """Swipes from one point to the other."""
        self._android.swipe(x1, y1, x2, y2, duration_ms)

    def type_text(self, text: str) -> None:
        """Types; raises ``ActionRejected`` if nothing has the focus."""
        self._android.type_text(text)

    def press(self, key: Key) -> None:
        """Presses a key."""
        self._android.press(key)

    def healthy(self) -> bool:
        """Whether a screenshot comes within a short time; never raises."""
        return self._android.healthy()

    def close(self) -> None:
        """Ends the session and unplugs the phone. What the phone shows, and its faults, stay."""
        self._running = False
        self._android.close()
        self.phone.unplug()

    def succeeded(self) -> bool:
        """Whether the goal is reached now (for the oracle judge)."""
        return self.phone.succeeded()
