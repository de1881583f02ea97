"""Android through the real driver on the stub: by its serial as any phone, one owner at a time, ports given back."""

from __future__ import annotations

import os

import pytest

from digiq_ray.core.tasks import Task
from emulator_workers.android_sdk import Adb
from emulator_workers.appium_server import RemoteAppium
from emulator_workers.devices.android import AndroidDevice, ConnectedPhone, DeviceTaken
from emulator_workers.devices.base import DeviceBroken, DeviceUnreachable, Frame, Key, Recovery, Reset, SessionLost
from emulator_workers.processes.leases import LeaseRefusedError, PortKind, PortLeases, UdidLeases
from emulator_workers.simphone.phone import CALM
from emulator_workers.stub.android_stub import AndroidStub
from emulator_workers.stub.faults import StubFault
from emulator_workers.stub.screen import Clock
from tests.emulator_workers.appium_testing import (
    Remembered,
    adb_processes,
    gone_within,
    listens,
    need_adb,
    need_appium,
    shared_server,
)

TASK = Task("android/0", "open the notes app", 10, "test", goal={"kind": "open", "app": "notes"}, seed=3)


@pytest.fixture
def stub():
    need_appium()
    need_adb()
    with AndroidStub(1, hazards=CALM, scale=2) as stub:
        yield stub


@pytest.fixture
def phone(stub):
    """A phone of the stub with a task."""
    (phone,) = stub.phones.values()
    phone.begin(TASK, Clock.ON_INPUT)
    return phone


@pytest.fixture
def make(stub, tmp_path):
    made = []

    def make(udid="emulator-5554", **options):
        connected = ConnectedPhone(udid, adb_port=stub.adb_port, up_seconds=2)
        leases = {"devices": UdidLeases(tmp_path)}
        made.append(AndroidDevice(connected, shared_server(), prepared=True, **{**leases, **options}))
        return made[-1]

    yield make
    for device in made:
        device.close()


# ---- a phone by its serial


def test_a_phone_is_driven_by_its_serial_alone(make, phone):
    device = make()
    device.start()
    assert (device.info.name, device.info.width, device.info.height) == ("emulator-5554", 192, 384)
    device.reset()
    device.tap(*next(each for each in phone.screen.phone.elements() if each.name == "notes").centre)
    device.tap(0.5, 0.25)
    device.type_text("buy milk")
    assert phone.screen.phone.state.typed == "buy milk"
    device.press(Key.HOME)
    assert phone.screen.phone.state.screen == "home"


def test_a_serial_that_adb_does_not_know_is_unreachable(make):
    with pytest.raises(DeviceUnreachable, match="emulator-9999 is not up after 2 s"):
        make("emulator-9999").start()


def test_a_phone_that_goes_offline_fails_the_call_and_is_brought_back_by_a_new_start(make, phone):
    device = make()
    device.start()
    phone.inject(StubFault.ADB_OFFLINE)
    assert Adb(phone.udid, port=device._phone.adb_port).state() == "offline"
    with pytest.raises((DeviceUnreachable, SessionLost)):
        device.screenshot()
    device.start()
    assert device.healthy()


def test_a_crash_on_the_phone_costs_the_session_and_a_new_one_mends_it(make, phone):
    device = make()
    device.start()
    phone.inject(StubFault.UIA2_CRASH)
    with pytest.raises(SessionLost) as raised:
        device.screenshot()
    assert raised.value.recovery is Recovery.NEW_SESSION
    assert device.reset(Reset.SESSION).width == 192


def test_adb_is_asked_with_a_deadline_and_a_state(stub):
    adb = Adb("emulator-5554", port=stub.adb_port)
    assert adb.state() == "device"
    adb.wait_until_booted(20)
    assert adb.shell("getprop", "sys.boot_completed") == "1"


def test_a_reset_above_home_opens_a_session_where_there_is_none(make):
    device = make()
    with pytest.raises(SessionLost, match=r"call start\(\) first"):
        device.reset()
    assert device.reset(Reset.SESSION).width == 192
    assert device.healthy()


def test_an_adb_server_that_ends_in_the_middle_of_a_session_is_not_replaced(make, phone, stub):
    device, port = make(), stub.adb_port
    device.start()
    stub.stop()
    with pytest.raises((DeviceUnreachable, SessionLost)):
        device.screenshot()
    for call in (device.start, lambda: device.reset(Reset.SESSION), lambda: device.reset(Reset.SNAPSHOT)):
        with pytest.raises((DeviceUnreachable, SessionLost)):
            call()
    device.close()
    assert "cannot connect to daemon" in Adb(phone.udid, port=port).state()
    assert gone_within(5, lambda: adb_processes(port))
    assert not listens(port)


# ---- one owner


def test_a_second_device_on_one_phone_is_refused_and_the_first_lives_on(make, phone):
    first, second = make(), make()
    first.start()
    with pytest.raises(DeviceTaken, match=f"emulator-5554 is in use by process {os.getpid()}") as raised:
        second.start()
    assert raised.value.recovery is Recovery.REPLACE_DEVICE
    assert first.healthy()
    first.close()
    second.start()
    assert second.healthy()


def test_a_closed_device_gives_its_ports_and_its_phone_back(make, stub, tmp_path):
    ports = Remembered()
    device = make(ports=ports)
    device.start()
    assert len(ports.held) == 2
    with pytest.raises(LeaseRefusedError):
        UdidLeases(tmp_path).lease("emulator-5554", stub.adb_port)
    device.close()
    assert UdidLeases(tmp_path).lease("emulator-5554", stub.adb_port).held
    assert ports.held == []


# ---- the session that is asked for


class QuietPhone:
    """A phone that is always there."""

    udid = "phone-1"

    def __init__(self, adb_port=5037):
        self.adb_port = adb_port

    def ensure(self):
        pass


@pytest.fixture
def wanted(tmp_path):
    def wanted(adb_port=5037, **options):
        device = AndroidDevice(
            QuietPhone(adb_port), RemoteAppium("http://127.0.0.1:9"), ports=PortLeases(tmp_path),
            devices=UdidLeases(tmp_path), call_seconds=30, start_seconds=120, **options,
        )  # fmt: skip
        try:
            return device._capabilities()
        finally:
            device._give_back()

    return wanted


def test_a_session_names_its_phone_and_ports_of_its_own(wanted):
    found = wanted()
    assert (found["appium:udid"], found["appium:adbPort"]) == ("phone-1", 5037)
    assert found["appium:systemPort"] in range(*PortKind.SYSTEM.value)
    assert found["appium:mjpegServerPort"] in range(*PortKind.MJPEG.value)
    assert found["appium:uiautomator2ServerReadTimeout"] == 30_000


def test_only_the_common_adb_server_may_be_started_by_whoever_needs_it(wanted):
    assert "appium:remoteAdbHost" not in wanted()
    assert wanted(adb_port=15040)["appium:remoteAdbHost"] == "127.0.0.1"


def test_only_a_prepared_phone_goes_without_the_installation_of_appiums_server(wanted):
    assert "appium:skipServerInstallation" not in wanted()
    assert wanted(prepared=True)["appium:skipServerInstallation"] is True


def test_capabilities_can_be_added_and_replaced(wanted):
    found = wanted(capabilities={"appium:noReset": False, "appium:appPackage": "com.android.chrome"})
    assert (found["appium:noReset"], found["appium:appPackage"]) == (False, "com.android.chrome")


@pytest.mark.parametrize(("window", "fits"), [((1080, 2280), True), ((1080, 2132), True), ((2280, 1080), False)])
def test_system_bars_may_be_missing_from_the_window_but_not_from_the_screenshot(monkeypatch, window, fits):
    device = AndroidDevice(QuietPhone(), RemoteAppium("http://127.0.0.1:9"), name="phone")
    size = {"width": window[0], "height": window[1]}
    monkeypatch.setattr(device, "_call", lambda what, function: size)
    frame = Frame(b"", "image/png", 1080, 2280, 0.0)
    if fits:
        assert device._pointer_space(frame) == (1080, 2280)
    else:
        with pytest.raises(DeviceBroken, match="does not hold a window of 2280 x 1080"):
            device._pointer_space(frame)
