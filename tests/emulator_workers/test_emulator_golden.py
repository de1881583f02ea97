"""The golden snapshot: what is done to an AVD, in which order, and how a stale snapshot is noticed; on a fake SDK."""

from __future__ import annotations

import json

import pytest
from android_fakes import FakeSdk

from digiq_ray.core.errors import InputError
from emulator_workers.adb_server import AdbServer
from emulator_workers.appium_server import RemoteAppium
from emulator_workers.devices.base import DeviceUnreachable
from emulator_workers.emulator import EmulatorSettings
from emulator_workers.golden import MARK, avd_directory, check_golden, fingerprint, prepare_golden

SETTINGS = EmulatorSettings(avd="phone", boot_seconds=20, stop_seconds=5)


@pytest.fixture
def sdk(tmp_path):
    return FakeSdk(tmp_path / "sdk")


@pytest.fixture
def avd(tmp_path, monkeypatch):
    """An AVD's directory."""
    home = tmp_path / "avds"
    (home / "phone.avd").mkdir(parents=True)
    (home / "phone.avd" / "config.ini").write_text("hw.lcd.width = 1080\n")
    (home / "phone.ini").write_text(f"avd.ini.encoding=UTF-8\npath={home / 'phone.avd'}\n")
    monkeypatch.setenv("ANDROID_AVD_HOME", str(home))
    return home / "phone.avd"


@pytest.fixture
def sessions(monkeypatch):
    """What was asked of Appium, in place of a session: whether the phone counted as prepared."""
    opened = []

    def screen(device):
        opened.append((device._phone._settings.read_only, device._prepared))
        return 1080, 2280

    monkeypatch.setattr("emulator_workers.golden._screen", screen)
    return opened


@pytest.fixture
def prepare(sdk, avd, sessions, tmp_path):
    def prepare(on_step=lambda step: None):
        with AdbServer(log=tmp_path / "adb.log", program=sdk.adb) as adb_server:
            return prepare_golden(
                SETTINGS,
                RemoteAppium("http://127.0.0.1:1"),
                adb_server=adb_server,
                log=tmp_path / "emulator.log",
                program=sdk.emulator,
                adb_program=sdk.adb,
                on_step=on_step,
            )

    return prepare


def test_the_avd_is_prepared_writable_saved_and_checked_read_only(prepare, sdk, sessions):
    report = prepare()
    first, second = sdk.calls("emulator", least=2)
    assert "-no-snapshot-load" in first
    assert "-read-only" not in first
    assert second[second.index("-snapshot") + 1] == "golden"
    assert "-read-only" in second
    assert sessions == [(False, False), (True, True)]
    assert (report.snapshot, report.width, report.height) == ("golden", 1080, 2280)


def test_animations_and_dialogues_are_off_before_the_state_is_saved(prepare, sdk):
    prepare()
    calls = sdk.calls("adb")
    saved = calls.index(["emu", "avd", "snapshot", "save", "golden"])
    before = [" ".join(words) for words in calls[:saved]]
    for wanted in ("window_animation_scale 0", "hide_error_dialogs 1", "user_setup_complete 1", "--disable-fre"):
        assert any(wanted in words for words in before), wanted


def test_no_emulator_is_left_and_each_step_is_announced(prepare, sdk):
    steps = []
    prepare(steps.append)
    assert sdk.calls("adb").count(["emu", "kill"]) == 2
    assert len(steps) == 5


def test_a_golden_snapshot_is_accepted_until_the_emulator_or_the_avd_changes(prepare, sdk, avd):
    prepare()
    check_golden(SETTINGS, program=sdk.emulator)
    sdk.switch_on("version", "37.0.0")
    with pytest.raises(InputError, match=r"made by another emulator.*digiq farm golden phone` again"):
        check_golden(SETTINGS, program=sdk.emulator)
    sdk.switch_on("version", "36.1.9")
    (avd / "config.ini").write_text("hw.lcd.width = 720\n")
    with pytest.raises(InputError, match="made by another emulator"):
        check_golden(SETTINGS, program=sdk.emulator)


def test_how_the_emulator_runs_is_part_of_the_fingerprint(sdk, avd):
    other = EmulatorSettings(avd="phone", gpu="swangle_indirect")
    assert fingerprint(SETTINGS, avd, sdk.emulator) != fingerprint(other, avd, sdk.emulator)
    assert fingerprint(SETTINGS, avd, sdk.emulator) == fingerprint(SETTINGS, avd, sdk.emulator)


def test_an_avd_without_a_golden_snapshot_is_told_the_command(avd):
    with pytest.raises(InputError, match="has no golden snapshot: run `digiq farm golden phone`"):
        check_golden(SETTINGS, program="unused")


def test_a_failed_preparation_leaves_no_mark_and_no_emulator(prepare, sdk, avd):
    (avd / MARK).write_text(json.dumps({"fingerprint": "of an earlier one"}))
    sdk.switch_on("no snapshot")
    with pytest.raises(DeviceUnreachable, match="refuses avd snapshot save golden"):
        prepare()
    assert not (avd / MARK).exists()
    assert sdk.calls("adb")[-1] == ["emu", "kill"]


def test_an_unknown_avd_is_told_with_those_that_are_there(avd):
    with pytest.raises(InputError, match=r"AVD 'tablet' is not in .* \(there: phone\)"):
        avd_directory("tablet")


def test_avds_lie_below_the_home_directory(tmp_path):
    home = tmp_path / ".android" / "avd"
    (home / "x.avd").mkdir(parents=True)
    (home / "x.avd" / "config.ini").touch()
    (home / "x.ini").touch()
    assert avd_directory("x", {"HOME": str(tmp_path)}) == home / "x.avd"
