"""The emulator's command line, ports, deadlines and errors, on a fake SDK."""

from __future__ import annotations

import os
import signal

import psutil
import pytest
from android_fakes import FakeSdk

from digiq_ray.core.errors import InputError
from emulator_workers.adb_server import AdbServer
from emulator_workers.android_sdk import Adb, android_sdk, tool
from emulator_workers.devices.base import DeviceBroken, DeviceUnreachable, Recovery
from emulator_workers.emulator import AndroidEmulator, EmulatorSettings
from emulator_workers.processes.leases import LeaseRefusedError, PortKind, PortLeases
from tests.emulator_workers.appium_testing import gone_within

SETTINGS = EmulatorSettings(avd="phone", boot_seconds=20, restore_seconds=10, stop_seconds=5)


@pytest.fixture
def sdk(tmp_path):
    return FakeSdk(tmp_path / "sdk")


@pytest.fixture
def ports(tmp_path):
    return PortLeases(tmp_path / "leases")


@pytest.fixture
def adb_server(sdk, tmp_path):
    with AdbServer(log=tmp_path / "adb.log", program=sdk.adb) as server:
        yield server


@pytest.fixture
def make(sdk, ports, adb_server, tmp_path):
    made = []

    def make(settings=SETTINGS):
        made.append(
            AndroidEmulator(
                settings,
                adb_server=adb_server,
                log=tmp_path / "emulator.log",
                ports=ports,
                program=sdk.emulator,
                adb_program=sdk.adb,
            )
        )
        return made[-1]

    yield make
    for emulator in made:
        emulator.stop()


def after(words, flag):
    return words[words.index(flag) + 1]


# ---- command line


def test_the_emulator_runs_headless_read_only_from_the_golden_snapshot():
    words = SETTINGS.command("emulator", console=5560, grpc=8600)
    assert words[:3] == ["emulator", "-avd", "phone"]
    assert {"-no-window", "-no-audio", "-no-boot-anim", "-no-snapshot-save", "-read-only"} <= set(words)
    assert after(words, "-snapshot") == "golden"
    assert after(words, "-ports") == "5560,5561"
    assert after(words, "-grpc") == "8600"
    assert after(words, "-gpu") == "swiftshader_indirect"
    assert (after(words, "-memory"), after(words, "-cores")) == ("2048", "2")


def test_without_a_snapshot_it_boots_cold_and_may_write():
    words = EmulatorSettings(avd="phone", snapshot=None, read_only=False).command("emulator", console=5560, grpc=8600)
    assert "-no-snapshot-load" in words
    assert not {"-read-only", "-snapshot"} & set(words)


def test_more_flags_come_last():
    words = EmulatorSettings(avd="phone", flags=("-qemu", "-append", "panic=1")).command("e", console=2, grpc=3)
    assert words[-3:] == ["-qemu", "-append", "panic=1"]


# ---- life


def test_a_started_emulator_is_known_to_its_own_adb_server(make, sdk, adb_server):
    emulator = make()
    emulator.start()
    words = sdk.calls("emulator", least=1)[0]
    console = int(after(words, "-ports").split(",")[0])
    assert emulator.udid == f"emulator-{console}"
    assert emulator.adb_port == adb_server.ready()
    assert words[-1] == f"adb={adb_server.ready()}"
    assert emulator.healthy()


def test_starting_twice_launches_once(make, sdk):
    emulator = make()
    emulator.start()
    emulator.ensure()
    assert len(sdk.calls("emulator", least=1)) == 1


def test_two_emulators_have_ports_of_their_own(make, sdk):
    first, second = make(), make()
    first.start()
    second.start()
    one, two = sdk.calls("emulator", least=2)
    assert first.udid != second.udid
    assert after(one, "-grpc") != after(two, "-grpc")


def test_stopping_asks_the_console_first_and_gives_the_ports_back(make, sdk, ports):
    emulator = make()
    emulator.start()
    console = int(emulator.udid.partition("-")[2])
    emulator.stop()
    emulator.stop()
    assert sdk.calls("adb") == [["emu", "kill"]]
    assert not emulator.alive
    assert ports.lease(PortKind.CONSOLE).port == console


def test_an_emulator_with_a_deaf_console_is_ended_by_signals(make, sdk):
    emulator = make()
    emulator.start()
    sdk.switch_on("deaf")
    pid = emulator._process.pid
    emulator.stop()
    assert not psutil.pid_exists(pid)


def test_what_does_not_run_has_no_serial(make):
    with pytest.raises(DeviceUnreachable, match="the emulator of AVD phone does not run"):
        _ = make().udid


# ---- recovery


def test_restoring_loads_the_snapshot_without_a_relaunch(make, sdk):
    emulator = make()
    emulator.start()
    emulator.restore()
    assert sdk.calls("adb") == [["emu", "avd", "snapshot", "load", "golden"]]
    assert len(sdk.calls("emulator", least=1)) == 1


def test_a_snapshot_that_does_not_load_is_made_up_for_by_a_relaunch(make, sdk):
    emulator = make()
    emulator.start()
    sdk.switch_on("no snapshot")
    emulator.restore()
    assert len(sdk.calls("emulator", least=2)) == 2
    assert emulator.healthy()


def test_without_a_snapshot_restoring_is_a_relaunch(make, sdk):
    emulator = make(EmulatorSettings(avd="phone", snapshot=None, boot_seconds=20, stop_seconds=5))
    emulator.start()
    emulator.restore()
    assert len(sdk.calls("emulator", least=2)) == 2
    assert sdk.calls("adb") == [["emu", "kill"]]


def test_an_emulator_that_died_is_started_anew(make, sdk):
    emulator = make()
    emulator.start()
    os.kill(emulator._process.pid, signal.SIGKILL)
    assert gone_within(20, lambda: emulator.alive)
    assert not emulator.healthy()
    emulator.ensure()
    assert emulator.healthy()
    assert len(sdk.calls("emulator", least=2)) == 2


def test_an_emulator_that_adb_has_lost_is_started_anew(make, sdk):
    emulator = make()
    emulator.start()
    sdk.switch_off("up")
    emulator.ensure()
    assert emulator.healthy()
    assert len(sdk.calls("emulator", least=2)) == 2


# ---- errors


def test_an_emulator_that_does_not_boot_is_given_up_in_time_and_ended(make, sdk, ports):
    sdk.switch_on("never boots")
    emulator = make(EmulatorSettings(avd="phone", boot_seconds=0.5, stop_seconds=1))
    with pytest.raises(DeviceUnreachable, match=r"booting Android took longer than 0\.5 s"):
        emulator.start()
    assert not emulator.alive
    assert ports.lease(PortKind.CONSOLE).port == PortKind.CONSOLE.value[0]


@pytest.mark.parametrize(
    ("words", "kind", "remedy"),
    [
        ("PANIC: Unknown AVD name [phone], use -list-avds", InputError, "make the AVD first"),
        ("x86_64 emulation currently requires hardware acceleration!", InputError, "it needs KVM"),
        ("Running multiple emulators with the same AVD is an experimental feature.", DeviceUnreachable, "in use"),
        ("Not enough space to create userdata partition", InputError, "free some disk space"),
        ("segmentation fault", DeviceUnreachable, "segmentation fault"),
    ],
)
def test_what_the_emulator_refuses_for_is_told_with_a_remedy(make, sdk, words, kind, remedy):
    sdk.switch_on("refusal", words)
    with pytest.raises(kind, match=remedy) as raised:
        make().start()
    assert "\n" not in str(raised.value)


def test_an_emulator_without_a_free_port_is_to_be_replaced(make, ports, monkeypatch):
    def refuse(kind):
        raise LeaseRefusedError("no console port is free")

    monkeypatch.setattr(ports, "lease", refuse)
    with pytest.raises(DeviceBroken, match="no console port") as raised:
        make().start()
    assert raised.value.recovery is Recovery.REPLACE_DEVICE


# ---- adb


def test_a_call_of_adb_has_a_deadline(sdk):
    with pytest.raises(DeviceUnreachable, match=r"adb hang on phone took longer than 0\.3 s"):
        Adb("phone", program=sdk.adb).run("hang", seconds=0.3)


def test_a_failing_call_of_adb_tells_why(sdk):
    with pytest.raises(DeviceUnreachable, match="adb fail on phone failed: adb: something is wrong"):
        Adb("phone", program=sdk.adb).run("fail")


def test_a_console_that_refuses_is_an_error(sdk):
    sdk.switch_on("no snapshot")
    with pytest.raises(DeviceUnreachable, match="the console of phone refuses avd snapshot load x: KO"):
        Adb("phone", program=sdk.adb).emulator("avd", "snapshot", "load", "x")


def test_waiting_for_a_boot_has_a_deadline(sdk, monkeypatch):
    sdk.switch_on("up")
    adb = Adb("phone", program=sdk.adb)
    adb.wait_until_booted(20)
    monkeypatch.setattr(adb, "booted", lambda: False)
    with pytest.raises(DeviceUnreachable, match=r"has not booted within 0\.4 s"):
        adb.wait_until_booted(0.4)


def test_an_adb_server_that_died_is_started_again(adb_server):
    adb_server.ready()
    os.kill(adb_server._process.pid, signal.SIGKILL)
    assert gone_within(20, lambda: adb_server._process.alive)
    assert adb_server.ready() > 0
    assert adb_server._process.alive


def test_the_sdk_is_where_the_variable_says(tmp_path):
    (tmp_path / "platform-tools").mkdir()
    (tmp_path / "platform-tools" / "adb").touch()
    assert android_sdk({"ANDROID_HOME": str(tmp_path)}) == tmp_path
    assert tool("adb", sdk=tmp_path) == str(tmp_path / "platform-tools" / "adb")


def test_a_variable_that_names_no_directory_is_told():
    with pytest.raises(InputError, match="ANDROID_SDK_ROOT names /nowhere/sdk"):
        android_sdk({"ANDROID_SDK_ROOT": "/nowhere/sdk"})


def test_a_missing_tool_is_named(tmp_path):
    with pytest.raises(InputError, match=f"emulator is missing in {tmp_path}"):
        tool("emulator", sdk=tmp_path)
