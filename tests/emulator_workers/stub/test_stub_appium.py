"""Appium's own client, the real Appium server, the real UiAutomator2 driver and the real adb against the stub."""

import io
import itertools
import socket
import time

import pytest
from appium import webdriver
from appium.options.android import UiAutomator2Options
from appium.webdriver.common.appiumby import AppiumBy
from PIL import Image
from selenium.common.exceptions import NoSuchElementException, WebDriverException
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.key_input import KeyInput
from stub_clients import AdbClient, pixels

from emulator_workers.processes.leases import PortKind, PortLeases
from emulator_workers.simphone.phone import CALM
from emulator_workers.stub.android_stub import AndroidStub
from emulator_workers.stub.faults import StubFault
from tests.emulator_workers.appium_testing import (
    adb_processes,
    gone_within,
    listens,
    need_adb,
    need_appium,
    shared_server,
)

FAST = {"skipServerInstallation": True, "skipDeviceInitialization": True, "ignoreHiddenApiPolicyError": True}
# With a host, adb does not start a server of its own where it finds none, as after the end of the stub.
NO_OTHER_SERVER = {"remoteAdbHost": "127.0.0.1", "suppressKillServer": True}


class Session:
    """Opens sessions on leased ports and closes them."""

    def __init__(self, adb_port: int) -> None:
        self._adb_port = adb_port
        self.drivers: list[webdriver.Remote] = []
        self._leases = []

    def __call__(self, udid="emulator-5554", **capabilities) -> webdriver.Remote:
        self._leases += [PortLeases().lease(kind) for kind in (PortKind.SYSTEM, PortKind.MJPEG)]
        system, mjpeg = (lease.port for lease in self._leases[-2:])
        ports = {**NO_OTHER_SERVER, "adbPort": self._adb_port, "systemPort": system, "mjpegServerPort": mjpeg}
        times = {"adbExecTimeout": 20_000, "uiautomator2ServerLaunchTimeout": 20_000, "newCommandTimeout": 60}
        rest = {"udid": udid, "noReset": True, "skipUnlock": True, "skipLogcatCapture": True}
        wanted = {**rest, **FAST, **ports, **times, **capabilities}
        options = UiAutomator2Options().load_capabilities({f"appium:{name}": value for name, value in wanted.items()})
        self.drivers.append(webdriver.Remote(shared_server().ready(), options=options))
        return self.drivers[-1]

    def close(self) -> None:
        for driver in self.drivers:
            try:
                driver.quit()
            except WebDriverException:
                continue  # a fault took it
        for lease in self._leases:
            lease.release()


@pytest.fixture
def stub():
    need_appium()
    need_adb()
    with AndroidStub(2, hazards=CALM) as running:
        yield running


@pytest.fixture
def session(stub):
    opened = Session(stub.adb_port)
    yield opened
    opened.close()


def touch(driver, phone, name):
    """Taps the middle of something on the screen."""
    x, y = next(element for element in phone.screen.phone.elements() if name in (element.name, element.tag)).centre
    driver.tap([(int(x * phone.screen.width), int(y * phone.screen.height))])


def state(phone):
    return phone.screen.phone.state


def test_everything_that_an_agent_does_reaches_the_phone(stub, session):
    phone, driver = stub.phones["emulator-5554"], session()
    assert driver.get_window_size() == {"width": 96, "height": 192}
    assert pixels(driver.get_screenshot_as_png()) == pixels(phone.screen.png())
    touch(driver, phone, "notes")
    assert state(phone).screen == "notes"
    with pytest.raises(NoSuchElementException):
        _ = driver.switch_to.active_element
    touch(driver, phone, "note")
    driver.switch_to.active_element.send_keys("buy milk, \u00e4 'quoted'")
    assert state(phone).typed == "buy milk, \u00e4 'quoted'"
    driver.back()
    assert state(phone).notes == ("buy milk, \u00e4 'quoted'",)
    driver.press_keycode(3)
    assert state(phone).screen == "home"
    assert pixels(driver.get_screenshot_as_png()) == pixels(phone.screen.png())
    assert stub.unknown == {}


def test_swipes_scroll(stub, session):
    phone, driver = stub.phones["emulator-5554"], session()
    state(phone).screen, state(phone).results, state(phone).shop = "results", ("red hat",) * 6, "ebuy"
    driver.swipe(48, 150, 48, 40, 20)
    assert state(phone).page == 1
    driver.swipe(48, 40, 48, 150, 20)
    assert state(phone).page == 0


def test_keys_can_be_sent_as_actions(stub, session):
    phone, driver = stub.phones["emulator-5554"], session()
    touch(driver, phone, "notes")
    touch(driver, phone, "note")
    actions = ActionBuilder(driver, keyboard=KeyInput("keyboard"), duration=0)
    actions.key_action.send_keys("get bread")
    actions.perform()
    assert state(phone).typed == "get bread"


def test_the_driver_knows_the_phone(stub, session):
    driver = session()
    assert driver.capabilities["deviceUDID"] == "emulator-5554"
    assert driver.capabilities["deviceApiLevel"] == 28
    assert driver.capabilities["deviceScreenSize"] == "96x192"
    assert driver.find_elements(AppiumBy.XPATH, "//*") == []
    assert "hierarchy" in driver.page_source
    driver.update_settings({"waitForIdleTimeout": 0})
    assert stub.unknown == {}


def test_a_session_without_preparation_installs_what_it_needs(stub, session):
    slow = dict.fromkeys(FAST, False) | {"skipUnlock": False, "skipLogcatCapture": False}
    driver = session(**slow)
    assert Image.open(io.BytesIO(driver.get_screenshot_as_png())).size == (96, 192)
    assert stub.unknown == {}


def test_a_session_opens_without_waiting_for_a_second_look_at_the_server(stub, session):
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        driver = session()
        taken.append(time.perf_counter() - began)
        driver.quit()
    assert min(taken) < 0.9, taken


def test_two_phones_have_sessions_side_by_side(stub, session):
    first, second = stub.phones.values()
    drivers = [session(phone.udid) for phone in (first, second)]
    touch(drivers[0], first, "notes")
    assert (state(first).screen, state(second).screen) == ("notes", "home")
    first.inject(StubFault.UIA2_CRASH)
    with pytest.raises(WebDriverException):
        drivers[0].get_screenshot_as_png()
    assert pixels(drivers[1].get_screenshot_as_png()) == pixels(second.screen.png())


# ---- what the client is told


ENDINGS = [
    (StubFault.UIA2_CRASH, "Could not proxy|instrumentation process is not running"),
    (StubFault.STOLEN_SESSION, "Could not proxy|instrumentation process is not running|not the one that is open"),
    (StubFault.ADB_OFFLINE, "Could not proxy|instrumentation process is not running|ECONNREFUSED"),
]


@pytest.mark.parametrize(("fault", "words"), ENDINGS, ids=lambda value: str(value)[:15])
def test_a_session_that_was_ended_says_why_and_the_next_one_works(stub, session, fault, words):
    phone, driver = stub.phones["emulator-5554"], session()
    phone.inject(fault)
    with pytest.raises(WebDriverException, match=words):
        driver.get_screenshot_as_png()
    phone.restore()
    assert pixels(session().get_screenshot_as_png()) == pixels(phone.screen.png())


def test_a_session_on_an_offline_phone_is_refused(stub, session):
    stub.phones["emulator-5554"].inject(StubFault.ADB_OFFLINE)
    with pytest.raises(WebDriverException, match="was not in the list of connected devices"):
        session()


def test_a_session_on_a_serial_that_is_not_there_is_refused(stub, session):
    with pytest.raises(WebDriverException, match="emulator-9999 was not in the list of connected devices"):
        session("emulator-9999")


def test_a_port_clash_is_named_and_the_next_session_works(stub, session):
    phone = stub.phones["emulator-5554"]
    phone.inject(StubFault.PORT_CLASH)
    with pytest.raises(WebDriverException, match="Address already in use"):
        session()
    assert session().get_screenshot_as_png()


def test_a_port_that_somebody_else_listens_on_is_named(stub, session):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(WebDriverException, match=f"local port #{port} is busy"):
            session(systemPort=port)


def test_a_second_session_ends_the_first_one(stub, session):
    first, second = session(), session()
    assert second.get_screenshot_as_png()
    with pytest.raises(WebDriverException):
        first.get_screenshot_as_png()


# ---- afterwards


def test_a_session_that_was_quit_leaves_no_process_and_no_port(stub, session):
    driver = session()
    adb = AdbClient(stub.adb_port)
    forwarded = [int(line.split()[1].removeprefix("tcp:")) for line in adb.host("host:list-forward").splitlines()]
    assert len(forwarded) == 2
    assert all(map(listens, forwarded))
    driver.quit()
    assert gone_within(5, lambda: adb_processes(stub.adb_port))
    assert not any(map(listens, forwarded))
    assert adb.host("host:list-forward") == ""


def test_a_stub_that_ends_in_the_middle_of_a_session_leaves_no_process_and_no_port(stub, session):
    session()
    port = stub.adb_port
    forwarded = [forward.split()[1] for forward in AdbClient(port).host("host:list-forward").splitlines()]
    stub.stop()
    assert gone_within(5, lambda: adb_processes(port))
    assert not any(listens(int(local.removeprefix("tcp:"))) for local in itertools.chain(forwarded, [f"tcp:{port}"]))
