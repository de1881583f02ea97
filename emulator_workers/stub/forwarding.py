"""Port forwarding as adb does it: a port of this host that leads to a port of one phone.

A forwarded port listens whether or not anything answers on the phone, as with adb: a connection to a port on which
the phone has no server is closed at once. Two ports of a phone have a server, which the phone names.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

from emulator_workers.stub.listening import Listener


@dataclass(frozen=True, slots=True)
class Forward:
    """One forwarded port."""

    udid: str
    local: int
    remote: str
    listener: Listener


class Forwards:
    """All forwarded ports of an adb server. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forwards: dict[int, Forward] = {}

    def add(self, udid: str, local: int, remote: str, serve: Callable[[socket.socket], None]) -> int:
        """Forwards a port, in place of where it led before; returns it (``local`` may be 0 for any).

        Raises:
            OSError: it is taken.
        """
        self.remove(local)
        listener = Listener(serve, name=f"{udid} {remote}", port=local)
        with self._lock:
            self._forwards[listener.port] = Forward(udid, listener.port, remote, listener)
        return listener.port

    def remove(self, local: int) -> bool:
        """Frees a port; whether it was forwarded."""
        with self._lock:
            forward = self._forwards.pop(local, None)
        if forward is not None:
            forward.listener.close()
        return forward is not None

    def remove_all(self, udid: str | None = None) -> list[Listener]:
        """Frees all ports of a phone, or of all phones; returns their closed listeners."""
        found = self.list(udid)
        for forward in found:
            self.remove(forward.local)
        return [forward.listener for forward in found]

    def cut(self, udid: str, remote: str) -> None:
        """Breaks the open connections to a port of a phone, but goes on forwarding it."""
        for forward in self.list(udid):
            if forward.remote == remote:
                forward.listener.cut()

    def list(self, udid: str | None = None) -> list[Forward]:
        """The forwarded ports of a phone, or of all phones."""
        with self._lock:
            return [forward for forward in self._forwards.values() if udid in (None, forward.udid)]
