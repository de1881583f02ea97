"""An adb server of one's own, so that emulators of one worker are not held up, or ended, by what others do with adb.

The default server (port 5037) is every process's; phones on a cable can only be reached through it. Emulators need no
cable, and a server on a leased port, in the foreground of an own process group, serves them alone.
"""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

from emulator_workers.android_sdk import tool
from emulator_workers.processes.leases import PortKind, PortLease, PortLeases
from emulator_workers.processes.owned import OwnedProcess

HOST = "127.0.0.1"
START_SECONDS = 20.0


class AdbServer:
    """One adb server. Thread-safe.

    Args:
        log: What it writes is appended to this file.
        ports: Where its port comes from.
        program: The adb client, which is the server too; found by default.
    """

    def __init__(self, *, log: Path, ports: PortLeases | None = None, program: str | None = None) -> None:
        self._log, self._ports, self._program = log, ports, program
        self._lock = threading.Lock()
        self._port: PortLease | None = None
        self._process: OwnedProcess | None = None

    def ready(self) -> int:
        """The port that it listens on; starts it, or starts it again if it has died.

        Raises:
            InputError: adb is missing.
            ProcessFailedError: it does not start.
            DeadlineExceededError: it does not listen in time.
        """
        with self._lock:
            if self._process is None or not self._process.alive:
                self._end()
                self._start()
            assert self._port is not None
            return self._port.port

    def stop(self) -> None:
        """Ends it; may be called twice."""
        with self._lock:
            self._end()

    def __enter__(self) -> AdbServer:
        self.ready()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _start(self) -> None:
        program = self._program or tool("adb")
        self._port = (self._ports or PortLeases()).lease(PortKind.ADB_SERVER)
        command = (program, "-P", str(self._port.port), "nodaemon", "server")
        env = {name: value for name, value in os.environ.items() if not name.startswith("ADB_")}
        self._process = OwnedProcess(command, name="the adb server", log=self._log, env=env)
        try:
            self._process.start()
            self._process.wait_until(self._listens, what="listening", seconds=START_SECONDS)
        except BaseException:
            self._end()
            raise

    def _listens(self) -> bool:
        assert self._port is not None
        try:
            socket.create_connection((HOST, self._port.port), timeout=1.0).close()
        except OSError:
            return False
        return True

    def _end(self) -> None:
        if self._process is not None:
            self._process.stop(term_seconds=2.0)
        if self._port is not None:
            self._port.release()
        self._process = self._port = None
