"""The side channel of a stub that runs in another process: ``PhoneControl`` over HTTP on the loopback interface.

The address holds a random token, and only requests that name this server as their host are answered, so that neither
another user nor a web page gets at a phone by chance. Each call is one request with a deadline.
"""

from __future__ import annotations

import http.client
import json
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, cast
from urllib.parse import urlsplit

from digiq_ray.core.tasks import Task
from emulator_workers.devices.base import DeviceUnreachable
from emulator_workers.stub.android_stub import AndroidStub
from emulator_workers.stub.faults import StubFault
from emulator_workers.stub.listening import HOST, Listener
from emulator_workers.stub.phone import StubPhone
from emulator_workers.stub.screen import Clock

CALL_SECONDS = 10.0
LARGEST_BODY = 1 << 20


class ControlServer:
    """Serves the phones of a stub until ``close``. Also a context manager.

    Attributes:
        url: Its address, with the token: a secret.
    """

    def __init__(self, stub: AndroidStub) -> None:
        self._stub = stub
        self._token = secrets.token_urlsafe(16)
        self._listener = Listener(self._serve, name="stub control")
        self.url = f"http://{HOST}:{self._listener.port}/{self._token}"

    def close(self) -> None:
        """Frees its port; may be called twice."""
        self._listener.close()
        self._listener.join(CALL_SECONDS)

    def __enter__(self) -> ControlServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _serve(self, connection: socket.socket) -> None:
        host = f"{HOST}:{self._listener.port}"
        handler = type("_Handler", (_ControlHandler,), {"stub": self._stub, "token": self._token, "host": host})
        handler(connection, (HOST, 0), cast(Any, None))


class _ControlHandler(BaseHTTPRequestHandler):
    """``POST /TOKEN/UDID/CALL`` with the call's arguments as a JSON object."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    stub: AndroidStub
    token: str
    host: str

    def do_POST(self) -> None:
        token, udid, what = [*self.path.lstrip("/").split("/"), "", "", ""][:3]
        known = secrets.compare_digest(token.encode(), self.token.encode()) and self.headers.get("Host") == self.host
        phone = self.stub.phones.get(udid) if known else None
        length = int(self.headers.get("Content-Length") or 0)
        call = _CALLS.get(what)
        if phone is None or call is None or not 0 <= length <= LARGEST_BODY:
            self.close_connection = True
            self._answer(HTTPStatus.NOT_FOUND, "no such phone or call")
            return
        try:
            arguments = json.loads(self.rfile.read(length) or b"{}")
            self._answer(HTTPStatus.OK, call(phone, arguments))
        except DeviceUnreachable as error:
            self._answer(HTTPStatus.CONFLICT, str(error))
        except (KeyError, TypeError, ValueError) as error:
            self._answer(HTTPStatus.BAD_REQUEST, f"{what}: {error!r}")

    def _answer(self, status: HTTPStatus, value: object) -> None:
        data = json.dumps({"value": value}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged: its address is a secret."""


def _ensure(phone: StubPhone, arguments: Mapping[str, Any]) -> int:
    del arguments
    phone.ensure()
    return phone.adb_port


_CALLS: dict[str, Callable[[StubPhone, Mapping[str, Any]], object]] = {
    "ensure": _ensure,
    "restore": lambda phone, _: phone.restore(),
    "reboot": lambda phone, _: phone.reboot(),
    "unplug": lambda phone, _: phone.unplug(),
    "begin": lambda phone, given: phone.begin(Task(**given["task"]), Clock(given["clock"])),
    "tick": lambda phone, _: phone.tick(),
    "succeeded": lambda phone, _: phone.succeeded(),
    "inject": lambda phone, given: phone.inject(
        StubFault(given["kind"]), shots=given["shots"], seconds=given["seconds"]
    ),
    "injected": lambda phone, _: phone.injected,
}


class RemotePhone:
    """A phone of a stub in another process of this host.

    Args:
        url: Of the stub's ``ControlServer``.
        udid: The phone.
    """

    def __init__(self, url: str, udid: str) -> None:
        address = urlsplit(url)
        self._port, self._path = address.port or 0, f"{address.path}/{udid}"
        self._adb_port = 0
        self.udid = udid

    @property
    def adb_port(self) -> int:
        """The adb server that knows it; 0 before ``ensure``."""
        return self._adb_port

    def ensure(self) -> None:
        """See ``PhoneControl``."""
        self._adb_port = int(self._call("ensure"))

    def restore(self) -> None:
        """See ``PhoneControl``."""
        self._call("restore")

    def reboot(self) -> None:
        """See ``PhoneControl``."""
        self._call("reboot")

    def unplug(self) -> None:
        """See ``PhoneControl``. A stub that is gone has unplugged it already."""
        try:
            self._call("unplug")
        except DeviceUnreachable:
            self._adb_port = 0

    def begin(self, task: Task, clock: Clock = Clock.ON_TICK) -> None:
        """See ``PhoneControl``."""
        self._call("begin", task=asdict(task), clock=clock)

    def tick(self) -> None:
        """See ``PhoneControl``."""
        self._call("tick")

    def succeeded(self) -> bool:
        """See ``PhoneControl``."""
        return bool(self._call("succeeded"))

    def inject(self, kind: StubFault, *, shots: int = 1, seconds: float = 1.0) -> None:
        """See ``PhoneControl``."""
        self._call("inject", kind=kind, shots=shots, seconds=seconds)

    @property
    def injected(self) -> dict[StubFault, int]:
        """See ``PhoneControl``."""
        return {StubFault(kind): count for kind, count in self._call("injected").items()}

    def _call(self, what: str, **arguments: object) -> Any:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=CALL_SECONDS)
        try:
            connection.request("POST", f"{self._path}/{what}", json.dumps(arguments))
            answer = connection.getresponse()
            value = json.load(answer)["value"]
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DeviceUnreachable(f"{self.udid}: the stub does not answer ({type(error).__name__})") from error
        finally:
            connection.close()
        if answer.status != HTTPStatus.OK:
            raise DeviceUnreachable(f"{self.udid}: the stub refuses {what}: {value}")
        return value
