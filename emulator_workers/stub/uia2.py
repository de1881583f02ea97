"""The UiAutomator2 server on the phone: the HTTP calls that Appium's driver passes on to it.

Each answer is one write, and the connection sends without delay, or each call would cost a delayed acknowledgement.
While the server does not run, connections are closed as those to a phone without it are, but for one thing: a driver
that asks for ``/status`` is made to wait for a server that is about to start, because it would ask again only after a
second. Calls with the id of another session than the present one are refused, as after the phone was taken by another
client.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import socket
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, cast

from emulator_workers.stub.gestures import BadActionsError, OutOfBoundsError, Text, gestures
from emulator_workers.stub.phone import StubPhone
from emulator_workers.stub.properties import DENSITY, PROPERTIES

log = logging.getLogger(__name__)

ELEMENT_KEY = "element-6066-11e4-a52e-4f735466cecf"
FOCUSED = {ELEMENT_KEY: "focused"}
START_SECONDS = 5.0
LARGEST_BODY = 1 << 20
STATUS_BAR_UNITS = 12
_SESSION = re.compile(r"/session/([^/]+)(/.*)?")


class Refused(Exception):
    """A call that is answered with a W3C error."""

    def __init__(self, error: str, message: str, status: HTTPStatus = HTTPStatus.NOT_FOUND) -> None:
        super().__init__(message)
        self.error, self.status = error, status


def serve_uia2(phone: StubPhone, connection: socket.socket, unknown: Callable[[str], None]) -> None:
    """Serves one connection to the server on the phone; ``unknown`` is told what it does not know."""
    handler = type("_Handler", (_Uia2Handler,), {"phone": phone, "unknown": staticmethod(unknown)})
    handler(connection, ("127.0.0.1", 0), cast(Any, None))


class _Uia2Handler(BaseHTTPRequestHandler):
    """One connection. Its class is made for its phone."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    phone: StubPhone
    unknown: Callable[[str], None]

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        body = self._body()
        instrumentation = self.phone.instrumentation
        wait = START_SECONDS if path == "/status" else 0.0
        if body is None or not instrumentation.wait_running(wait):
            self.close_connection = True
            return
        try:
            value, status = self._call(method, path, body), HTTPStatus.OK
        except Refused as error:
            value = {"error": error.error, "message": str(error), "stacktrace": ""}
            status = error.status
        ended = method == "DELETE" and status is HTTPStatus.OK
        if instrumentation.running or ended:
            self._answer(value, status)
        self.close_connection |= not instrumentation.running

    def _body(self) -> dict[str, Any] | None:
        """The body of a request, empty if it has none; ``None`` for one that is no JSON object."""
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 <= length <= LARGEST_BODY:
            return None
        try:
            body = json.loads(self.rfile.read(length) or b"{}")
        except ValueError:
            return None
        return body if isinstance(body, dict) else {}

    def _answer(self, value: object, status: HTTPStatus) -> None:
        data = json.dumps({"sessionId": self.phone.instrumentation.session, "value": value}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def _call(self, method: str, path: str, body: dict[str, Any]) -> object:
        instrumentation = self.phone.instrumentation
        match (method, path):
            case ("GET", "/status"):
                return {"ready": True, "message": "UiAutomator2 of the simulated phone"}
            case ("GET", "/sessions"):
                return [{"id": instrumentation.session}] if instrumentation.session is not None else []
            case ("POST", "/session"):
                return {"sessionId": instrumentation.open_session(), "capabilities": {}}
        named = _SESSION.fullmatch(path)
        if named is None:
            return self._not_known(method, path)
        if named[1] != instrumentation.session:
            raise Refused("invalid session id", f"session {named[1]} is not the one that is open")
        return self._session_call(method, named[2] or "", body)

    def _session_call(self, method: str, path: str, body: dict[str, Any]) -> object:
        phone, screen = self.phone, self.phone.screen
        match (method, path):
            case ("DELETE", ""):
                phone.instrumentation.stop()
                return None
            case ("GET", "/screenshot"):
                return base64.b64encode(phone.screenshot()).decode("ascii")
            case ("POST", "/actions"):
                self._act(body)
                return None
            case ("DELETE", "/actions") | ("POST", "/appium/settings"):
                return None
            case ("POST", "/back"):
                screen.press(4)
                return None
            case ("POST", "/appium/device/press_keycode" | "/appium/device/long_press_keycode"):
                screen.press(int(body["keycode"]))
                return None
            case ("GET", "/element/active"):
                return self._focused()
            case ("POST", "/element/focused/value"):
                self._focused()
                screen.do(Text(str(body.get("text", ""))))
                return None
            case ("POST", "/keys"):
                screen.do(Text(str(body.get("text", ""))))
                return None
            case ("POST", "/element"):
                raise Refused("no such element", "the simulated phone has no elements: act by coordinates")
            case ("POST", "/elements"):
                return []
        return self._fact(method, path)

    def _fact(self, method: str, path: str) -> object:
        """What is known about the phone."""
        screen = self.phone.screen
        size = {"width": screen.width, "height": screen.height}
        facts: dict[str, object] = {
            "": {"deviceScreenSize": f"{screen.width}x{screen.height}", "deviceScreenDensity": DENSITY},
            "/source": "<?xml version='1.0' encoding='UTF-8'?><hierarchy rotation='0'/>",
            "/orientation": "PORTRAIT",
            "/window/current/size": size,
            "/window/rect": {"x": 0, "y": 0, **size},
            "/appium/settings": {},
            "/appium/device/pixel_ratio": DENSITY / 160,
            "/appium/device/display_density": DENSITY,
            "/appium/device/system_bars": {"statusBar": STATUS_BAR_UNITS * screen.width // 96},
            "/appium/device/info": {
                "androidId": "simulated",
                "manufacturer": PROPERTIES["ro.product.manufacturer"],
                "model": PROPERTIES["ro.product.model"],
                "brand": PROPERTIES["ro.product.brand"],
                "apiVersion": PROPERTIES["ro.build.version.sdk"],
                "platformVersion": PROPERTIES["ro.build.version.release"],
                "displayDensity": DENSITY,
                "realDisplaySize": f"{screen.width}x{screen.height}",
            },
        }
        return facts[path] if method == "GET" and path in facts else self._not_known(method, path)

    def _focused(self) -> object:
        if not self.phone.screen.takes_text():
            raise Refused("no such element", "nothing has the focus")
        return FOCUSED

    def _act(self, body: dict[str, Any]) -> None:
        screen = self.phone.screen
        try:
            found = gestures(body.get("actions") or [], screen.width, screen.height)
        except OutOfBoundsError as error:
            raise Refused("move target out of bounds", str(error), HTTPStatus.INTERNAL_SERVER_ERROR) from error
        except BadActionsError as error:
            raise Refused("invalid argument", str(error), HTTPStatus.BAD_REQUEST) from error
        for gesture in found:
            screen.do(gesture)

    def _not_known(self, method: str, path: str) -> object:
        type(self).unknown(f"UiAutomator2 {method} {path}")
        raise Refused("unknown command", f"the simulated phone does not know {method} {path}")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged: every touch is a request."""
