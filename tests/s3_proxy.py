"""An HTTP proxy in front of an S3 server that hurts some requests by a plan, for tests.

Each request is looked up in the plan once, in the order in which requests arrive. ``Proxy.done`` counts what happened.
"""

from __future__ import annotations

import random
import socket
import socketserver
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import BinaryIO
from urllib.parse import urlsplit

_TIMEOUT_S = 30
_SLOW_S = 0.3


class Fault(StrEnum):
    """What happens to one request."""

    NONE = "none"
    INTERNAL = "500"
    SLOW_DOWN = "503"
    DELAY = "delay"  # comes late
    CUT_BEFORE = "cut before"  # never reaches the server
    CUT_REQUEST = "cut in the request"  # reaches it in part
    CUT_ANSWER = "cut in the answer"  # is done; half of the answer comes back
    LOST_ANSWER = "lost answer"  # is done; nothing comes back


FAULTS = tuple(fault for fault in Fault if fault is not Fault.NONE)
Plan = Callable[[str, str], Fault]
"""The fault for a request, by its method and target."""


def seeded(seed: int, share: float) -> Plan:
    """Hurts this share of the requests, each in any of the ways."""
    rng = random.Random(seed)
    return lambda method, target: rng.choice(FAULTS) if rng.random() < share else Fault.NONE


def first(fault: Fault, count: int = 1, *, method: str = "") -> Plan:
    """Hurts the first ``count`` requests (of one method, if given) in one way."""
    left = [count]

    def plan(asked: str, target: str) -> Fault:
        if left[0] and asked.startswith(method):
            left[0] -= 1
            return fault
        return Fault.NONE

    return plan


class Proxy:
    """Stands in front of the server at ``upstream``. Its attributes may be changed at any time.

    Attributes:
        plan: Says what happens to each request.
        answer: If given, the status and code that every request is answered with.
        without: A header that requests lose on their way.
        done: How often each thing happened.
        seen: Method and target of each request.
        sent: Bytes of answers that came from the server.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (str(parts.hostname), int(parts.port or 80))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._server: socketserver.ThreadingTCPServer | None = None
        self.reset()

    def reset(self) -> None:
        """Hurts nothing and has seen nothing."""
        self.plan: Plan = lambda method, target: Fault.NONE
        self.answer: tuple[int, str] | None = None
        self.without = b""
        self.done: Counter[Fault] = Counter()
        self.seen: list[tuple[str, str]] = []
        self.sent = 0

    @contextmanager
    def serving(self) -> Iterator[str]:
        """The address of the proxy, for as long as the context."""
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                proxy._serve(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 64

        with Server(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_address[1]}"
            finally:
                self._stop.set()
                server.shutdown()
                thread.join(_TIMEOUT_S)

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(_TIMEOUT_S)
        with client, client.makefile("rb") as stream:
            try:
                while head := _read_head(stream):
                    headers = _headers(head)
                    if headers.get(b"expect", b"").lower() == b"100-continue":
                        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                    if not self._answer(client, head, stream.read(int(headers.get(b"content-length", 0)))):
                        return
            except OSError:  # a client that went away
                return

    def _answer(self, client: socket.socket, head: bytes, body: bytes) -> bool:
        """Whether the connection lives on."""
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
        with self._lock:
            fault = self.plan(method, target)
            self.done[fault] += 1
            self.seen.append((method, target))
        if self.answer is not None:
            client.sendall(_error(method, *self.answer))
            return True
        match fault:
            case Fault.INTERNAL:
                client.sendall(_error(method, 500, "InternalError"))
                return True
            case Fault.SLOW_DOWN:
                client.sendall(_error(method, 503, "SlowDown"))
                return True
            case Fault.CUT_BEFORE:
                return _cut(client)
            case Fault.CUT_REQUEST:
                whole = head + body
                with socket.create_connection(self._upstream, _TIMEOUT_S) as server:
                    server.sendall(whole[: len(head) + len(body) // 2] if body else head[: len(head) // 2])
                    _cut(server)
                return _cut(client)
            case Fault.DELAY:
                self._stop.wait(_SLOW_S)
        answer = self._forward(head, body)
        if fault is Fault.LOST_ANSWER:
            return _cut(client)
        if fault is Fault.CUT_ANSWER:
            client.sendall(answer[: len(answer) // 2])
            return _cut(client)
        client.sendall(answer)
        return b"\r\nconnection: close" not in answer.partition(b"\r\n\r\n")[0].lower()

    def _forward(self, head: bytes, body: bytes) -> bytes:
        own = (b"connection:", b"expect:", *([self.without + b":"] if self.without else []))
        lines = [line for line in head.rstrip(b"\r\n").split(b"\r\n") if not line.lower().startswith(own)]
        with socket.create_connection(self._upstream, _TIMEOUT_S) as server:
            server.sendall(b"\r\n".join([*lines, b"Connection: close", b"", b""]) + body)
            with server.makefile("rb") as stream:
                answer = stream.read()
        with self._lock:
            self.sent += len(answer)
        return answer


def _read_head(stream: BinaryIO) -> bytes:
    """First line and headers of a request, with the empty line; nothing at the end of the connection."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            return b""
        head += line
    return head


def _headers(head: bytes) -> dict[bytes, bytes]:
    pairs = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _error(method: str, status: int, code: str) -> bytes:
    body = b"" if method == "HEAD" else f"<Error><Code>{code}</Code><Message>hurt</Message></Error>".encode()
    head = f"HTTP/1.1 {status} Hurt\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _cut(connection: socket.socket) -> bool:
    """Ends a connection the hard way (RST)."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    return False
