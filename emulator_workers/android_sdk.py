"""Where the Android tools are, and calls of ``adb`` with deadlines and typed errors.

``adb`` is asked through its client program, which every installation has, on the server port that the caller names:
one adb server per group of devices keeps a hanging one from holding up all others.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from digiq_ray.core.errors import InputError
from emulator_workers.devices.base import DeviceUnreachable

HOST = "127.0.0.1"
ADB_PORT = 5037
DEBIAN_SDK = Path("/usr/lib/android-sdk")
FIRST_PAUSE, LAST_PAUSE = 0.1, 2.0


def android_sdk(env: Mapping[str, str] = os.environ) -> Path:
    """The Android SDK: ``$ANDROID_HOME``, ``$ANDROID_SDK_ROOT``, or the directory of Debian's packages.

    Raises:
        InputError: there is none.
    """
    for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT"):
        if env.get(name):
            path = Path(env[name])
            if path.is_dir():
                return path
            raise InputError(f"{name} names {path}, which is no directory: set it to the Android SDK")
    if DEBIAN_SDK.is_dir():
        return DEBIAN_SDK
    raise InputError("the Android SDK is missing: set ANDROID_HOME to it (for adb alone, Debian: apt-get install adb)")


def tool(name: str, *, sdk: Path | None = None) -> str:
    """The path of ``adb`` or ``emulator``: in the SDK, else on the search path.

    Raises:
        InputError: it is not there.
    """
    places = {"adb": "platform-tools/adb", "emulator": "emulator/emulator"}
    where = sdk
    if where is None:
        try:
            where = android_sdk()
        except InputError:
            where = None
    if where is not None and (where / places[name]).is_file():
        return str(where / places[name])
    found = shutil.which(name) if sdk is None else None
    if found is None:
        raise InputError(f"{name} is missing{f' in {where}' if where else ''}: install it and set ANDROID_HOME")
    return found


def only_if_there(port: int) -> bool:
    """Whether an adb server's client must not start the server when it finds none.

    The common one is every process's, and adb starts it as always. One on another port was started for somebody, who
    ends it too: a server that a client put in its place would stay behind. A client that is told a host starts none.
    """
    return port != ADB_PORT


class Adb:
    """``adb`` for one device.

    Args:
        udid: The device's serial.
        port: Of the adb server; see ``only_if_there``.
        program: The client; found by default.
        seconds: Deadline of each call that names none.
    """

    def __init__(self, udid: str, *, port: int = ADB_PORT, program: str | None = None, seconds: float = 20.0) -> None:
        self.udid, self.port, self._seconds = udid, port, seconds
        self._program = program or tool("adb")

    def run(self, *arguments: str, seconds: float | None = None) -> str:
        """What the client prints.

        Raises:
            DeviceUnreachable: it fails, or does not answer in time.
        """
        limit = self._seconds if seconds is None else seconds
        host = ("-H", HOST) if only_if_there(self.port) else ()
        command = [self._program, *host, "-P", str(self.port), "-s", self.udid, *arguments]
        what = f"adb {' '.join(arguments)} on {self.udid}"
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=limit
            )
        except subprocess.TimeoutExpired as error:
            raise DeviceUnreachable(f"{what} took longer than {limit:g} s") from error
        if done.returncode != 0:
            words = (done.stderr.strip() or done.stdout.strip() or f"code {done.returncode}").splitlines()[-1]
            raise DeviceUnreachable(f"{what} failed: {words}")
        return done.stdout

    def shell(self, *words: str, seconds: float | None = None) -> str:
        """What a command on the device prints, without the last line end."""
        return self.run("shell", *words, seconds=seconds).rstrip("\r\n")

    def state(self) -> str:
        """``device`` if it is up; otherwise ``offline``, ``unauthorized`` or what adb says. Never raises."""
        try:
            return self.run("get-state", seconds=5.0).strip()
        except DeviceUnreachable as error:
            return str(error)

    def emulator(self, *words: str, seconds: float | None = None) -> str:
        """What the emulator's console answers.

        Raises:
            DeviceUnreachable: it answers ``KO``, or not at all.
        """
        answer = self.run("emu", *words, seconds=seconds).strip()
        refusal = next((line for line in answer.splitlines() if line.startswith("KO")), None)
        if refusal is not None:
            raise DeviceUnreachable(f"the console of {self.udid} refuses {' '.join(words)}: {refusal}")
        return answer

    def booted(self) -> bool:
        """Whether Android says that it has booted; false as long as adb cannot ask."""
        try:
            return self.shell("getprop", "sys.boot_completed", seconds=5.0).strip() == "1"
        except DeviceUnreachable:
            return False

    def wait_until_booted(self, seconds: float) -> None:
        """Waits for adb to see the device and for Android to have booted.

        Raises:
            DeviceUnreachable: that took longer than ``seconds``.
        """
        deadline, pause = time.monotonic() + seconds, FIRST_PAUSE
        self.run("wait-for-device", seconds=seconds)
        while not self.booted():
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeviceUnreachable(
                    f"{self.udid} has not booted within {seconds:g} s (sys.boot_completed is not 1)"
                )
            time.sleep(min(pause, left))
            pause = min(1.5 * pause, LAST_PAUSE)
