"""An Appium server of one's own: started on a leased port, waited for, restarted when it dies, ended for certain.

One server serves the devices of one worker process. It runs in its own process group on the loopback interface without
any insecure feature, with the drivers of ``emulator_workers/appium`` (its APPIUM_HOME). Sessions keep what they start
below the server's directory, so that a browser or chromedriver whose Appium was killed is found by that path on its
command line and ended. Their temporary files lie in a directory that is removed with the server: a browser that is
killed leaves some.
"""

from __future__ import annotations

import atexit
import http.client
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from digiq_ray.core.errors import InputError
from emulator_workers.android_sdk import DEBIAN_SDK
from emulator_workers.processes.guard import GUARD, Charge, clear
from emulator_workers.processes.leases import PortKind, PortLease, PortLeases
from emulator_workers.processes.owned import OwnedProcess, ProcessFailedError

HOST = "127.0.0.1"
HOME_VARIABLE = "DIGIQ_APPIUM_HOME"
START_TRIES = 3
LONGEST_TMPDIR = 60  # a browser keeps a socket 45 characters below it, and a socket's path has 107 at most


class AppiumEndpoint(Protocol):
    """Where sessions are opened."""

    @property
    def directory(self) -> Path | None:
        """Where sessions keep their files; ``None`` for any place."""
        ...

    def ready(self) -> str:
        """The URL of a server that answers; starts or restarts it if that is this process's business."""
        ...


class RemoteAppium:
    """A server that somebody else runs."""

    directory: Path | None = None

    def __init__(self, url: str) -> None:
        self._url = url

    def ready(self) -> str:
        """Its URL; whether it answers is found out by the session."""
        return self._url


def appium_home(env: Mapping[str, str] = os.environ) -> Path:
    """The directory of the pinned npm packages: ``$DIGIQ_APPIUM_HOME``, else ``emulator_workers/appium``."""
    return Path(env.get(HOME_VARIABLE) or Path(__file__).parent / "appium")


def why_not_installed(home: Path | None = None) -> str | None:
    """What is missing for Appium, with how to mend it; ``None`` if nothing is."""
    where = home or appium_home()
    if shutil.which("node") is None:
        return "node is missing: install Node.js 20.19 or later"
    if not (where / "node_modules" / "appium" / "index.js").is_file():
        return f"Appium is missing: run `npm ci` in {where} (`make setup` does it when Node.js is there)"
    return None


class AppiumServer:
    """One Appium server. Thread-safe.

    Args:
        home: APPIUM_HOME; by default ``appium_home()``.
        directory: Where its log and what its sessions need is kept; by default a fresh one that ``stop`` removes.
        ports: Where its port comes from.
        start_seconds, stop_seconds: Deadlines.
    """

    def __init__(
        self,
        *,
        home: Path | None = None,
        directory: Path | None = None,
        ports: PortLeases | None = None,
        start_seconds: float = 60.0,
        stop_seconds: float = 15.0,
    ) -> None:
        self._home = home or appium_home()
        self._given = directory
        self._ports = ports
        self._start_seconds, self._stop_seconds = start_seconds, stop_seconds
        self._lock = threading.RLock()
        self._directory: Path | None = None
        self._temporary: Path | None = None
        self._token: int | None = None
        self._port: PortLease | None = None
        self._process: OwnedProcess | None = None
        self.starts = 0

    @property
    def directory(self) -> Path:
        """Where its log is and its sessions keep their files; made at the first start.

        Raises:
            ProcessFailedError: it was not started.
        """
        if self._directory is None:
            raise ProcessFailedError("the Appium server was not started: call ready() first")
        return self._directory

    @property
    def log(self) -> Path:
        """What it has written."""
        return self.directory / "appium.log"

    @property
    def pid(self) -> int | None:
        """The server's process while it runs."""
        return self._process.pid if self._process is not None and self._process.alive else None

    def ready(self) -> str:
        """Its URL. Starts it at first, and again whenever it has died, after sweeping what it left behind.

        Raises:
            InputError: Node.js or the npm packages are missing.
            ProcessFailedError: it does not start.
            DeadlineExceededError: it does not answer within ``start_seconds``.
        """
        with self._lock:
            if self._process is None or not self._process.alive:
                self._end()
                self._start()
            assert self._port is not None
            return f"http://{HOST}:{self._port.port}"

    def stop(self) -> None:
        """Closes its sessions, ends it, sweeps orphans and removes a directory of its own. May be called twice.

        Raises:
            ProcessFailedError: something could not be ended.
        """
        with self._lock:
            self._end()
            if self._token is not None:
                clear(self._charge())
                GUARD.release(self._token)
            self._directory = self._temporary = self._token = None

    def __enter__(self) -> AppiumServer:
        self.ready()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _charge(self) -> Charge:
        return Charge(marker=str(self.directory), directory=str(self._temporary))

    def _start(self) -> None:
        missing = why_not_installed(self._home)
        if missing is not None:
            raise InputError(missing)
        if self._directory is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="digiq-appium-")).resolve()
            self._directory = self._temporary if self._given is None else self._given.resolve()
            self._directory.mkdir(parents=True, exist_ok=True)
            self._token = GUARD.take(self._charge())
        for attempt in range(START_TRIES):
            try:
                self._launch()
                return
            except ProcessFailedError:
                clash = self._process is not None and "EADDRINUSE" in self._process.output()
                self._end()
                if not clash or attempt == START_TRIES - 1:
                    raise
            except BaseException:
                self._end()
                raise

    def _launch(self) -> None:
        self._port = (self._ports or PortLeases()).lease(PortKind.APPIUM)
        port = str(self._port.port)
        node = shutil.which("node") or "node"
        program = self._home / "node_modules" / "appium" / "index.js"
        quiet = ("--log-level", "warn", "--log-no-colors", "--log-timestamp")
        command = (node, str(program), "server", "--address", HOST, "--port", port, "--base-path", "/", *quiet)
        self._process = OwnedProcess(
            command, name="Appium", log=self.log, env=self._environment(), marker=str(self.directory)
        )
        self._process.start()
        self.starts += 1
        self._process.wait_until(self.answers, what="GET /status", seconds=self._start_seconds)

    def _environment(self) -> dict[str, str]:
        """This process's environment, with what the drivers need."""
        env = {**os.environ, "APPIUM_HOME": str(self._home), "NO_UPDATE_NOTIFIER": "1"}
        if len(str(self._temporary)) <= LONGEST_TMPDIR:
            env["TMPDIR"] = str(self._temporary)
        if DEBIAN_SDK.is_dir() and "ANDROID_SDK_ROOT" not in env:
            env.setdefault("ANDROID_HOME", str(DEBIAN_SDK))
        return env

    def answers(self) -> bool:
        """Whether ``GET /status`` says that it is ready; never raises."""
        if self._port is None:
            return False
        connection = http.client.HTTPConnection(HOST, self._port.port, timeout=5.0)
        try:
            connection.request("GET", "/status")
            value = json.load(connection.getresponse()).get("value", {})
            return bool(value.get("ready", False))
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            connection.close()

    def _end(self) -> None:
        if self._process is not None:
            self._process.stop(term_seconds=self._stop_seconds)
        self._process = None
        if self._port is not None:
            self._port.release()
        self._port = None


SHARED = AppiumServer()
"""The server of this process: it starts when the first session is opened, and ends with the process."""
atexit.register(SHARED.stop)
