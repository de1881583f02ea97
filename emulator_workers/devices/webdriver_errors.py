"""What WebDriver's and the HTTP client's errors mean for a device, as typed errors that carry their recovery.

Appium passes on the words of whatever failed below it (chromedriver, UiAutomator2, adb), so part of the mapping goes by
words; those here were all seen. What is not recognised counts as a device that needs to be restored.
"""

from __future__ import annotations

from selenium.common.exceptions import (
    ElementNotInteractableException,
    InvalidElementStateException,
    InvalidSessionIdException,
    MoveTargetOutOfBoundsException,
    NoSuchElementException,
    NoSuchWindowException,
    WebDriverException,
)
from urllib3.exceptions import HTTPError, ReadTimeoutError

from emulator_workers.devices.base import ActionRejected, DeviceError, DeviceUnreachable, Recovery, SessionLost

LONGEST = 300
CLIENT_ERRORS = (WebDriverException, HTTPError, OSError)

_LOST = (
    "could not proxy command", "socket hang up", "econnrefused", "econnreset", "instrumentation process",
    "invalid session", "session deleted", "tab crashed", "disconnected", "not reachable", "terminated or not started",
    "no such window", "web view not found", "session is either",
)  # fmt: skip
_CLASH = ("is busy", "eaddrinuse", "address already in use")
_REJECTED = (
    NoSuchElementException,
    ElementNotInteractableException,
    InvalidElementStateException,
    MoveTargetOutOfBoundsException,
)


class PortClash(DeviceError):
    """A port that the session needs is taken; the next session leases another one."""

    recovery = Recovery.NEW_SESSION


def device_error(error: Exception, what: str) -> DeviceError:
    """The typed error for what a client raised while it did ``what``.

    Args:
        error: One of ``CLIENT_ERRORS``.
        what: The device and the call, for the message.
    """
    if isinstance(error, ReadTimeoutError):
        return DeviceUnreachable(f"{what}: no answer in time")
    if not isinstance(error, WebDriverException):
        return DeviceUnreachable(f"{what}: Appium does not answer ({type(error).__name__})")
    words = first_line(error.msg or type(error).__name__)
    return _kind(error, words.lower())(f"{what}: {words}")


def _kind(error: WebDriverException, words: str) -> type[DeviceError]:
    if isinstance(error, _REJECTED):
        return ActionRejected
    if any(word in words for word in _CLASH):
        return PortClash
    if isinstance(error, InvalidSessionIdException | NoSuchWindowException) or any(word in words for word in _LOST):
        return SessionLost
    return DeviceUnreachable


def first_line(text: str) -> str:
    """The first line that says something, shortened, without the client's advertisement of its documentation."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line.partition("; For documentation on this error")[0][:LONGEST]
