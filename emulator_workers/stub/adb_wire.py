"""The frames of adb's smart-socket protocol: requests in, ``OKAY`` and ``FAIL`` out.

A request, a payload and an error message are each four hexadecimal digits of length and so many bytes of UTF-8. This
is the protocol between an adb client and the adb *server*, not the one between the server and a phone.
"""

from __future__ import annotations

import socket

LONGEST = 0xFFFF


class WireError(OSError):
    """The peer does not speak the protocol, or stopped in the middle of a frame."""


def receive(connection: socket.socket, length: int) -> bytes:
    """Exactly ``length`` bytes.

    Raises:
        WireError: the peer closed before.
    """
    data = bytearray()
    while len(data) < length:
        part = connection.recv(min(1 << 16, length - len(data)))
        if not part:
            raise WireError(f"the peer closed after {len(data)} of {length} bytes")
        data += part
    return bytes(data)


def read_request(connection: socket.socket) -> str | None:
    """The next request; ``None`` if the peer has closed instead.

    Raises:
        WireError: it is none.
    """
    first = connection.recv(1)
    if not first:
        return None
    digits = first + receive(connection, 3)
    try:
        return receive(connection, int(digits, 16)).decode()
    except ValueError as error:  # UnicodeDecodeError is one too
        raise WireError(f"no request: it begins with {digits!r}") from error


def request(text: str) -> bytes:
    """A request as a client sends it, and a payload as a server does."""
    data = text.encode()
    if len(data) > LONGEST:
        raise ValueError(f"{len(data)} bytes do not fit into one frame of at most {LONGEST}")
    return f"{len(data):04x}".encode() + data


def okay(payload: str | None = None) -> bytes:
    """Success, with what was asked for."""
    return b"OKAY" + (b"" if payload is None else request(payload))


def fail(message: str) -> bytes:
    """Failure; adb's client prints the message after ``error:``."""
    return b"FAIL" + request(message)
