"""What a farm lacks is told before it is started."""

import socket
import threading

import pytest

from digiq_ray.core.errors import InputError
from emulator_workers import android_sdk, appium_server
from emulator_workers.backends import Backend
from emulator_workers.checks.ready import check_ready
from emulator_workers.devices import chromium


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """Appium, Chromium and adb are there."""
    monkeypatch.setattr(appium_server, "why_not_installed", lambda: None)
    monkeypatch.setattr(chromium, "why_no_chromium", lambda: None)
    monkeypatch.setattr(android_sdk, "tool", lambda name: name)


@pytest.fixture
def adb_port():
    """An adb server that knows a phone that is up and one that is not."""
    devices = b"up\tdevice\ndown\toffline\n"
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with server.accept()[0] as client:
            client.recv(64)
            client.sendall(b"OKAY%04x" % len(devices) + devices)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    server.close()
    thread.join(5)


@pytest.mark.parametrize("kind", ["simulated", "chromium", "stub"])
def test_a_machine_that_has_everything_is_ready(kind):
    check_ready(Backend(kind=kind))


def test_simulated_phones_need_nothing(monkeypatch):
    monkeypatch.setattr(appium_server, "why_not_installed", lambda: "node is missing")
    check_ready(Backend())


def test_a_missing_appium_is_told_with_what_else_to_look_at(monkeypatch):
    monkeypatch.setattr(appium_server, "why_not_installed", lambda: "node is missing: install it")
    with pytest.raises(InputError, match=r"--device stub: node is missing: install it; digiq doctor --for android"):
        check_ready(Backend(kind="stub"))


def test_a_missing_browser_is_told_unless_appium_runs_elsewhere(monkeypatch):
    monkeypatch.setattr(chromium, "why_no_chromium", lambda: "chromium is missing: install it")
    with pytest.raises(InputError, match="chromium is missing"):
        check_ready(Backend(kind="chromium"))
    check_ready(Backend(kind="chromium", appium_url="http://10.0.0.1:4723"))


def test_one_phone_that_is_up_is_enough(adb_port):
    check_ready(Backend(kind="android", udids=("down", "up"), adb_port=adb_port))


def test_a_phone_that_is_not_up_is_told_with_those_that_are(adb_port):
    with pytest.raises(InputError, match=rf"down and gone: not up .* port {adb_port}, .* up \(device\), down \(offl"):
        check_ready(Backend(kind="android", udids=("down", "gone"), adb_port=adb_port))


def test_without_an_adb_server_it_is_told_how_to_start_one():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(InputError, match=f"no adb server runs on port {port}, .*`adb devices` starts one"):
        check_ready(Backend(kind="android", udids=("phone",), adb_port=port))


def test_an_avd_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("ANDROID_AVD_HOME", str(tmp_path))
    with pytest.raises(InputError, match="AVD 'phone' is not in"):
        check_ready(Backend(kind="android", avd="phone"))
