import shutil
import socket
import threading
from pathlib import Path

import pytest

from digiq_ray.core.errors import InputError
from digiq_ray.loops import doctor
from emulator_workers import android_sdk as sdk
from emulator_workers.checks import machine


@pytest.fixture
def adb_server():
    """A socket that answers one request for the list of devices."""
    listener = socket.create_server(("127.0.0.1", 0))
    answer = b"emulator-5554\tdevice\nemulator-5556\toffline\n"

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(100)
            client.sendall(b"OKAY" + f"{len(answer):04x}".encode() + answer)

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    thread.join(5)
    listener.close()


def test_every_check_tells_what_it_found_and_how_to_mend_what_is_missing():
    for finding in doctor.examine():
        assert finding.name
        assert finding.detail
        assert set(finding.needed_for) <= set(doctor.PURPOSES)
        assert finding.ok or finding.mend or ":" in finding.detail


def test_kvm_is_missing_without_its_device(tmp_path):
    finding = machine.kvm(tmp_path / "kvm")
    assert (finding.ok, finding.needed_for) == (False, ("emulator",))
    assert "bare metal" in finding.mend


def test_kvm_is_there_if_it_may_be_opened(tmp_path):
    (tmp_path / "kvm").touch()
    assert machine.kvm(tmp_path / "kvm").ok


def test_a_running_adb_server_tells_its_devices(adb_server):
    assert machine.adb_devices(adb_server) == {"emulator-5554": "device", "emulator-5556": "offline"}


def test_an_adb_server_that_does_not_run_is_not_started():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert machine.adb_devices(port) is None


def test_adb_is_named_when_it_is_missing(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    finding = machine.adb()
    assert not finding.ok
    assert "apt-get install adb" in finding.mend


def test_a_missing_sdk_says_what_to_set(monkeypatch):
    def missing():
        raise InputError("set ANDROID_HOME")

    monkeypatch.setattr(sdk, "android_sdk", missing)
    finding = machine.android_sdk()
    assert (finding.ok, finding.detail) == (False, "set ANDROID_HOME")


def test_too_little_disk_is_missing(monkeypatch):
    usage = shutil.disk_usage(Path())
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=10**9))
    finding = doctor.disk()
    assert not finding.ok
    assert "make room" in finding.mend


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_PROFILE"])
def test_credentials_for_s3_are_named_but_not_shown(monkeypatch, tmp_path, name):
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not doctor.s3().ok
    monkeypatch.setenv(name, "hush")
    finding = doctor.s3()
    assert finding.ok
    assert name in finding.detail
    assert "hush" not in finding.detail


def test_only_what_a_purpose_needs_is_missing():
    findings = [
        machine.Finding("a", False, "", needed_for=("demo",)),
        machine.Finding("b", False, "", needed_for=("gpu",)),
        machine.Finding("c", True, "", needed_for=("demo",)),
    ]
    assert [one.name for one in doctor.missing(findings, ["demo"])] == ["a"]
    assert [one.name for one in doctor.missing(findings, ["gpu", "demo"])] == ["a", "b"]
