"""The pages of simulated phones, served on the loopback interface: one server for all phones of a process.

A phone's address holds a random token, and only requests that name this server as their host are answered, so that
neither another user nor another web page gets at a phone by chance. What the judge knows is not served at all: it is
asked of the ``PhoneSession`` in this process.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources

from emulator_workers.webphone.session import BadEvent, PhoneSession

HOST = "127.0.0.1"
LARGEST_EVENT = 1 << 20


class WebPhoneServer:
    """Serves phones from ``open`` to ``close``; its thread runs only while there is one. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phones: dict[str, PhoneSession] = {}
        self._server: _Server | None = None

    def open(self, phone: PhoneSession) -> str:
        """The address of a phone's page. Loading it presses the home key."""
        with self._lock:
            if self._server is None:
                self._server = _Server(self._phones)
                threading.Thread(target=self._server.serve_forever, name="webphone", daemon=True).start()
            token = secrets.token_urlsafe(16)
            self._phones[token] = phone
            return f"http://{HOST}:{self._server.server_port}/{token}/"

    def close(self, url: str) -> None:
        """Forgets a phone; the last one ends the server. May be called twice."""
        with self._lock:
            self._phones.pop(url.rstrip("/").rpartition("/")[2], None)
            if not self._phones and self._server is not None:
                self._server.shutdown()
                self._server.server_close()
                self._server = None


SHARED = WebPhoneServer()
"""The server of this process."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, phones: Mapping[str, PhoneSession]) -> None:
        super().__init__((HOST, 0), _Handler)
        self.phones = phones
        self.page = (resources.files(__package__) / "page.html").read_bytes()


class _Handler(BaseHTTPRequestHandler):
    """``GET /TOKEN/``, ``GET /TOKEN/frame``, ``POST /TOKEN/event``."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one write per answer, else each costs a delayed acknowledgement
    timeout = 60.0
    server: _Server

    def do_GET(self) -> None:
        phone, what = self._addressed()
        if phone is None:
            self._answer(HTTPStatus.NOT_FOUND)
        elif what == "":
            phone.home()
            self._answer(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")
        elif what == "frame":
            picture = phone.frame()
            self._answer(HTTPStatus.OK, picture.png, "image/png", {"X-Takes-Text": str(int(picture.takes_text))})
        else:
            self._answer(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        phone, what = self._addressed()
        length = int(self.headers.get("Content-Length") or 0)
        if phone is None or what != "event" or not 0 < length <= LARGEST_EVENT:
            self.close_connection = True
            self._answer(HTTPStatus.NOT_FOUND)
            return
        try:
            event = json.loads(self.rfile.read(length))
            takes_text = phone.event(event)
        except (ValueError, BadEvent):
            self._answer(HTTPStatus.BAD_REQUEST)
            return
        self._answer(HTTPStatus.OK, json.dumps({"takes_text": takes_text}).encode(), "application/json")

    def _addressed(self) -> tuple[PhoneSession | None, str]:
        """The phone that the path names, and the rest of the path."""
        token, _, what = self.path.partition("?")[0].lstrip("/").partition("/")
        if self.headers.get("Host") != f"{HOST}:{self.server.server_port}":
            return None, what
        return self.server.phones.get(token), what

    def _answer(
        self,
        status: HTTPStatus,
        body: bytes = b"",
        mime: str = "text/plain",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        policy = "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
        fixed = {"Content-Type": mime, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
        for name, value in {**fixed, "Content-Security-Policy": policy, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged: every touch is a request."""
