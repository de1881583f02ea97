"""An SDK whose ``emulator`` and ``adb`` are small programs: what they are asked is logged, how they answer is set.

Both read the same directory. ``switch on`` a file there and they behave otherwise; ``calls`` has one line per call.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

EMULATOR = """
import json, os, sys, time
from pathlib import Path
here = Path({here!r})
if "-version" in sys.argv:
    print("Android emulator version " + (here / "version").read_text())
    sys.exit()
with (here / "calls").open("a") as log:
    log.write(json.dumps(["emulator", *sys.argv[1:], "adb=" + os.environ["ANDROID_ADB_SERVER_PORT"]]) + "\\n")
if (here / "refusal").exists():
    sys.exit((here / "refusal").read_text())
console = sys.argv[sys.argv.index("-ports") + 1].partition(",")[0]
(here / ("pid of emulator-" + console)).write_text(str(os.getpid()))
if not (here / "never boots").exists():
    (here / "up").touch()
time.sleep(600)
"""

ADB = """
import json, os, signal, socket, sys, time
from pathlib import Path
here, words = Path({here!r}), sys.argv[1:]
host = words[:2] == ["-H", "127.0.0.1"]
del words[:2 * host]
assert words.pop(0) == "-P"
port = int(words.pop(0))
assert host == (port != 5037 and words != ["nodaemon", "server"])
if words == ["nodaemon", "server"]:
    with socket.create_server(("127.0.0.1", port)) as server:
        while True:
            server.accept()[0].close()
assert words.pop(0) == "-s"
udid = words.pop(0)
if words[0] not in ("wait-for-device", "get-state") and "getprop" not in words:
    with (here / "calls").open("a") as log:
        log.write(json.dumps(["adb", port, udid, *words]) + "\\n")
up = (here / "up").exists()
if words == ["get-state"]:
    print("device" if up else "offline")
elif words == ["wait-for-device"]:
    time.sleep(0 if up or (here / "never boots").exists() else 0.1)
    sys.exit(0 if up else "no device")
elif words == ["shell", "getprop", "sys.boot_completed"]:
    print("1" if up else "")
elif words == ["emu", "kill"]:
    if (here / "deaf").exists():
        sys.exit("error: could not connect to the console")
    (here / "up").unlink(missing_ok=True)
    os.kill(int((here / ("pid of " + udid)).read_text()), signal.SIGKILL)
    print("OK: killing emulator, bye bye")
elif words[:3] == ["emu", "avd", "snapshot"]:
    print("KO: no snapshot named " + words[-1] if (here / "no snapshot").exists() else "OK")
elif words == ["hang"]:
    time.sleep(600)
elif words == ["fail"]:
    sys.exit("adb: something is wrong")
"""


class FakeSdk:
    """Two programs and the directory that both read."""

    def __init__(self, here: Path) -> None:
        self._here = here
        here.mkdir()
        self.switch_on("version", "36.1.9")
        self.emulator, self.adb = (self._program(*each) for each in (("emulator", EMULATOR), ("adb", ADB)))

    def switch_on(self, name: str, text: str = "") -> None:
        (self._here / name).write_text(text)

    def switch_off(self, name: str) -> None:
        (self._here / name).unlink()

    def calls(self, program: str, *, least: int = 0) -> list[list[str]]:
        """What a program was asked, without its own name and adb's port and serial.

        Args:
            program: Its name.
            least: So many calls are waited for: on a busy machine a process that was started may not run yet.
        """
        file, end = self._here / "calls", time.monotonic() + 60
        while True:
            lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
            found = [line[3:] if program == "adb" else line[1:] for line in lines if line[0] == program]
            if len(found) >= least or time.monotonic() > end:
                return found
            time.sleep(0.05)

    def _program(self, name: str, code: str) -> str:
        path = self._here / f"fake-{name}"
        path.write_text(f"#!{sys.executable}\n{code.replace('{here!r}', repr(str(self._here)))}")
        path.chmod(0o700)
        return str(path)
