"""Whether this machine has what a farm needs, asked before anything is started: a missing phone is told at once.

Without it a farm would start its workers, and find out by and by that none of their devices can be reached. Nothing is
started here and nothing is changed; what is asked takes a second. It holds for this machine only: the workers of a
cluster may be on others.
"""

from __future__ import annotations

from digiq_ray.core.errors import InputError
from emulator_workers.backends import Backend
from emulator_workers.checks.machine import adb_devices

_DOCTOR = {"chromium": "chromium", "stub": "android", "android": "android"}


def check_ready(backend: Backend) -> None:
    """Raises ``InputError`` if this machine lacks what the devices of ``backend`` need, with how to mend it."""
    if backend.kind == "simulated":
        return
    from emulator_workers.android_sdk import tool
    from emulator_workers.appium_server import why_not_installed
    from emulator_workers.devices.chromium import why_no_chromium

    here = not backend.appium_url  # an Appium elsewhere has its own Node.js and browser
    missing = why_not_installed() if here else None
    if missing is None and here and backend.kind == "chromium":
        missing = why_no_chromium()
    if missing is not None:
        purpose = _DOCTOR[backend.kind]
        raise InputError(f"--device {backend.kind}: {missing}; digiq doctor --for {purpose} says what else is missing")
    if backend.kind == "chromium":
        return
    tool("adb")
    if backend.avd:
        _check_avd(backend.avd)
    elif backend.udids:
        _check_phones(backend.udids, backend.adb_port)


def _check_avd(avd: str) -> None:
    from emulator_workers.emulator import EmulatorSettings
    from emulator_workers.golden import check_golden

    check_golden(EmulatorSettings(avd=avd))


def _check_phones(udids: tuple[str, ...], adb_port: int) -> None:
    """One of them is enough: the others may come back while the farm runs."""
    known = adb_devices(adb_port)
    if known is None:
        raise InputError(
            f"no adb server runs on port {adb_port}, so no Android device can be reached: "
            "`adb devices` starts one and lists what it knows"
        )
    if not any(known.get(udid) == "device" for udid in udids):
        seen = ", ".join(f"{name} ({state})" for name, state in known.items()) or "no device"
        raise InputError(
            f"{' and '.join(udids)}: not up at the adb server on port {adb_port}, which knows {seen}; "
            "connect or start the device and look with `adb devices`"
        )
