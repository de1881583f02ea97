"""What this machine has for devices: KVM, adb, the Android SDK and its AVDs, Appium, its drivers, Chromium, ports.

Each check looks and tells, changes nothing, and takes a few seconds at most. A line that is missing says how to mend
it. ``needed_for`` are the purposes that cannot do without: a laptop that plays on simulated phones needs none of these.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from digiq_ray.core.errors import DigiQError

_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        name: What was looked for.
        ok: Whether it is there.
        detail: What was seen, or what is missing.
        mend: What to do about it; empty if it is there, or if the detail says so already.
        needed_for: Purposes that cannot do without it.
    """

    name: str
    ok: bool
    detail: str
    mend: str = ""
    needed_for: tuple[str, ...] = ()


Check = Callable[[], Finding]


def kvm(path: Path = Path("/dev/kvm")) -> Finding:
    """Hardware virtualisation, without which an Android emulator is too slow to use."""
    needed = ("emulator",)
    if not path.exists():
        mend = "use bare metal or a machine with nested virtualisation, and load the kvm module"
        return Finding("KVM", False, f"no {path}", mend, needed)
    if not os.access(path, os.R_OK | os.W_OK):
        return Finding("KVM", False, f"{path} may not be opened", "add yourself to the group kvm", needed)
    return Finding("KVM", True, str(path), needed_for=needed)


def adb() -> Finding:
    """The Android debug bridge, and the devices that it knows."""
    needed = ("android", "emulator")
    program = shutil.which("adb")
    if program is None:
        return Finding("adb", False, "no adb", "install it (Debian: apt-get install adb)", needed)
    devices = adb_devices()
    if devices is None:
        return Finding("adb", True, f"{program}; no adb server runs", needed_for=needed)
    up = [name for name, state in devices.items() if state == "device"]
    return Finding("adb", True, f"{program}; {len(up)} of {len(devices)} devices up", needed_for=needed)


def adb_devices(port: int = 5037) -> dict[str, str] | None:
    """The devices that a running adb server knows and their states; ``None`` if none runs (and none is started)."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as server:
            server.sendall(b"000chost:devices")
            answer = b"".join(iter(lambda: server.recv(4096), b""))
    except OSError:
        return None
    lines = answer[8:].decode(errors="replace").splitlines()  # after OKAY and the length
    return dict(line.split("\t", 1) for line in lines if "\t" in line)


def android_sdk() -> Finding:
    """Where Appium finds adb and the emulator."""
    from emulator_workers.android_sdk import android_sdk as find

    needed = ("android", "emulator")
    try:
        return Finding("Android SDK", True, str(find()), needed_for=needed)
    except DigiQError as error:
        return Finding("Android SDK", False, str(error), needed_for=needed)


def avd() -> Finding:
    """Android virtual devices."""
    from emulator_workers.android_sdk import tool

    needed = ("emulator",)
    try:
        emulator = tool("emulator")
    except DigiQError as error:
        return Finding("AVD", False, str(error), "sdkmanager emulator installs it", needed)
    names = _output([emulator, "-list-avds"]).split()
    if not names:
        return Finding("AVD", False, "there is no AVD", "make one with avdmanager, then digiq farm golden AVD", needed)
    return Finding("AVD", True, ", ".join(names), needed_for=needed)


def appium() -> Finding:
    """Node.js and the pinned Appium."""
    from emulator_workers.appium_server import appium_home, why_not_installed

    needed = ("android", "emulator", "chromium")
    why = why_not_installed()
    if why is not None:
        return Finding("Appium", False, why, needed_for=needed)
    return Finding("Appium", True, str(appium_home()), needed_for=needed)


def driver(package: str, needed_for: tuple[str, ...]) -> Check:
    """A check for one of Appium's drivers."""

    def check() -> Finding:
        from emulator_workers.appium_server import appium_home

        place = appium_home() / "node_modules" / package
        if not (place / "package.json").is_file():
            return Finding(package, False, f"not in {appium_home()}", "make setup (npm ci there)", needed_for)
        return Finding(package, True, "installed", needed_for=needed_for)

    return check


def chromium() -> Finding:
    """Chromium and its driver."""
    from emulator_workers.devices.chromium import why_no_chromium

    why, needed = why_no_chromium(), ("chromium",)
    if why is not None:
        return Finding("Chromium", False, why, needed_for=needed)
    return Finding("Chromium", True, str(shutil.which("chromium") or "found"), needed_for=needed)


def ports() -> Finding:
    """Whether servers may listen on loopback."""
    needed = ("demo", "android", "emulator", "chromium", "cluster")
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            number = probe.getsockname()[1]
    except OSError as error:
        return Finding("ports", False, f"nothing can listen on 127.0.0.1: {error}", "check the sandbox", needed)
    return Finding("ports", True, f"127.0.0.1 gives free ports ({number})", needed_for=needed)


CHECKS: tuple[Check, ...] = (
    kvm,
    adb,
    android_sdk,
    avd,
    appium,
    driver("appium-uiautomator2-driver", ("android", "emulator")),
    driver("appium-chromium-driver", ("chromium",)),
    chromium,
    ports,
)


def _output(command: list[str]) -> str:
    """What a program prints; nothing if it fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
