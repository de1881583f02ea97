import http.client
import json
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from stub_clients import SECONDS, AdbClient, pixels

from digiq_ray.core.tasks import Task
from emulator_workers.devices.base import DeviceUnreachable
from emulator_workers.simphone.device import SimulatedDevice
from emulator_workers.stub.control import ControlServer, RemotePhone
from emulator_workers.stub.faults import StubFault
from tests.emulator_workers.appium_testing import listens

UDID = "emulator-5554"
TASK = Task("c/0", "open notes", 10, "test", kind="open", goal={"kind": "open", "app": "notes"}, seed=3)


@pytest.fixture
def control(stub):
    with ControlServer(stub) as server:
        yield server


@pytest.fixture
def remote(control):
    return RemotePhone(control.url, UDID)


def shot(adb):
    return pixels(adb.device(UDID, "exec:screencap -p"))


def test_a_task_begins_and_time_passes(remote, adb):
    device = SimulatedDevice()
    device.start()
    device.prepare(TASK)
    frames = [device.reset(), device.screenshot()]
    remote.begin(TASK)
    for frame in frames:
        remote.tick()
        assert shot(adb) == pixels(frame.image)


def test_success_is_told(remote, phone):
    remote.begin(TASK)
    assert remote.succeeded() is False
    phone.screen.phone.state.screen = "notes"
    assert remote.succeeded() is True


def test_faults_are_injected_counted_and_ended(remote, adb):
    whole = shot(adb)
    remote.inject(StubFault.WRONG_SIZE, shots=10)
    assert shot(adb) != whole
    assert remote.injected[StubFault.WRONG_SIZE] == 1
    remote.restore()
    assert shot(adb) == whole


def test_an_offline_phone_is_unreachable_until_it_is_rebooted(remote, stub):
    remote.inject(StubFault.ADB_OFFLINE)
    with pytest.raises(DeviceUnreachable, match="emulator-5554 is offline"):
        remote.ensure()
    remote.reboot()
    remote.ensure()
    assert remote.adb_port == stub.adb_port


def test_a_phone_is_unplugged(remote, stub):
    port = stub.adb_port
    remote.unplug()
    assert not listens(port)


def test_a_stub_that_is_gone_is_unreachable(remote, control):
    control.close()
    with pytest.raises(DeviceUnreachable, match="does not answer"):
        remote.tick()
    remote.unplug()


def test_a_phone_that_is_not_there_is_refused(control):
    with pytest.raises(DeviceUnreachable, match="no such phone"):
        RemotePhone(control.url, "another").tick()


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("{token}/emulator-5554/tick", {}, 200),
        ("guess/emulator-5554/tick", {}, 404),
        ("{token}/emulator-5554/nonsense", {}, 404),
        ("{token}/emulator-5554/tick", {"Host": "evil.example"}, 404),
        ("{token}/emulator-5554/inject", {}, 400),
        ("", {}, 404),
    ],
)
def test_only_who_knows_the_token_and_the_host_is_answered(control, path, headers, status):
    address = urlsplit(control.url)
    connection = http.client.HTTPConnection("127.0.0.1", address.port or 0, timeout=SECONDS)
    connection.request("POST", "/" + path.format(token=address.path.strip("/")), "{}", headers)
    assert connection.getresponse().status == status
    connection.close()


def test_a_stub_in_another_process_ends_with_who_started_it():
    command = [sys.executable, "-m", "emulator_workers.stub", "--phones", "2"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = json.loads(process.stdout.readline())
        assert AdbClient(said["adb_port"]).host("host:devices").split() == [UDID, "device", "emulator-5556", "device"]
        remote = RemotePhone(said["control"], UDID)
        remote.begin(TASK)
        assert remote.succeeded() is False
        process.stdin.close()
        assert process.wait(SECONDS) == 0
        assert not listens(said["adb_port"])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
