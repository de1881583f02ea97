"""What all devices behind Appium have in common: sessions, screenshots, touches, and errors with types.

A subclass says which session it wants and how it types, presses keys and is restored. Every call to the server has a
deadline (the HTTP client's; nothing is sent twice, because a tap is not idempotent), and a session that its owner
forgets is ended by the server after ``idle_seconds``.
"""

from __future__ import annotations

import base64
import binascii
import logging
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

from appium import webdriver
from appium.options.common import AppiumOptions
from appium.webdriver.client_config import AppiumClientConfig
from selenium.webdriver.common.proxy import Proxy, ProxyType
from selenium.webdriver.remote.command import Command

from digiq_ray.core.errors import DeadlineExceededError
from emulator_workers.appium_server import AppiumEndpoint
from emulator_workers.devices.base import (
    DeviceBroken,
    DeviceError,
    DeviceInfo,
    DeviceUnreachable,
    Frame,
    Key,
    Reset,
    SessionLost,
)
from emulator_workers.devices.webdriver_errors import CLIENT_ERRORS, device_error
from emulator_workers.processes.leases import LeaseRefusedError
from emulator_workers.processes.owned import ProcessFailedError

log = logging.getLogger(__name__)

Result = TypeVar("Result")
QUIT_SECONDS = 15.0
PROBE_SECONDS = 10.0
_PNG = b"\x89PNG\r\n\x1a\n"


class AppiumDevice(ABC):
    """A device behind an Appium server.

    Args:
        name: Shown in episodes and logs.
        server: Where the session is opened.
        call_seconds: Deadline of one call.
        start_seconds: Deadline of opening a session.
        idle_seconds: The server ends a session without calls after this time.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        name: str,
        server: AppiumEndpoint,
        *,
        call_seconds: float = 30.0,
        start_seconds: float = 120.0,
        idle_seconds: int = 600,
    ) -> None:
        self.info: DeviceInfo | None = None
        self.name = name
        self._server = server
        self._call_seconds, self._start_seconds, self._idle_seconds = call_seconds, start_seconds, idle_seconds
        self._driver: Any = None
        self._client: Any = None
        self._space = (0, 0)
        self._begun = False
        self._failed_starts = 0
        self._lock = threading.Lock()
        self._life = 0  # counts sessions, so that one that opens too late is noticed

    # ---- what a subclass says

    @abstractmethod
    def _capabilities(self) -> dict[str, Any]:
        """Takes what the session needs (ports, directories) and says which session is wanted."""

    @abstractmethod
    def _prepare_session(self) -> None:
        """Settings and the first screen of a new session."""

    @abstractmethod
    def _pointer_space(self, frame: Frame) -> tuple[int, int]:
        """Width and height in the units of touches; raises ``DeviceBroken`` if the first screen does not fit them."""

    @abstractmethod
    def _restore(self, level: Reset) -> None:
        """Restores or reboots the device; no session is open."""

    @abstractmethod
    def _give_back(self) -> None:
        """Ends and gives back all that ``_capabilities`` took; never raises; may be called twice."""

    @abstractmethod
    def type_text(self, text: str) -> None:
        """See ``Device``."""

    @abstractmethod
    def press(self, key: Key) -> None:
        """See ``Device``."""

    # ---- Device

    def start(self) -> None:
        """Opens a session, in place of one that is open. After a start that failed it restores the device first.

        Raises:
            DeviceError: there is no session; what it took is given back.
            InputError: Appium, a driver or a browser is missing.
        """
        self._drop()
        life = self._life
        try:
            if self._failed_starts > 0:
                self._restore(Reset.SNAPSHOT if self._failed_starts == 1 else Reset.REBOOT)
            self._open(life)
        except LeaseRefusedError as error:
            self._drop()
            raise DeviceBroken(f"{self.name}: {error}") from error
        except (ProcessFailedError, DeadlineExceededError) as error:
            self._failed_starts += 1
            self._drop()
            raise DeviceUnreachable(f"{self.name}: {error}") from error
        except BaseException:
            self._failed_starts += 1
            self._drop()
            raise
        self._failed_starts, self._begun = 0, True

    def reset(self, level: Reset = Reset.HOME) -> Frame:
        """The home screen, in a new session for ``SESSION``, on a restored or rebooted device above that.

        A session that was lost in an earlier reset is opened again at any level; a device that was not started, or was
        closed, above ``HOME`` only.
        """
        if level is Reset.HOME and not self._begun:
            self._session()
        if level is not Reset.HOME or self._driver is None:
            self._drop()
            if level in (Reset.SNAPSHOT, Reset.REBOOT):
                self._restore(level)
            self.start()
        self.press(Key.HOME)
        return self.screenshot()

    def screenshot(self) -> Frame:
        """The screen now, as PNG.

        Raises:
            DeviceError: the device does not answer, or its screen is not as large as at the start.
        """
        frame = self._take()
        if self.info is not None and (frame.width, frame.height) != (self.info.width, self.info.height):
            raise SessionLost(
                f"{self.name}: the screen is {frame.width} x {frame.height} pixels now, "
                f"not {self.info.width} x {self.info.height} as at the start of the session"
            )
        return frame

    def tap(self, x: float, y: float, hold_ms: int = 50) -> None:
        """Touches ``(x, y)`` for ``hold_ms``."""
        self._touch("tap", [(x, y)], hold_ms=hold_ms)

    def swipe(self, x1: float, y1: float, x2: float, y2: float, duration_ms: int = 200) -> None:
        """Moves a finger from one point to the other."""
        self._touch("swipe", [(x1, y1), (x2, y2)], move_ms=duration_ms)

    def healthy(self) -> bool:
        """Whether a screenshot comes within a short time; never raises."""
        if self._driver is None:
            return False
        self._client.timeout = min(PROBE_SECONDS, self._call_seconds)
        try:
            self.screenshot()
        except DeviceError:
            return False
        finally:
            if self._client is not None:
                self._client.timeout = self._call_seconds
        return True

    def close(self) -> None:
        """Ends the session and gives everything back. May be called twice, and while a call hangs; never raises."""
        self._begun, self.info = False, None
        self._drop()

    # ---- inside

    def _open(self, life: int) -> None:
        """Opens a session and looks at the first screen.

        Args:
            life: Whose session it is; another one since then means that the device was closed meanwhile.
        """
        url = self._server.ready()
        self._client = AppiumClientConfig(
            remote_server_addr=url,
            timeout=self._start_seconds,
            proxy=Proxy(raw={"proxyType": ProxyType.DIRECT}),
            init_args_for_pool_manager={"init_args_for_pool_manager": {"retries": False}},
        )
        wanted = {"appium:newCommandTimeout": self._idle_seconds, **self._capabilities()}
        options = AppiumOptions().load_capabilities(wanted)
        driver = self._guarded("session", lambda: webdriver.Remote(options=options, client_config=self._client))
        with self._lock:
            closed = self._life != life
            if not closed:
                self._driver = driver
        if closed:
            self._quit(driver)
            raise SessionLost(f"{self.name}: closed while its session was opened")
        self._client.timeout = self._call_seconds
        self._prepare_session()
        frame = self._take()
        self._space = self._pointer_space(frame)
        self.info = DeviceInfo(self.kind, self.name, frame.width, frame.height)

    def _drop(self) -> None:
        """Ends the session, if there is one, and gives back what it took."""
        with self._lock:
            self._life += 1
            driver, self._driver = self._driver, None
        if driver is not None:
            self._quit(driver)
        self._give_back()

    def _quit(self, driver: Any) -> None:
        self._client.timeout = min(QUIT_SECONDS, self._call_seconds)
        try:
            driver.quit()
        except CLIENT_ERRORS as error:  # it is dead already; what it leaves behind is swept
            log.info("%s", device_error(error, f"{self.name}: quit"))

    # ---- for subclasses

    def _call(self, what: str, function: Callable[[Any], Result]) -> Result:
        """``function`` of the driver; raises typed errors only."""
        driver = self._session()
        return self._guarded(what, lambda: function(driver))

    def _session(self) -> Any:
        if self._driver is None:
            raise SessionLost(f"{self.name}: no session is open; call start() first")
        return self._driver

    def _touch_space(self) -> tuple[int, int]:
        """Width and height in the units of touches at this moment."""
        self._session()
        return self._space

    def _guarded(self, what: str, function: Callable[[], Result]) -> Result:
        try:
            return function()
        except CLIENT_ERRORS as error:
            raise device_error(error, f"{self.name}: {what}") from error

    def _touch(self, what: str, points: Sequence[tuple[float, float]], *, hold_ms: int = 0, move_ms: int = 0) -> None:
        width, height = self._touch_space()
        pixels = [(to_pixel(x, width), to_pixel(y, height)) for x, y in points]
        actions = touch_actions(pixels, hold_ms=hold_ms, move_ms=move_ms)
        self._call(what, lambda driver: driver.execute(Command.W3C_ACTIONS, {"actions": actions}))

    def _take(self) -> Frame:
        text = self._call("screenshot", lambda driver: driver.get_screenshot_as_base64())
        try:
            image = base64.b64decode(text or "", validate=False)
            width, height = png_size(image)
        except (binascii.Error, ValueError) as error:
            raise SessionLost(f"{self.name}: the screenshot is no PNG image: {error}") from error
        return Frame(image, "image/png", width, height, time.monotonic())


def to_pixel(share: float, size: int) -> int:
    """The pixel that holds a normalised coordinate; coordinates outside are moved to the edge."""
    return min(size - 1, max(0, int(share * size)))


def touch_actions(pixels: Sequence[tuple[int, int]], *, hold_ms: int = 0, move_ms: int = 0) -> list[dict[str, Any]]:
    """W3C actions of one finger: down at the first point, held, moved along the others, and up."""
    steps: list[dict[str, Any]] = [_move(pixels[0], 0), {"type": "pointerDown", "button": 0}]
    if hold_ms > 0:
        steps.append({"type": "pause", "duration": hold_ms})
    steps += [_move(pixel, move_ms) for pixel in pixels[1:]]
    steps.append({"type": "pointerUp", "button": 0})
    return [{"type": "pointer", "id": "finger", "parameters": {"pointerType": "touch"}, "actions": steps}]


def _move(pixel: tuple[int, int], duration_ms: int) -> dict[str, Any]:
    return {"type": "pointerMove", "duration": duration_ms, "x": pixel[0], "y": pixel[1], "origin": "viewport"}


def png_size(image: bytes) -> tuple[int, int]:
    """Width and height in pixels, read from the header.

    Raises:
        ValueError: it does not begin like a PNG image.
    """
    if len(image) < 24 or not image.startswith(_PNG):
        raise ValueError(f"{len(image)} bytes without a PNG header")
    width, height = struct.unpack(">II", image[16:24])
    return width, height


def check_scale(name: str, frame: Frame, window: tuple[int, int]) -> None:
    """Raises ``DeviceBroken`` unless the screenshot is the window, enlarged by the same factor in both directions."""
    if min(window) < 1 or abs(frame.width / window[0] - frame.height / window[1]) > 0.01 * frame.width / window[0]:
        raise DeviceBroken(
            f"{name}: a screenshot of {frame.width} x {frame.height} pixels "
            f"does not show a window of {window[0]} x {window[1]}"
        )
