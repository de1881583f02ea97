"""Prepares an AVD for the farm: a snapshot in which everything that costs time or disturbs an episode is done.

The AVD is booted once, writable. Animations and error dialogues are switched off, the first-run dialogues of Android
and Chrome are skipped, Appium's server is installed and started once; then the state is saved, and checked by booting
it read-only as the farm does. A fingerprint beside the snapshot says which emulator and which AVD made it, because a
snapshot is worth nothing to another one.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from digiq_ray.core.errors import InputError
from emulator_workers.adb_server import AdbServer
from emulator_workers.android_sdk import tool
from emulator_workers.appium_server import AppiumEndpoint
from emulator_workers.devices.android import AndroidDevice
from emulator_workers.emulator import GOLDEN, AndroidEmulator, EmulatorSettings

MARK = "digiq-golden.json"
SETTINGS = (
    ("global", "window_animation_scale", "0"),
    ("global", "transition_animation_scale", "0"),
    ("global", "animator_duration_scale", "0"),
    ("global", "hide_error_dialogs", "1"),
    ("global", "device_provisioned", "1"),
    ("global", "stay_on_while_plugged_in", "7"),
    ("secure", "user_setup_complete", "1"),
    ("secure", "immersive_mode_confirmations", "confirmed"),
)
CHROME = "com.android.chrome"
CHROME_FLAGS = "chrome --disable-fre --no-default-browser-check --no-first-run"


@dataclass(frozen=True, slots=True)
class GoldenReport:
    """What was made: the snapshot, its fingerprint, the size of its screen in pixels."""

    avd: str
    snapshot: str
    fingerprint: str
    width: int
    height: int


def avd_directory(avd: str, env: Mapping[str, str] = os.environ) -> Path:
    """Where an AVD lies.

    Raises:
        InputError: there is no such AVD.
    """
    user = Path(env.get("ANDROID_USER_HOME") or Path(env.get("HOME", "~")).expanduser() / ".android")
    home = Path(env.get("ANDROID_AVD_HOME") or user / "avd")
    if (home / f"{avd}.ini").is_file():
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string("[avd]\n" + (home / f"{avd}.ini").read_text(encoding="utf-8"))
        path = Path(parser.get("avd", "path", fallback=str(home / f"{avd}.avd")))
        if (path / "config.ini").is_file():
            return path
    known = sorted(file.stem for file in home.glob("*.ini")) if home.is_dir() else []
    raise InputError(
        f"AVD {avd!r} is not in {home} (there: {', '.join(known) or 'none'}): make it with avdmanager, "
        "or set ANDROID_AVD_HOME"
    )


def fingerprint(settings: EmulatorSettings, directory: Path, program: str) -> str:
    """What a snapshot depends on: the emulator's build, the AVD's configuration, and how it is run."""
    version = subprocess.run(
        [program, "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
    ).stdout.splitlines()[:1]
    config = (directory / "config.ini").read_text(encoding="utf-8")
    parts = (*version, config, settings.gpu, settings.memory_mb, settings.cores)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def check_golden(settings: EmulatorSettings, *, program: str | None = None) -> None:
    """Raises ``InputError`` if the AVD has no golden snapshot, or one that other settings or another build made."""
    directory = avd_directory(settings.avd)
    mark = directory / MARK
    again = f"run `digiq farm golden {settings.avd}`"
    if not mark.is_file():
        raise InputError(f"AVD {settings.avd!r} has no golden snapshot: {again}")
    made = json.loads(mark.read_text(encoding="utf-8"))
    if made["fingerprint"] != fingerprint(settings, directory, program or tool("emulator")):
        raise InputError(
            f"the golden snapshot of AVD {settings.avd!r} was made by another emulator or configuration: {again} again"
        )


def prepare_golden(
    settings: EmulatorSettings,
    server: AppiumEndpoint,
    *,
    adb_server: AdbServer,
    log: Path,
    program: str | None = None,
    adb_program: str | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> GoldenReport:
    """Makes the golden snapshot of an AVD, in place of an earlier one, and checks it.

    Args:
        settings: How the farm will run it; ``snapshot`` names the snapshot.
        server: Appium, which installs its server on the phone.
        adb_server, log, program, adb_program: See ``AndroidEmulator``.
        on_step: Told what is done next.

    Raises:
        InputError: the AVD, or something on this machine, is missing.
        DeviceError: the emulator fails.
    """
    directory = avd_directory(settings.avd)
    program = program or tool("emulator")
    name = settings.snapshot or GOLDEN
    (directory / MARK).unlink(missing_ok=True)

    def emulator(how: EmulatorSettings) -> AndroidEmulator:
        return AndroidEmulator(how, adb_server=adb_server, log=log, program=program, adb_program=adb_program)

    writable = emulator(replace(settings, snapshot=None, read_only=False))
    try:
        on_step("boots the AVD, writable and cold")
        writable.start()
        on_step("switches animations and first-run dialogues off")
        for space, key, value in SETTINGS:
            writable.shell("settings", "put", space, key, value)
        writable.shell(f"echo '{CHROME_FLAGS}' > /data/local/tmp/chrome-command-line")
        writable.shell("am", "set-debug-app", "--persistent", CHROME)
        on_step("installs Appium's server and starts it once")
        _screen(AndroidDevice(writable, server))
        on_step(f"saves the snapshot {name!r}")
        writable.save_snapshot(name)
    finally:
        writable.stop()
    shared = emulator(replace(settings, snapshot=name, read_only=True))
    try:
        on_step("boots it read-only, as the farm does, and takes a screenshot")
        shared.start()
        width, height = _screen(AndroidDevice(shared, server, prepared=True))
    finally:
        shared.stop()
    made = fingerprint(settings, directory, program)
    mark = {"snapshot": name, "fingerprint": made, "made": datetime.now(UTC).isoformat(timespec="seconds")}
    (directory / MARK).write_text(json.dumps(mark), encoding="utf-8")
    return GoldenReport(settings.avd, name, made, width, height)


def _screen(device: AndroidDevice) -> tuple[int, int]:
    """Starts a device, looks at its home screen, and gives it back; the size in pixels."""
    device.start()
    try:
        frame = device.reset()
        return frame.width, frame.height
    finally:
        device.close()
