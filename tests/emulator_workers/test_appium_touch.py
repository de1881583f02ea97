"""Touches in pixels, the header of a PNG, and a device's session without a server: what needs no Appium."""

from __future__ import annotations

import io
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from emulator_workers.appium_server import RemoteAppium
from emulator_workers.devices.appium import AppiumDevice, check_scale, png_size, to_pixel, touch_actions
from emulator_workers.devices.base import DeviceBroken, DeviceError, DeviceUnreachable, Frame, Reset, SessionLost
from emulator_workers.processes.leases import LeaseRefusedError
from tests.emulator_workers.appium_testing import gone_within


def png(width: int = 8, height: int = 16) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (width, height)).save(encoded, "PNG")
    return encoded.getvalue()


def frame(width: int, height: int) -> Frame:
    return Frame(b"", "image/png", width, height, 0.0)


# ---- touches


@given(st.floats(-1, 2), st.integers(1, 4000))
def test_every_touch_is_on_the_screen(share, size):
    assert 0 <= to_pixel(share, size) <= size - 1


@given(st.integers(1, 4000), st.data())
def test_a_touch_is_on_the_pixel_that_holds_the_point(size, data):
    pixel = data.draw(st.integers(0, size - 1))
    assert to_pixel((pixel + 0.5) / size, size) == pixel


def test_a_tap_goes_down_waits_and_goes_up():
    (finger,) = touch_actions([(3, 4)], hold_ms=50)
    assert finger["parameters"] == {"pointerType": "touch"}
    assert [step["type"] for step in finger["actions"]] == ["pointerMove", "pointerDown", "pause", "pointerUp"]
    assert finger["actions"][0] | {"x": 3, "y": 4} == finger["actions"][0]
    assert finger["actions"][2]["duration"] == 50


def test_a_swipe_moves_while_the_finger_is_down():
    (finger,) = touch_actions([(1, 2), (3, 4)], move_ms=200)
    assert [step["type"] for step in finger["actions"]] == ["pointerMove", "pointerDown", "pointerMove", "pointerUp"]
    assert finger["actions"][2] | {"x": 3, "y": 4, "duration": 200} == finger["actions"][2]


# ---- frames


@given(st.integers(1, 50), st.integers(1, 50))
def test_the_size_is_read_from_the_header(width, height):
    assert png_size(png(width, height)) == (width, height)


@pytest.mark.parametrize("image", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" + bytes(40)])
def test_what_is_no_png_is_refused(image):
    with pytest.raises(ValueError, match="without a PNG header"):
        png_size(image)


@pytest.mark.parametrize("screen", [(412, 915), (1082, 2402), (824, 1830)])
def test_a_screenshot_may_be_the_window_enlarged(screen):
    check_scale("phone", frame(*screen), (412, 915))


@pytest.mark.parametrize("screen", [(915, 412), (412, 412)])
def test_a_screenshot_of_another_shape_than_the_window_is_an_error(screen):
    with pytest.raises(DeviceBroken, match="does not show a window of 412 x 915"):
        check_scale("phone", frame(*screen), (412, 915))


# ---- sessions


class Driver:
    """A WebDriver session that takes screenshots of ``size``."""

    def __init__(self, size=(8, 16)):
        self.size, self.quits = size, 0

    def get_screenshot_as_base64(self):
        import base64

        return base64.b64encode(png(*self.size)).decode()

    def quit(self):
        self.quits += 1


class Device(AppiumDevice):
    """A device whose session is a ``Driver``; ``log`` has what it took, gave back and restored."""

    kind = "test"

    def __init__(self, **limits):
        super().__init__("phone", RemoteAppium("http://127.0.0.1:9"), **limits)
        self.log = []

    def _capabilities(self):
        self.log.append("take")
        return {}

    def _prepare_session(self):
        pass

    def _pointer_space(self, frame):
        return frame.width, frame.height

    def _restore(self, level):
        self.log.append(level)

    def _give_back(self):
        if self.log and self.log[-1] == "take":
            self.log.append("give back")

    def type_text(self, text):
        pass

    def press(self, key):
        pass


@pytest.fixture
def sessions(monkeypatch):
    """The drivers that are opened, in turn; an exception among them is raised."""
    queue = []

    def remote(**_):
        next_one = queue.pop(0) if queue else Driver()
        if isinstance(next_one, Exception):
            raise next_one
        return next_one() if callable(next_one) else next_one

    monkeypatch.setattr("emulator_workers.devices.appium.webdriver.Remote", remote)
    return queue


def test_a_screen_that_changes_its_size_costs_the_session(sessions):
    driver = Driver()
    sessions.append(driver)
    device = Device()
    device.start()
    driver.size = (16, 8)
    with pytest.raises(SessionLost, match="the screen is 16 x 8 pixels now, not 8 x 16"):
        device.screenshot()


def test_a_start_that_fails_gives_back_what_it_took(sessions):
    sessions.append(ConnectionRefusedError())
    device = Device()
    with pytest.raises(DeviceUnreachable, match="phone: session: Appium does not answer"):
        device.start()
    assert device.log == ["take", "give back"]
    assert device.info is None


def test_starts_that_go_on_failing_restore_the_device_more_and_more(sessions):
    sessions.extend([ConnectionRefusedError()] * 3)
    device = Device()
    for _ in range(3):
        with pytest.raises(DeviceUnreachable):
            device.start()
    device.start()
    assert [each for each in device.log if isinstance(each, Reset)] == [Reset.SNAPSHOT, Reset.REBOOT, Reset.REBOOT]
    device.close()
    device.start()
    assert device.log[-1] == "take"


def test_a_device_for_which_no_port_is_left_is_to_be_replaced(monkeypatch):
    device = Device()

    def refuse():
        raise LeaseRefusedError("no system port is free")

    monkeypatch.setattr(device, "_capabilities", refuse)
    with pytest.raises(DeviceBroken, match="phone: no system port is free"):
        device.start()


def test_a_session_that_was_lost_in_a_reset_is_opened_at_the_next_one(sessions):
    device = Device()
    device.start()
    sessions.append(ConnectionRefusedError())
    with pytest.raises(DeviceUnreachable):
        device.reset(Reset.SESSION)
    assert device.reset(Reset.HOME).width == 8


def test_a_device_that_was_closed_while_it_started_keeps_no_session(sessions):
    opening, closed, late = threading.Event(), threading.Event(), Driver()

    def slow():
        opening.set()
        assert closed.wait(20)
        return late

    sessions.append(slow)
    device, errors = Device(), []

    def start():
        try:
            device.start()
        except DeviceError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    assert opening.wait(20)
    device.close()
    closed.set()
    assert gone_within(20, thread.is_alive)
    assert [str(error) for error in errors] == ["phone: closed while its session was opened"]
    assert late.quits == 1
    assert not device.healthy()
