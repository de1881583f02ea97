"""Chromium as a phone, through a real Appium server: tabs, pages that are not for phones, deaths, and its pace."""

from __future__ import annotations

import os
import signal
import statistics
import time

import psutil
import pytest

from digiq_ray.core.errors import InputError
from emulator_workers.appium_server import AppiumServer, RemoteAppium
from emulator_workers.devices.base import DeviceUnreachable, Key, Recovery, Reset, SessionLost
from emulator_workers.devices.chromium import ChromiumDevice, PhoneScreen
from emulator_workers.processes.sweep import marked, running
from tests.emulator_workers.appium_testing import (
    Remembered,
    gone_within,
    left_of,
    listens,
    need_chromium,
    shared_server,
    site,
)


@pytest.fixture
def make():
    need_chromium()
    made = []

    def make(path="/", server=None, **options):
        device = ChromiumDevice("phone", server or shared_server(), home_url=site() + path, **options)
        made.append(device)
        device.start()
        return device

    yield make
    for device in made:
        device.close()


def title(device):
    return device.run_script("arguments[0](document.title)")


def browser_of(device) -> psutil.Process:
    """The browser's first process."""
    return next(each for each in marked(device._charge.marker) if "--type=" not in " ".join(each.cmdline()[:3]))


# ---- a phone's screen


@pytest.mark.parametrize("screen", [PhoneScreen(), PhoneScreen(96, 192), PhoneScreen(412, 915, 2.625)], ids=str)
def test_screenshots_have_the_phones_pixels(make, screen):
    info = make(screen=screen).info
    wanted = (screen.width * screen.pixel_ratio, screen.height * screen.pixel_ratio)
    assert (info.width, info.height) == pytest.approx(wanted, abs=1)


def test_pages_see_a_phone_with_touch(make):
    seen = make().run_script("arguments[0]([innerWidth, innerHeight, 'ontouchstart' in window, navigator.userAgent])")
    assert seen[:3] == [412, 915, True]
    assert "Android" in seen[3]


def test_a_page_that_was_not_made_for_phones_is_touched_where_it_is_seen(make):
    device = make("/desktop")
    device.reset()
    device.tap(0.5, 0.25)
    x, y = map(float, title(device).split(","))
    width, height = device.run_script("arguments[0]([innerWidth, innerHeight])")
    assert width > 900
    assert (x / width, y / height) == (pytest.approx(0.5, abs=0.01), pytest.approx(0.25, abs=0.01))


# ---- tabs and keys


def test_a_tab_that_a_page_opens_is_what_is_seen_and_back_leaves_it(make):
    device = make("/tabs")
    device.reset()
    device.tap(0.5, 0.3)
    device.screenshot()
    assert title(device) == "app"
    device.press(Key.BACK)
    device.screenshot()
    assert title(device) == "tabs"


def test_home_leaves_one_tab(make):
    device = make("/tabs")
    device.reset()
    device.tap(0.5, 0.3)
    device.press(Key.HOME)
    assert title(device) == "tabs"
    assert len(device._follow()) == 1


def test_back_after_a_reset_stays_on_the_home_page(make):
    device = make()
    device.reset()
    device.tap(0.5, 0.3)
    device.reset()
    device.press(Key.BACK)
    assert title(device) == "home"


def test_enter_is_a_key_for_the_page(make):
    device = make("/app")
    device.reset()
    device.tap(0.5, 0.3)
    device.press(Key.ENTER)
    assert title(device) == "entered"


def test_text_arrives_as_it_was_typed(make):
    device = make("/app")
    device.reset()
    device.tap(0.5, 0.3)
    device.type_text('ä "quoted" \N{SNOWMAN} \N{GRINNING FACE} <b>\nnext')
    seen = device.run_script("arguments[0](document.querySelector('textarea').value)")
    assert seen == 'ä "quoted" \N{SNOWMAN} \N{GRINNING FACE} <b>\nnext'


def test_a_new_session_knows_nothing_of_the_one_before(make):
    device = make()
    device.reset()
    device.run_script("localStorage.setItem('who', 'me'); arguments[0]()")
    device.reset(Reset.SESSION)
    assert device.run_script("arguments[0](localStorage.getItem('who'))") is None


# ---- deadlines and deaths


def test_a_page_that_does_not_load_is_given_up_in_time(make):
    device = make(call_seconds=2.0)
    device._home_url = site() + "/slow"
    began = time.monotonic()
    with pytest.raises(DeviceUnreachable, match="phone: home: no answer in time"):
        device.press(Key.HOME)
    assert time.monotonic() - began < 8


def test_a_killed_browser_costs_the_session_and_a_new_one_mends_it(make):
    device = make()
    browser = browser_of(device)
    browser.kill()
    assert gone_within(20, lambda: running(browser))
    with pytest.raises(SessionLost) as raised:
        device.screenshot()
    assert raised.value.recovery is Recovery.NEW_SESSION
    assert not device.healthy()
    assert device.reset(Reset.SESSION).width == 412


def test_a_closed_device_leaves_neither_process_nor_directory_nor_port(make):
    ports = Remembered()
    device = make(ports=ports)
    directory = device._charge.marker
    assert left_of(directory)
    device.close()
    assert left_of(directory) == []
    assert not os.path.exists(directory)
    assert ports.held == []
    assert not any(listens(lease.port) for lease in ports.given)


def test_two_devices_on_one_server_do_not_disturb_each_other(make):
    first, second = make(), make("/tabs")
    first.reset()
    second.reset()
    assert (title(first), title(second)) == ("home", "tabs")
    first.close()
    assert second.healthy()


def test_a_killed_server_is_noticed_restarted_and_leaves_no_orphans(make):
    need_chromium()
    with AppiumServer() as server:
        device = make(server=server)
        directory = server.directory
        before = {process.pid for process in marked(str(directory))}
        os.kill(server.pid, signal.SIGKILL)
        assert gone_within(20, lambda: server.pid)
        with pytest.raises(DeviceUnreachable) as raised:
            device.screenshot()
        assert raised.value.recovery is Recovery.RESTORE_DEVICE
        assert device.reset(Reset.SNAPSHOT).width == 412
        assert before.isdisjoint(process.pid for process in marked(str(directory)))
        device.close()
    assert left_of(str(directory)) == []


def test_a_server_that_ends_takes_the_browsers_along(make):
    server = AppiumServer()
    make(server=server)
    directory = server.directory
    server.stop()
    assert left_of(str(directory)) == []


def test_a_session_that_its_owner_forgets_is_ended_by_the_server(make):
    device = make(idle_seconds=1)
    assert gone_within(30, lambda: left_of(device._charge.marker))


def test_no_server_is_an_unreachable_device():
    need_chromium()
    device = ChromiumDevice("phone", RemoteAppium("http://127.0.0.1:9"), home_url="about:blank")
    with pytest.raises(DeviceUnreachable, match="Appium does not answer"):
        device.start()


def test_a_missing_chromium_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="chromedriver is missing: install it"):
        ChromiumDevice("phone", RemoteAppium("http://127.0.0.1:9"), home_url="about:blank").start()


# ---- pace


def test_a_tap_and_a_screenshot_take_less_than_half_a_second(make):
    device = make()
    device.reset()
    seconds = []
    for _ in range(15):
        began = time.perf_counter()
        device.tap(0.5, 0.9)
        device.screenshot()
        seconds.append(time.perf_counter() - began)
    assert statistics.median(seconds) < 0.5
