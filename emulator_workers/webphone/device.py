"""The simulated phone in a real browser: a web page, driven by Appium through Chromium, as a ``Device``.

Touches, text and keys travel through Appium, chromedriver and the page to the same state machine as in
``SimulatedDevice``; screens come back as the browser's screenshots. The task and the judge's answer take no part in
that: they go to the state machine directly.

Time passes as in the process: before each screenshot the page draws the next frame. Whoever takes several screenshots
of one moment, as a wait for a settled screen does, calls ``next_frame`` once before them; from then on until the next
reset that call alone lets time pass.
"""

from __future__ import annotations

from typing import Any

from digiq_ray.core.tasks import Task
from emulator_workers.appium_server import AppiumEndpoint
from emulator_workers.devices.base import DeviceInfo, Frame, Key, Reset, SessionLost
from emulator_workers.devices.chromium import ChromiumDevice, PhoneScreen
from emulator_workers.simphone.phone import Hazards, SimPhone
from emulator_workers.simphone.style import Style
from emulator_workers.simphone.world import HEIGHT, WIDTH, Release
from emulator_workers.webphone.server import SHARED, WebPhoneServer
from emulator_workers.webphone.session import PhoneSession

_NEXT_FRAME = "nextFrame(arguments[arguments.length - 1])"
_SETTLED = "settled(arguments[arguments.length - 1])"


class WebPhoneDevice:
    """A simulated phone behind Chromium. ``prepare`` gives it a task; ``reset`` starts that task from its seed.

    Args:
        name: Shown in episodes and logs.
        server: The Appium server; it runs on this host.
        pages: Serves the phone's page.
        scale: Pixels per unit of the 96 x 192 screen.
        release, style, hazards: See ``SimPhone``.
        limits: ``ports`` of ``ChromiumDevice``, and the deadlines of ``AppiumDevice``.
    """

    def __init__(
        self,
        name: str,
        server: AppiumEndpoint,
        *,
        pages: WebPhoneServer = SHARED,
        scale: int = 1,
        release: Release = Release.UPDATED,
        style: Style | None = None,
        hazards: Hazards | None = None,
        **limits: Any,
    ) -> None:
        self.name = name
        self.info: DeviceInfo | None = None
        self._server, self._pages, self._limits = server, pages, limits
        self._scale = scale
        self._release, self._style, self._hazards = release, style, hazards
        self._session = PhoneSession(scale)
        self._task: Task | None = None
        self._url: str | None = None
        self._browser: ChromiumDevice | None = None
        self._paced = False

    @property
    def phone(self) -> SimPhone:
        """The state machine, for judges and diagnosis."""
        phone = self._session.phone
        if phone is None:
            raise SessionLost(f"{self.name}: no task is running; call prepare(task) and reset() first")
        return phone

    def start(self) -> None:
        """Opens the page in a new browser.

        Raises:
            DeviceError: there is no browser; what it took is given back.
        """
        self.close()
        self._url = self._pages.open(self._session)
        screen = PhoneScreen(WIDTH * self._scale, HEIGHT * self._scale)
        self._browser = ChromiumDevice(self.name, self._server, home_url=self._url, screen=screen, **self._limits)
        try:
            self._browser.start()
        except BaseException:
            self.close()
            raise
        self.info = self._browser.info

    def prepare(self, task: Task) -> None:
        """Sets the task that the next ``reset`` starts."""
        self._task = task
        self._session.show(None)

    def reset(self, level: Reset = Reset.HOME) -> Frame:
        """A fresh phone for the prepared task; above ``HOME`` in a new browser, also if there was none."""
        fresh = self._browser is None and level is not Reset.HOME
        if fresh:
            self.start()
        browser = self._started()
        if self._task is None:
            raise SessionLost(f"{self.name}: no task; call prepare(task) first")
        self._session.show(None)
        if level is not Reset.HOME and not fresh:
            browser.reset(level)
        browser.press(Key.HOME)
        self._paced = False
        self._session.show(SimPhone(self._task, release=self._release, style=self._style, hazards=self._hazards))
        return self.screenshot()

    def next_frame(self) -> None:
        """Lets one frame of time pass, which the coming screenshots show until the next call."""
        self._paced = True
        self._draw()

    def screenshot(self) -> Frame:
        """The next frame, as the browser shows it; the present one if ``next_frame`` was called since the reset."""
        browser = self._started()
        if not self._paced:
            self._draw()
        return browser.screenshot()

    def tap(self, x: float, y: float, hold_ms: int = 50) -> None:
        """Touches ``(x, y)``; a long press acts as a tap on this phone."""
        self._started().tap(x, y, hold_ms)

    def swipe(self, x1: float, y1: float, x2: float, y2: float, duration_ms: int = 200) -> None:
        """Swipes from one point to the other."""
        self._started().swipe(x1, y1, x2, y2, duration_ms)

    def type_text(self, text: str) -> None:
        """Types; raises ``ActionRejected`` if nothing has the focus."""
        browser = self._started()
        browser.run_script(_SETTLED)
        browser.type_text(text)

    def press(self, key: Key) -> None:
        """Presses a key."""
        browser = self._started()
        browser.run_script(_SETTLED)
        browser.press(key)

    def healthy(self) -> bool:
        """Whether the browser answers; never raises."""
        return self._browser is not None and self._browser.healthy()

    def close(self) -> None:
        """Ends the browser and forgets the phone."""
        if self._browser is not None:
            self._browser.close()
        if self._url is not None:
            self._pages.close(self._url)
        self._browser = self._url = self.info = None
        self._session.show(None)

    def succeeded(self) -> bool:
        """Whether the goal is reached now (for the oracle judge)."""
        return self.phone.succeeded()

    def _draw(self) -> None:
        """The page asks for the next frame, after all events, and draws it."""
        if self._session.phone is None:
            raise SessionLost(f"{self.name}: no task is running; call prepare(task) and reset() first")
        self._started().run_script(_NEXT_FRAME)

    def _started(self) -> ChromiumDevice:
        if self._browser is None:
            raise SessionLost(f"{self.name}: not started; call start() first")
        return self._browser
