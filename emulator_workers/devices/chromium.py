"""Chromium as a phone: a headless browser with a phone's screen and touch, driven by Appium's Chromium driver.

Home is a page; back goes back in the tab's history, and leaves a tab that was opened from another one. Each session has
its own profile directory and chromedriver port; whatever still runs with that directory on its command line after
the session's end is ended too. Text is inserted at once where the focus is, as an on-screen keyboard does.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selenium.webdriver.remote.command import Command

from digiq_ray.core.errors import InputError
from emulator_workers.appium_server import AppiumEndpoint
from emulator_workers.devices.appium import AppiumDevice, check_scale
from emulator_workers.devices.base import ActionRejected, Frame, Key, Reset
from emulator_workers.processes.guard import GUARD, Charge, clear
from emulator_workers.processes.leases import PortKind, PortLease, PortLeases

log = logging.getLogger(__name__)

ANDROID_AGENT = (
    "Mozilla/5.0 (Linux; Android 14; Pixel 7) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/156.0.0.0 Mobile Safari/537.36"
)
FLAGS = (
    "--headless=new", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-default-browser-check",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--disable-features=Translate,OptimizationHints,MediaRouter,AutofillServerCommunication",
    "--hide-scrollbars", "--mute-audio", "--force-color-profile=srgb",
)  # fmt: skip
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ENTER = "\ue007"
_FOCUS = """
let e = document.activeElement;
while (e && e.shadowRoot && e.shadowRoot.activeElement) e = e.shadowRoot.activeElement;
if (!e) return false;
if (e.tagName === 'IFRAME' || e.isContentEditable) return true;
if (e.readOnly || e.disabled) return false;
const other = ['button', 'checkbox', 'color', 'file', 'image', 'radio', 'range', 'reset', 'submit'];
return e.tagName === 'TEXTAREA' || (e.tagName === 'INPUT' && !other.includes(e.type));
"""


@dataclass(frozen=True, slots=True)
class PhoneScreen:
    """A phone's screen: CSS pixels, and how many physical pixels each has along a side."""

    width: int = 412
    height: int = 915
    pixel_ratio: float = 1.0


def why_no_chromium() -> str | None:
    """What is missing for Chromium devices, with how to mend it; ``None`` if nothing is."""
    if shutil.which("chromedriver") is None:
        return "chromedriver is missing: install it (Debian: apt-get install chromium-driver)"
    if not any(map(shutil.which, BROWSERS)):
        return "Chromium is missing: install it (Debian: apt-get install chromium)"
    return None


class ChromiumDevice(AppiumDevice):
    """One browser.

    Args:
        name: Shown in episodes and logs.
        server: The Appium server; it runs on this host.
        home_url: The page that the home key opens.
        screen: Size and resolution.
        ports: Where the chromedriver's port comes from.
        flags: More words for the browser's command line.
        limits: ``call_seconds``, ``start_seconds``, ``idle_seconds`` of ``AppiumDevice``.
    """

    kind = "chromium"

    def __init__(
        self,
        name: str,
        server: AppiumEndpoint,
        *,
        home_url: str,
        screen: PhoneScreen | None = None,
        ports: PortLeases | None = None,
        flags: Sequence[str] = (),
        **limits: Any,
    ) -> None:
        super().__init__(name, server, **limits)
        self._home_url, self._screen = home_url, screen or PhoneScreen()
        self._ports, self._flags = ports, tuple(flags)
        self._port: PortLease | None = None
        self._charge: Charge | None = None
        self._token: int | None = None
        self._tab = ""

    def type_text(self, text: str) -> None:
        """Inserts text at the focus.

        Raises:
            ActionRejected: nothing that takes text has the focus.
        """
        if not self._call("focus", lambda driver: driver.execute_script(_FOCUS)):
            raise ActionRejected("nothing on the screen has the focus, so nothing was typed")
        if text:
            self._devtools("Input.insertText", text=text)

    def press(self, key: Key) -> None:
        """Home opens the home page in one tab; back goes back; enter is a key of the keyboard."""
        if key is Key.HOME:
            self._go_home()
        elif key is Key.BACK:
            self._go_back()
        else:
            keys = [{"type": kind, "value": ENTER} for kind in ("keyDown", "keyUp")]
            actions = [{"type": "key", "id": "keyboard", "actions": keys}]
            self._call("enter", lambda driver: driver.execute(Command.W3C_ACTIONS, {"actions": actions}))

    def run_script(self, script: str, *arguments: object) -> Any:
        """The value that a script hands to its callback, the last of its ``arguments``.

        Raises:
            DeviceError: it fails, or does not call back in time.
        """
        return self._call("script", lambda driver: driver.execute_async_script(script, *arguments))

    def reset(self, level: Reset = Reset.HOME) -> Frame:
        """The home page without a history to go back to; above ``HOME`` in a new browser with an empty profile."""
        frame = super().reset(level)
        self._devtools("Page.resetNavigationHistory")
        return frame

    def screenshot(self) -> Frame:
        """The screen of the tab that was opened last."""
        self._follow()
        return super().screenshot()

    # ---- AppiumDevice

    def _capabilities(self) -> dict[str, Any]:
        missing = why_no_chromium()
        if missing is not None:
            raise InputError(missing)
        self._port = (self._ports or PortLeases()).lease(PortKind.CHROMEDRIVER)
        directory = Path(tempfile.mkdtemp(prefix="digiq-chromium-", dir=self._server.directory)).resolve()
        self._charge = Charge(marker=str(directory), directory=str(directory))
        self._token = GUARD.take(self._charge)
        screen = self._screen
        metrics = {
            "width": screen.width,
            "height": screen.height,
            "pixelRatio": screen.pixel_ratio,
            "touch": True,
            "mobile": True,
        }
        sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()
        own = (f"--window-size={screen.width},{screen.height}", f"--user-data-dir={directory / 'profile'}")
        return {
            "platformName": "linux",
            "browserName": "chrome",
            "unhandledPromptBehavior": "dismiss",
            "appium:automationName": "Chromium",
            "appium:executable": shutil.which("chromedriver"),
            "appium:autodownloadEnabled": False,
            "appium:disableBuildCheck": True,
            "appium:chromedriverPort": self._port.port,
            "appium:logPath": str(directory / "chromedriver.log"),
            "goog:chromeOptions": {
                "binary": next(filter(None, map(shutil.which, BROWSERS))),
                "args": [*FLAGS, *sandbox, *own, *self._flags],
                "mobileEmulation": {"deviceMetrics": metrics, "userAgent": ANDROID_AGENT},
            },
        }

    def _prepare_session(self) -> None:
        driver = self._session()
        driver.command_executor.add_command("devtools", "POST", "/session/$sessionId/goog/cdp/execute")
        self._tab = self._call("tabs", lambda each: each.current_window_handle)
        self._go_home()

    def _pointer_space(self, frame: Frame) -> tuple[int, int]:
        space = self._touch_space()
        check_scale(self.name, frame, space)
        return space

    def _touch_space(self) -> tuple[int, int]:
        """The layout viewport: wider than the screen on pages that were not made for phones."""
        inner = self._call("window", lambda driver: driver.execute_script("return [innerWidth, innerHeight]"))
        return int(inner[0]), int(inner[1])

    def _restore(self, level: Reset) -> None:
        """A new session is a new browser: nothing else is left to restore."""
        del level

    def _give_back(self) -> None:
        charge, token, self._charge = self._charge, self._token, None
        if charge is not None and token is not None:
            left = clear(charge)
            if left:
                log.error("%s: processes that could not be ended: %s", self.name, left)
            else:
                GUARD.release(token)
        if self._port is not None:
            self._port.release()

    # ---- inside

    def _devtools(self, command: str, **parameters: object) -> None:
        self._call(command, lambda driver: driver.execute("devtools", {"cmd": command, "params": parameters}))

    def _go_home(self) -> None:
        tabs = self._follow()
        for tab in tabs[1:]:
            self._close_tab(tab)
        if len(tabs) > 1:
            self._switch(tabs[0])
        self._call("home", lambda driver: driver.get(self._home_url))

    def _go_back(self) -> None:
        tabs = self._follow()
        if len(tabs) > 1 and self._call("history", lambda driver: driver.execute_script("return history.length")) == 1:
            self._close_tab(tabs[-1])
            self._switch(tabs[-2])
        else:
            self._call("back", lambda driver: driver.back())

    def _follow(self) -> list[str]:
        """Turns to the tab that was opened last, as a phone's browser does; returns all tabs."""
        tabs: list[str] = self._call("tabs", lambda driver: driver.window_handles)
        if tabs and tabs[-1] != self._tab:
            self._switch(tabs[-1])
        return tabs

    def _switch(self, tab: str) -> None:
        self._call("switch of tabs", lambda driver: driver.switch_to.window(tab))
        self._tab = tab

    def _close_tab(self, tab: str) -> None:
        self._switch(tab)
        self._call("closing a tab", lambda driver: driver.close())
