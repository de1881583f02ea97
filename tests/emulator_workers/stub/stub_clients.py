"""Clients of the stub in plain Python: adb's protocol, and the driver's HTTP calls to the server on the phone."""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
from typing import Any

from PIL import Image

from emulator_workers.stub.adb_wire import receive, request

SECONDS = 10.0
SERVER = "io.appium.uiautomator2.server"
INSTRUMENT = f"am instrument -w -e disableAnalytics true {SERVER}.test/androidx.test.runner.AndroidJUnitRunner"


class Refusal(Exception):
    """The adb server answered FAIL."""


class AdbClient:
    """Speaks to an adb server."""

    def __init__(self, port: int) -> None:
        self.port = port

    def connect(self, *requests: str) -> socket.socket:
        """A connection on which all requests were answered OKAY."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)
        try:
            for each in requests:
                connection.sendall(request(each))
                if receive(connection, 4) != b"OKAY":
                    raise Refusal(receive(connection, int(receive(connection, 4), 16)).decode())
        except BaseException:
            connection.close()
            raise
        return connection

    def host(self, what: str) -> str:
        """What the server says about itself."""
        with self.connect(what) as connection:
            return receive(connection, int(receive(connection, 4), 16)).decode()

    def device(self, udid: str, what: str) -> bytes:
        """All that a phone says."""
        with self.connect(f"host:transport:{udid}", what) as connection:
            return read_all(connection)

    def forward(self, udid: str, local: int = 0, remote: str = "tcp:6790") -> int:
        """Forwards a port; returns it."""
        with self.connect(f"host-serial:{udid}:forward:tcp:{local};{remote}") as connection:
            assert receive(connection, 4) == b"OKAY"
            return int(receive(connection, int(receive(connection, 4), 16))) if local == 0 else local

    def instrument(self, udid: str) -> socket.socket:
        """The stream of the server on the phone, once it has said that it runs."""
        stream = self.connect(f"host:transport:{udid}", f"shell:{INSTRUMENT}")
        assert b"INSTRUMENTATION_STATUS" in stream.recv(1 << 12)
        return stream


class Uia2Client:
    """Speaks to the server on the phone through a forwarded port, on one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        self.session = ""

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and value of one call."""
        data = json.dumps(body) if body is not None else None
        self._connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        return answer.status, json.load(answer)["value"]

    def open(self) -> None:
        """A session."""
        self.session = self.call("POST", "/session", {"capabilities": {}})[1]["sessionId"]

    def get(self, path: str) -> tuple[int, Any]:
        return self.call("GET", f"/session/{self.session}{path}")

    def post(self, path: str, body: object = None) -> tuple[int, Any]:
        return self.call("POST", f"/session/{self.session}{path}", body or {})

    def screenshot(self) -> bytes:
        return base64.b64decode(self.get("/screenshot")[1])

    def tap(self, x: int, y: int) -> tuple[int, Any]:
        steps = [{"type": "pointerMove", "x": x, "y": y}, {"type": "pointerDown"}, {"type": "pointerUp"}]
        return self.post("/actions", {"actions": [{"type": "pointer", "id": "finger", "actions": steps}]})

    def close(self) -> None:
        self._connection.close()


def read_all(connection: socket.socket) -> bytes:
    """Everything until the peer closes."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def pixels(png: bytes) -> bytes:
    """A decoded picture, with its size."""
    with Image.open(io.BytesIO(png)) as image:
        return repr(image.size).encode() + image.convert("RGB").tobytes()
