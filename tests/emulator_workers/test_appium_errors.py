"""What the errors of WebDriver and of the HTTP client mean, word by word as they were seen."""

from __future__ import annotations

import pytest
from selenium.common.exceptions import (
    InvalidElementStateException,
    InvalidSessionIdException,
    NoSuchElementException,
    NoSuchWindowException,
    SessionNotCreatedException,
    TimeoutException,
    WebDriverException,
)
from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError, ReadTimeoutError

from emulator_workers.devices.base import ActionRejected, DeviceUnreachable, Recovery, SessionLost
from emulator_workers.devices.webdriver_errors import LONGEST, PortClash, device_error, first_line

PROXY = "Could not proxy command to the remote server. Original error: "


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (WebDriverException(PROXY + "socket hang up"), SessionLost),
        (WebDriverException(PROXY + "connect ECONNREFUSED 127.0.0.1:18200"), SessionLost),
        (WebDriverException("The instrumentation process is not running (probably crashed)"), SessionLost),
        (InvalidSessionIdException("A session is either terminated or not started"), SessionLost),
        (WebDriverException("tab crashed"), SessionLost),
        (WebDriverException("disconnected: not connected to DevTools"), SessionLost),
        (WebDriverException("chrome not reachable"), SessionLost),
        (NoSuchWindowException("no such window: target window already closed"), SessionLost),
        (WebDriverException("Device emulator-5554 was not in the list of connected devices"), DeviceUnreachable),
        (WebDriverException("Could not find a connected Android device in 20000ms"), DeviceUnreachable),
        (WebDriverException("Error executing adbExec. Original error: device offline"), DeviceUnreachable),
        (SessionNotCreatedException("session not created: Chrome failed to start: crashed."), DeviceUnreachable),
        (TimeoutException("script timeout"), DeviceUnreachable),
        (WebDriverException("something that nobody has seen yet"), DeviceUnreachable),
        (WebDriverException("UiAutomator2 Server cannot start because the local port #18200 is busy"), PortClash),
        (WebDriverException("listen EADDRINUSE: address already in use 127.0.0.1:19515"), PortClash),
        (NoSuchElementException("no focus"), ActionRejected),
        (InvalidElementStateException("Cannot set the element to 'x'"), ActionRejected),
        (ReadTimeoutError(None, "/", "Read timed out."), DeviceUnreachable),
        (MaxRetryError(None, "/", NewConnectionError(None, "refused")), DeviceUnreachable),
        (ProtocolError("Connection aborted."), DeviceUnreachable),
        (ConnectionResetError("reset"), DeviceUnreachable),
    ],
    ids=lambda value: getattr(value, "__name__", "") or str(value)[:40].replace("\n", " "),
)
def test_an_error_becomes_the_type_that_mends_it(error, kind):
    assert type(device_error(error, "phone: tap")) is kind


def test_a_port_clash_is_mended_by_a_new_session():
    assert PortClash.recovery is Recovery.NEW_SESSION


def test_the_message_is_one_line_that_names_the_device_and_the_call():
    error = device_error(WebDriverException("\nunknown error: bad\nStacktrace:\n#0 0x55\n"), "phone: tap")
    assert str(error) == "phone: tap: unknown error: bad"


def test_the_clients_advertisement_is_left_out():
    assert first_line("no focus; For documentation on this error, please visit: https://example") == "no focus"


def test_long_words_are_shortened():
    assert len(first_line("x" * 5000)) == LONGEST


def test_an_error_without_words_is_named_by_its_type():
    assert str(device_error(WebDriverException(None), "phone: tap")) == "phone: tap: WebDriverException"
