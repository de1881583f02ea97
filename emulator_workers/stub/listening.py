"""A listening socket on the loopback interface whose connections can be cut, as those of a phone that dies are.

One thread accepts, and each connection has one of its own, which ends when its peer goes away or it is cut. ``close``
frees the port before it returns; ``join`` waits for the threads, within a deadline.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

log = logging.getLogger(__name__)

HOST = "127.0.0.1"


class Listener:
    """Serves connections until ``close``. Thread-safe.

    Args:
        serve: Serves one connection; the connection is closed when it returns.
        name: Of the threads.
        port: 0 takes a free one.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, serve: Callable[[socket.socket], None], *, name: str, port: int = 0) -> None:
        self._serve, self._name = serve, name
        self._socket = socket.create_server((HOST, port), backlog=128)
        self.port: int = self._socket.getsockname()[1]
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._closed = False
        self._acceptor = threading.Thread(target=self._accept, name=name, daemon=True)
        self._acceptor.start()

    def cut(self) -> None:
        """Breaks the connections that are open now; their threads end soon after."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with suppress(OSError):  # its peer was faster
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Frees the port and cuts all connections. May be called twice, and by a connection's own thread."""
        with self._lock:
            self._closed = True
        with suppress(OSError):  # closed already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.cut()

    def join(self, seconds: float) -> bool:
        """Waits for the threads of a closed listener; whether all have ended in time."""
        deadline = time.monotonic() + seconds
        with self._lock:
            threads = [self._acceptor, *self._open.values()]
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads if thread is not threading.current_thread())

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # the only way to wake a thread that accepts: closed
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._run, args=(connection,), name=self._name, daemon=True)
            with self._lock:
                if self._closed:
                    connection.close()
                    return
                self._open[connection] = thread
                thread.start()

    def _run(self, connection: socket.socket) -> None:
        try:
            self._serve(connection)
        except OSError as error:
            log.debug("%s: a connection broke: %s", self._name, error)
        finally:
            with self._lock:
                self._open.pop(connection, None)
            connection.close()
