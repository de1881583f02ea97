"""The Appium server's life: started, found ready, restarted after its death, ended without orphans. With a real one."""

from __future__ import annotations

import http.client
import json
import os
import signal
import tempfile
from pathlib import Path

import psutil
import pytest

from digiq_ray.core.errors import DeadlineExceededError, InputError
from emulator_workers.appium_server import LONGEST_TMPDIR, AppiumServer, RemoteAppium, appium_home, why_not_installed
from emulator_workers.devices.chromium import ChromiumDevice
from emulator_workers.processes.owned import ProcessFailedError
from emulator_workers.processes.sweep import marked, running
from tests.emulator_workers.appium_testing import (
    Remembered,
    gone_within,
    left_of,
    listens,
    need_appium,
    need_chromium,
    site,
)


@pytest.fixture
def server():
    need_appium()
    with AppiumServer() as server:
        yield server


def get(url: str, path: str) -> dict[str, object]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    connection.request("GET", path)
    return json.load(connection.getresponse())


def home_of(program: str, home: Path) -> Path:
    """An APPIUM_HOME whose Appium is a few lines of JavaScript."""
    (home / "node_modules" / "appium").mkdir(parents=True)
    (home / "node_modules" / "appium" / "index.js").write_text(program)
    return home


# ---- the real server


def test_a_ready_server_answers_on_loopback_and_nowhere_else(server):
    url = server.ready()
    assert url.startswith("http://127.0.0.1:")
    assert get(url, "/status")["value"]["ready"]
    listening = [each for each in psutil.Process(server.pid).net_connections() if each.status == psutil.CONN_LISTEN]
    assert {each.laddr.ip for each in listening} == {"127.0.0.1"}


def test_it_runs_without_insecure_features(server):
    words = psutil.Process(server.pid).cmdline()
    assert not [word for word in words if "relaxed" in word or "insecure" in word]


def test_a_ready_server_is_not_started_again(server):
    pid = server.pid
    server.ready()
    assert (server.pid, server.starts) == (pid, 1)


def test_a_killed_server_is_started_again(server):
    os.kill(server.pid, signal.SIGKILL)
    assert gone_within(20, lambda: server.pid)
    assert get(server.ready(), "/status")["value"]["ready"]
    assert server.starts == 2


def test_a_stopped_server_leaves_neither_process_nor_port_nor_directory():
    need_appium()
    ports = Remembered()
    server = AppiumServer(ports=ports)
    url, handle, directory = server.ready(), psutil.Process(server.pid), server.directory
    server.stop()
    server.stop()
    assert not running(handle)
    assert left_of(str(directory)) == []
    assert not directory.exists()
    assert ports.held == []
    assert not listens(int(url.rpartition(":")[2]))


def test_a_directory_that_was_given_keeps_the_log(tmp_path):
    need_appium()
    with AppiumServer(directory=tmp_path / "logs") as server:
        assert server.log == tmp_path / "logs" / "appium.log"
    assert (tmp_path / "logs" / "appium.log").exists()


def test_a_browser_that_is_killed_leaves_nothing_in_the_temporary_directory(monkeypatch, tmp_path):
    need_chromium()
    ports = Remembered()
    with tempfile.TemporaryDirectory(prefix="digiq-") as place:  # short: a browser's socket lies below it
        monkeypatch.setenv("TMPDIR", place)
        monkeypatch.setattr(tempfile, "tempdir", None)
        server = AppiumServer(directory=tmp_path / "logs", ports=ports)
        device = ChromiumDevice("killed", server, home_url=site(), ports=ports)
        device.start()
        kept = list(Path(place).glob("*/org.chromium*")) + list(Path(place).glob("*/.org.chromium*"))
        assert kept, "the browser keeps its temporary files elsewhere"
        for process in marked(str(server.directory)):
            process.kill()
        os.kill(server.pid, signal.SIGKILL)
        device.close()
        server.stop()
        assert list(Path(place).iterdir()) == []
    assert (server.pid, ports.held) == (None, [])


def test_a_long_temporary_directory_is_left_to_the_children(monkeypatch, tmp_path):
    need_appium()
    deep = tmp_path / ("d" * LONGEST_TMPDIR)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    monkeypatch.setenv("TMPDIR", "/tmp")
    with AppiumServer() as server:
        assert psutil.Process(server.pid).environ()["TMPDIR"] == "/tmp"


# ---- servers that do not work


def test_what_is_missing_is_told_with_the_command_that_mends_it(tmp_path):
    with pytest.raises(InputError, match=f"run `npm ci` in {tmp_path}"):
        AppiumServer(home=tmp_path).ready()


def test_without_node_it_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install Node.js" in (why_not_installed() or "")


def test_a_server_that_ends_tells_its_last_words(tmp_path):
    need_appium()
    home = home_of("console.error('no driver is installed'); process.exit(4)", tmp_path / "home")
    server = AppiumServer(home=home)
    with pytest.raises(ProcessFailedError, match=r"Appium ended with code 4 before GET /status \(no driver"):
        server.ready()
    server.stop()


def test_a_server_that_never_answers_is_given_up_in_time(tmp_path):
    need_appium()
    home = home_of("setTimeout(() => {}, 600000)", tmp_path / "home")
    server = AppiumServer(home=home, start_seconds=0.5)
    with pytest.raises(DeadlineExceededError, match=r"Appium: GET /status took longer than 0\.5 s"):
        server.ready()
    assert server.pid is None
    server.stop()


def test_a_port_that_was_taken_meanwhile_is_replaced_by_another(tmp_path):
    need_appium()
    clash = (
        "const fs = require('fs'), first = process.env.APPIUM_HOME + '/first', words = process.argv;"
        "if (!fs.existsSync(first)) { fs.writeFileSync(first, ''); console.error('EADDRINUSE'); process.exit(1) }"
        "require('http').createServer((_, out) => out.end('{\"value\": {\"ready\": true}}'))"
        ".listen(+words[words.indexOf('--port') + 1], '127.0.0.1')"
    )
    home = home_of(clash, tmp_path / "home")
    with AppiumServer(home=home) as server:
        assert server.starts == 2
        assert server.answers()


# ---- where it is


def test_its_packages_are_pinned_exactly():
    packages = json.loads((Path(appium_home({})) / "package.json").read_text())["dependencies"]
    assert {"appium", "appium-chromium-driver", "appium-uiautomator2-driver"} == set(packages)
    assert all(version.replace(".", "").isdigit() for version in packages.values())


def test_the_lock_holds_the_pinned_versions():
    packages = json.loads((Path(appium_home({})) / "package.json").read_text())["dependencies"]
    locked = json.loads((Path(appium_home({})) / "package-lock.json").read_text())["packages"]
    assert {name: locked[f"node_modules/{name}"]["version"] for name in packages} == packages


def test_another_home_can_be_named(tmp_path):
    assert appium_home({"DIGIQ_APPIUM_HOME": str(tmp_path)}) == tmp_path


def test_a_server_of_somebody_else_is_left_alone():
    assert RemoteAppium("http://10.0.0.1:4723").ready() == "http://10.0.0.1:4723"
