import dataclasses
import json
import time

import pytest

from digiq_ray.cli.main import main
from digiq_ray.store.episodes import EpisodeStore
from emulator_workers import android_sdk, appium_server
from emulator_workers.backends import Backend, Made
from emulator_workers.checks import machine, ready
from emulator_workers.devices.base import SessionLost
from emulator_workers.farm_state import FarmDirectory, FarmState, Request, WorkerState
from emulator_workers.simphone.device import SimulatedDevice

TABLE = {"farm": ("digiq_ray.cli.farm:farm", "devices")}


def farm(*words: object) -> int:
    return main(["farm", *map(str, words)], table=TABLE)


def last_json(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture
def run(tmp_path):
    """A run whose farm has two workers, one of them lost."""
    directory = FarmDirectory(tmp_path / "run" / "farm")
    directory.open()
    workers = (
        WorkerState(name="worker-0", state="busy", pid=7, jobs=3, episodes=2, steps=20, utilisation=0.91),
        WorkerState(name="worker-1", state="lost", note="hung: nothing moved for 120 s"),
    )
    state = FarmState(
        pid=1,
        updated_at=time.time(),
        wanted=2,
        done=2,
        total=5,
        state="running",
        waiting="1 worker waits for 1 android each, but no node offers it",
        losses={"hung": 1},
        device_errors={"SessionLost": 4},
        workers=workers,
    )
    directory.write(state)
    return tmp_path / "run"


def requests(run) -> list[Request]:
    return FarmDirectory(run / "farm").take_requests()


# ---- check


def test_a_simulated_phone_passes_every_step(capsys):
    assert farm("check", "--json") == 0
    report = last_json(capsys)
    assert (report["device"], report["passed"], report["failed"]) == ("simulated", True, [])
    assert [step["name"] for step in report["steps"]][:3] == ["start", "reset", "screenshots"]


def test_a_device_that_fails_a_step_ends_with_one_and_is_named(monkeypatch, capsys):
    class Mute(SimulatedDevice):
        def press(self, key):
            raise SessionLost("the keyboard is gone")

    ended = []
    monkeypatch.setattr(Backend, "make", lambda self: Made(Mute(), lambda: ended.append(True)))
    assert farm("check") == 1
    out = capsys.readouterr().out
    assert "SessionLost: the keyboard is gone" in out
    assert "failed: keys, home" in out
    assert ended == [True]


def test_android_without_a_phone_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(machine, "adb_devices", lambda port: {"emulator-5554": "offline"})
    assert farm("check", "--device", "android") == 2
    captured = capsys.readouterr()
    assert (captured.out, len(captured.err.splitlines())) == ("", 1)
    assert "an Android device that is up is not known to the adb server on port 5037 (emulator-5554)" in captured.err


@pytest.mark.parametrize("devices", [None, {"emulator-5554": "device"}])
def test_a_serial_that_adb_does_not_know_is_one_line(monkeypatch, capsys, devices):
    monkeypatch.setattr(machine, "adb_devices", lambda port: devices)
    assert farm("check", "--device", "android", "--udid", "phone-9", "--adb-port", "5099") == 2
    captured = capsys.readouterr()
    assert (captured.out, len(captured.err.splitlines())) == ("", 1)
    assert "phone-9 is not known to the adb server on port 5099" in captured.err


def test_an_avd_that_is_not_there_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ANDROID_AVD_HOME", str(tmp_path))
    assert farm("check", "--device", "android", "--avd", "phone") == 2
    captured = capsys.readouterr()
    assert (captured.out, len(captured.err.splitlines())) == ("", 1)
    assert "AVD 'phone' is not in" in captured.err


def test_android_by_id_and_by_avd_at_once_is_refused(capsys):
    assert farm("check", "--device", "android", "--udid", "x", "--avd", "y") == 2
    assert "either devices.udids or devices.avd" in capsys.readouterr().err


def test_an_unknown_kind_of_device_is_refused(capsys):
    assert farm("check", "--device", "fridge") == 2
    assert "'fridge' is not one of" in capsys.readouterr().err


# ---- run


def test_the_short_options_of_run_set_the_devices(capsys):
    assert farm("run", "--device", "chromium", "--workers", 3, "--episodes", 7, "--dry-run", "--json") == 0
    config = last_json(capsys)
    assert (config["devices"]["kind"], config["devices"]["workers"], config["collect"]["episodes"]) == (
        *("chromium", 3, 7),
    )


def test_android_devices_must_be_named(capsys):
    assert farm("run", "--device", "android", "--dry-run") == 2
    assert "needs either devices.udids or devices.avd" in capsys.readouterr().err


def test_run_collects_episodes(tmp_path, capsys):
    root = tmp_path / "run"
    assert farm("run", "--serial", "--episodes", 2, "--out", root, "--json") == 0
    out = capsys.readouterr().out
    report = json.loads(out.splitlines()[-1])
    assert (report["episodes"], sum(report["stop_reasons"].values()), report["device_errors"]) == (2, 2, {})
    assert report["path"] == str(root / "episodes")
    assert report["next"] == f"digiq candidates --config {root / 'config.yaml'} --out {root}"
    for words in ("success", "stopped by", "device errors  none", report["path"], report["next"]):
        assert words in out
    assert EpisodeStore(tmp_path / "run" / "episodes").summary().episodes == 2


@pytest.mark.parametrize("command", [["farm", "run"], ["collect"], ["demo"]])
def test_a_phone_that_is_not_there_is_told_before_anything_is_started(tmp_path, monkeypatch, capsys, command):
    monkeypatch.setattr(appium_server, "why_not_installed", lambda: None)
    monkeypatch.setattr(android_sdk, "tool", lambda name: name)
    monkeypatch.setattr(ready, "adb_devices", lambda port: {})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    words = ["--device", "android", "--set", "devices.udids=[phone-9]", "--out", str(tmp_path / "run")]
    assert main([*command, *words]) == 2
    captured = capsys.readouterr()
    assert (captured.out, len(captured.err.splitlines())) == ("", 1)
    assert "phone-9: not up at the adb server on port 5037, which knows no device" in captured.err
    assert not (tmp_path / "run").exists()


# ---- looking after


def test_list_shows_workers_losses_and_what_is_waited_for(run, capsys):
    assert farm("list", "--out", run) == 0
    out = capsys.readouterr().out
    for words in ("worker-0", "busy", "91%", "2 of 5 episodes", "1 hung", "4 SessionLost", "no node offers it"):
        assert words in out


def test_list_as_json(run, capsys):
    assert farm("list", "--out", run, "--json") == 0
    report = last_json(capsys)
    assert (report["done"], report["stale"], [one["name"] for one in report["workers"]]) == (
        *(2, False, ["worker-0", "worker-1"]),
    )


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        (["restart", "worker-0"], Request("restart", "worker-0")),
        (["restart"], Request("restart")),
        (["drain"], Request("drain")),
        (["drain", "worker-0"], Request("drain", "worker-0")),
        (["resize", "4"], Request("resize", workers=4)),
    ],
)
def test_requests_reach_the_farm(run, words, request_, capsys):
    assert farm(*words, "--out", run) == 0
    assert capsys.readouterr().out.startswith("asked: ")
    assert requests(run) == [request_]


@pytest.mark.parametrize("worker", ["worker-1", "worker-9"])
def test_a_worker_that_is_gone_is_refused(run, worker, capsys):
    assert farm("restart", worker, "--out", run) == 2
    assert "it has worker-0" in capsys.readouterr().err
    assert requests(run) == []


def test_logs_prints_the_last_lines(run, capsys):
    FarmDirectory(run / "farm").log_path("worker-0").write_text("one\ntwo\nthree\n")
    assert farm("logs", "worker-0", "--out", run, "--lines", 2) == 0
    assert capsys.readouterr().out == "two\nthree\n"


def test_a_worker_that_has_logged_nothing_yet_is_no_stranger(run, capsys):
    assert farm("logs", "worker-0", "--out", run) == 2
    assert "worker-0 has logged nothing yet" in capsys.readouterr().err
    assert farm("logs", "worker-9", "--out", run) == 2
    assert "no log of 'worker-9'; nobody has logged anything yet" in capsys.readouterr().err


def test_list_says_once_what_all_wait_for(run, capsys):
    directory = FarmDirectory(run / "farm")
    why = "2 workers wait to start"
    starting = tuple(WorkerState(name=f"worker-{n}", state="starting", note=why) for n in range(2))
    directory.write(dataclasses.replace(directory.read(), waiting=why, workers=starting))
    assert farm("list", "--out", run) == 0
    assert capsys.readouterr().out.count(why) == 1


@pytest.mark.parametrize("words", [["list"], ["drain"], ["logs", "worker-0"]])
def test_a_run_without_a_farm_is_named(tmp_path, words, capsys):
    assert farm(*words, "--out", tmp_path) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_command_that_is_not_there_names_the_nearest(capsys):
    assert farm("lst") == 2
    assert "did you mean list?" in capsys.readouterr().err
