"""Real Android: what no test without one can know. Skipped unless the environment names a phone or an AVD.

DIGIQ_ANDROID_UDID is the serial of a phone or a running emulator, as ``adb devices`` lists it; DIGIQ_ANDROID_ADB_PORT
its adb server's port, if that is not the common one; DIGIQ_ANDROID_AVD an AVD with a golden snapshot.
"""

from __future__ import annotations

import os

import psutil
import pytest

from digiq_ray.core.actions import ActionType, format_action, press, swipe, tap
from digiq_ray.core.episodes import StopReason
from digiq_ray.core.policies import ActResult
from digiq_ray.core.tasks import Task
from emulator_workers.adb_server import AdbServer
from emulator_workers.android_sdk import ADB_PORT
from emulator_workers.checks.conformance import conformance
from emulator_workers.devices.android import AndroidDevice, ConnectedPhone
from emulator_workers.devices.base import Key, Reset
from emulator_workers.emulator import AndroidEmulator, EmulatorSettings
from emulator_workers.environment import Environment
from emulator_workers.golden import check_golden
from emulator_workers.processes.leases import UdidLeases
from emulator_workers.settle import SettleSettings
from tests.emulator_workers.appium_testing import (
    adb_processes,
    gone_within,
    listens,
    need_appium,
    shared_server,
)

pytestmark = pytest.mark.needs_android


def named(variable: str, what: str) -> str:
    """The value of a variable; skips the test if it is not set."""
    if not os.environ.get(variable):
        pytest.skip(f"no Android is at hand: set {variable} to {what}")
    need_appium()
    return os.environ[variable]


@pytest.fixture
def phone(tmp_path):
    """The phone, not started."""
    udid = named("DIGIQ_ANDROID_UDID", "the serial of a phone that `adb devices` lists")
    port = int(os.environ.get("DIGIQ_ANDROID_ADB_PORT") or ADB_PORT)
    device = AndroidDevice(ConnectedPhone(udid, adb_port=port), shared_server(), devices=UdidLeases(tmp_path))
    yield device
    device.close()


@pytest.fixture
def avd():
    """An AVD with a golden snapshot."""
    return named("DIGIQ_ANDROID_AVD", "an AVD that `digiq farm golden` has prepared")


class NoJudge:
    """Sees no success."""

    name = "none"

    def success(self, task, device, screen):
        return False


def act(environment, action):
    return environment.step(ActResult(format_action(action), 0.0, "v1"))


def emulators_on(ports: str) -> list[psutil.Process]:
    """Emulators that were started on these ports."""
    return [each for each in psutil.process_iter(["cmdline"]) if ports in (each.info["cmdline"] or [])]


def test_a_real_phone_goes_home_and_is_touched(phone):
    phone.start()
    first = phone.reset()
    assert (first.width, first.height) == (phone.info.width, phone.info.height)
    phone.swipe(0.5, 0.9, 0.5, 0.2)
    phone.tap(0.5, 0.5)
    phone.press(Key.BACK)
    phone.press(Key.HOME)
    assert phone.healthy()
    assert phone.reset(Reset.SESSION).width == first.width


def test_a_real_phone_does_what_every_device_must(phone):
    failed = {result.name: result.detail for result in conformance(phone) if not result.passed}
    assert failed == {}


def test_screens_of_a_real_phone_settle_in_an_episode(phone):
    environment = Environment(phone, NoJudge(), settle=SettleSettings())
    actions = (swipe(0.5, 0.9, 0.5, 0.2), press(ActionType.HOME), tap(0.5, 0.9), press(ActionType.BACK))
    environment.reset(Task("real/0", "look around", len(actions), "test"))
    tags = [act(environment, action)[4]["tag"] for action in actions]
    episode = environment.episode("e", "v1", environment.device_name)
    assert episode.stop_reason is StopReason.TIME_LIMIT
    assert len(episode.steps) == len(actions) + 1
    assert "unsettled" not in tags
    assert "blank" not in tags


def test_an_emulator_starts_from_its_golden_snapshot_is_restored_and_leaves_no_process(avd, tmp_path):
    settings = EmulatorSettings(avd=avd)
    check_golden(settings)
    with AdbServer(log=tmp_path / "adb.log") as adb_server:
        port = adb_server.ready()
        emulator = AndroidEmulator(settings, adb_server=adb_server, log=tmp_path / "emulator.log")
        device = AndroidDevice(emulator, shared_server(), devices=UdidLeases(tmp_path), prepared=True)
        try:
            device.start()
            serial = emulator.udid
            first = device.reset()
            for level in Reset:
                assert (device.reset(level).width, device.healthy()) == (first.width, True)
        finally:
            device.close()
            emulator.stop()
    console = int(serial.removeprefix("emulator-"))
    assert gone_within(20, lambda: emulators_on(f"{console},{console + 1}"))
    assert gone_within(20, lambda: adb_processes(port))
    assert not listens(port)


def test_two_emulators_share_one_avd(avd, tmp_path):
    settings = EmulatorSettings(avd=avd)
    check_golden(settings)
    with AdbServer(log=tmp_path / "adb.log") as adb_server:
        emulators = [
            AndroidEmulator(settings, adb_server=adb_server, log=tmp_path / f"emulator-{n}.log") for n in range(2)
        ]
        devices = [AndroidDevice(emulator, shared_server(), prepared=True) for emulator in emulators]
        try:
            for device in devices:
                device.start()
                device.reset()
            assert len({emulator.udid for emulator in emulators}) == 2
            assert [device.healthy() for device in devices] == [True, True]
        finally:
            for device, emulator in zip(devices, emulators, strict=True):
                device.close()
                emulator.stop()
