"""The real adb client against the stub."""

import os
import subprocess

import pytest
from stub_clients import pixels

from emulator_workers.android_sdk import Adb, tool
from emulator_workers.devices.base import DeviceUnreachable
from emulator_workers.stub.android_stub import AndroidStub
from emulator_workers.stub.faults import StubFault
from tests.emulator_workers.appium_testing import need_adb


@pytest.fixture
def call(stub: AndroidStub):
    """Runs the client; returns what it prints."""
    need_adb()
    env = {name: value for name, value in os.environ.items() if not name.startswith("ADB_")}

    def run(*words: str) -> bytes:
        command = [tool("adb"), "-P", str(stub.adb_port), *words]
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=True, env=env
        ).stdout

    return run


@pytest.fixture
def client(stub: AndroidStub) -> Adb:
    need_adb()
    return Adb("emulator-5554", port=stub.adb_port)


def test_devices_are_listed(call):
    assert call("devices").split(b"\n")[1] == b"emulator-5554\tdevice"
    assert b"model:simulated_phone" in call("devices", "-l")


def test_the_client_does_not_replace_the_server(call, stub):
    port = stub.adb_port
    call("start-server")
    call("devices")
    assert stub.adb_port == port
    assert b"emulator-5554" in call("devices")


def test_shell_prints_what_the_phone_says(call):
    assert call("shell", "wm", "size") == b"Physical size: 96x192\n"


def test_exec_out_gives_the_screen(call, phone):
    assert pixels(call("exec-out", "screencap", "-p")) == pixels(phone.screen.png())


def test_ports_are_forwarded_listed_and_freed(call):
    port = call("forward", "tcp:0", "tcp:6790").strip()
    assert call("forward", "--list").split() == [b"emulator-5554", b"tcp:" + port, b"tcp:6790"]
    call("forward", "--remove", f"tcp:{port.decode()}")
    assert call("forward", "--list").split() == []


def test_an_apk_can_be_installed(call, tmp_path):
    apk = tmp_path / "some.apk"
    apk.write_bytes(bytes(300_000))
    assert b"Success" in call("install", "-r", str(apk))


def test_the_state_is_told(client, phone):
    assert client.state() == "device"
    assert client.booted()
    phone.inject(StubFault.ADB_OFFLINE)
    assert client.state() == "offline"


def test_an_offline_phone_is_reconnected(client, phone):
    phone.inject(StubFault.ADB_OFFLINE)
    with pytest.raises(DeviceUnreachable, match="device offline"):
        client.shell("echo", "hello")
    client.run("reconnect", "offline")
    client.run("wait-for-device")
    assert client.shell("echo", "hello") == "hello"


def test_a_phone_is_waited_for_after_a_reboot(client):
    client.run("reboot")
    client.wait_until_booted(10)


def test_nothing_that_the_client_asks_is_unknown(call, client, stub):
    call("devices")
    client.shell("echo", "hello")
    client.run("forward", "--list")
    assert stub.unknown == {}
