"""What tests with a real Appium server share: whether it can run here, one server for all tests, and process lists.

A test that cannot run is skipped and says what is missing; with DIGIQ_REQUIRE_APPIUM=1 it fails instead.
"""

from __future__ import annotations

import functools
import os
import shutil
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import psutil
import pytest

from emulator_workers.appium_server import SHARED, AppiumServer, why_not_installed
from emulator_workers.devices.chromium import why_no_chromium
from emulator_workers.processes.leases import PortKind, PortLease, PortLeases
from emulator_workers.processes.sweep import marked

REQUIRED = "DIGIQ_REQUIRE_APPIUM"


def require(reason: str | None) -> None:
    """Skips the test, or fails it, unless there is no reason to."""
    if reason is None:
        return
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{REQUIRED}=1, but {reason}")
    pytest.skip(reason)


def need_appium() -> None:
    require(why_not_installed())


def need_chromium() -> None:
    require(why_not_installed() or why_no_chromium())


def need_adb() -> None:
    require(None if shutil.which("adb") else "adb is missing: install it (Debian: apt-get install adb)")


def shared_server() -> AppiumServer:
    """The Appium server of this test process; it starts at its first use and ends with the process."""
    return SHARED


@functools.cache
def site() -> str:
    """The address of a small web site for phones: a home page with a link, and a page with a field for text."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    threading.Thread(target=server.serve_forever, name="site", daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


class _Site(BaseHTTPRequestHandler):
    """``/`` is the home page: a link fills its upper half. On ``/app`` a field for text does."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    HEAD = (
        "<!doctype html><meta name=viewport content='width=device-width'><style>"
        "body { margin: 0; background: #cde } a, textarea { position: absolute; top: 10vh; left: 5vw; width: 90vw; "
        "height: 40vh; background: white; caret-color: transparent; resize: none; color: black }</style>"
    )
    PAGES: ClassVar[dict[str, str]] = {
        "/": "<title>home</title><a href=/app>app</a>",
        "/app": "<title>app</title><textarea></textarea><script>addEventListener('keydown', e => "
        "{ if (e.key === 'Enter') document.title = 'entered' })</script>",
        "/tabs": "<title>tabs</title><a href=/app target=_blank>app</a>",
        "/desktop": "<title>desktop</title><body style='height: 200vh'><script>"
        "addEventListener('pointerdown', e => { document.title = [e.clientX, e.clientY] })</script>",
        "/slow": "<title>slow</title>",
    }

    def do_GET(self) -> None:
        head = "<!doctype html>" if self.path == "/desktop" else self.HEAD
        body = (head + self.PAGES.get(self.path, "<title>none</title>")).encode()
        self.send_response(200)
        for name, value in {"Content-Type": "text/html", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.path == "/slow":
            threading.Event().wait(10)
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


def gone_within(seconds: float, what: Callable[[], object]) -> bool:
    """Whether ``what`` becomes empty in time."""
    deadline = time.monotonic() + seconds
    while what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


class Remembered(PortLeases):
    """The leases of this host, because other test processes open sessions at the same time; tells what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[PortLease] = []

    def lease(self, kind: PortKind) -> PortLease:
        self.given.append(super().lease(kind))
        return self.given[-1]

    @property
    def held(self) -> list[str]:
        """What was given and is not given back."""
        return [lease.name for lease in self.given if lease.held]


def ours(pid: int) -> bool:
    """Whether a process may be a test's: all but those of test processes beside this one, which take freed ports."""
    try:
        process = psutil.Process(pid)
        lineage = [each.pid for each in (process, *process.parents())]
    except psutil.NoSuchProcess:
        return False
    return os.getpid() in lineage or os.getppid() not in lineage


def listens(port: int) -> bool:
    """Whether this test process, one that it started, or an orphan, listens on a port."""
    found = [each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    return any(each.laddr.port == port and each.pid and ours(each.pid) for each in found)


def left_of(marker: str) -> list[str]:
    """The processes that carry a marker, in words."""
    return [str(process) for process in marked(marker)]


def adb_processes(port: int) -> list[list[str]]:
    """Command lines of adb clients of a server; those of other users do not count."""
    lines = {process.pid: process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])}
    return [line for pid, line in lines.items() if str(port) in line and "adb" in line[0] and ours(pid)]
