"""The life of the UiAutomator2 server on the phone: begun by ``am instrument``, ended by its session, adb or a crash.

``am instrument`` is a stream that stays open while the server lives and says at its end why it ended; Appium's driver
takes the end of that stream for the end of the server. One server runs on a phone at a time.
"""

from __future__ import annotations

import select
import socket
import threading
import uuid

STARTED = b"INSTRUMENTATION_STATUS: numtests=1\nINSTRUMENTATION_STATUS_CODE: 1\n"
ENDED = b"INSTRUMENTATION_CODE: -1\n"
CRASHED = b"INSTRUMENTATION_RESULT: shortMsg=Process crashed.\nINSTRUMENTATION_CODE: 0\n"


class Run:
    """One run of the server."""

    def __init__(self) -> None:
        self._woken, self._wake = socket.socketpair()
        self._words = ENDED

    def end(self, words: bytes) -> None:
        """Ends it; called once, by ``Instrumentation``."""
        self._words = words
        self._wake.close()

    def abandon(self) -> None:
        """Nobody holds a stream for it."""
        self._woken.close()

    def hold(self, stream: socket.socket) -> None:
        """Keeps the stream of ``am instrument`` open until the run ends or the client goes away."""
        stream.sendall(STARTED)
        ready: list[socket.socket] = []
        while self._woken not in ready:
            ready, _, _ = select.select([self._woken, stream], [], [])
            if stream in ready and not stream.recv(1 << 12):
                break
        self._woken.close()
        stream.sendall(self._words)


class Instrumentation:
    """Whether the server runs, and its session. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._run: Run | None = None
        self._crashed = False
        self._session: str | None = None

    @property
    def running(self) -> bool:
        """Whether the server runs."""
        return self._run is not None

    @property
    def session(self) -> str | None:
        """The id of its session, if one is open."""
        return self._session

    def start(self) -> Run:
        """A new run in place of any other."""
        with self._changed:
            self.stop()
            self._run, self._crashed = Run(), False
            self._changed.notify_all()
            return self._run

    def stop(self, *, crash: bool = False, run: Run | None = None) -> None:
        """Ends the server and its session, if it runs.

        Args:
            crash: Whether the end is one that the phone reports as a crash.
            run: End it only if this run is the present one.
        """
        with self._changed:
            if self._run is None or run not in (None, self._run):
                return
            self._run.end(CRASHED if crash else ENDED)
            self._run, self._session, self._crashed = None, None, crash
            self._changed.notify_all()

    def wait_running(self, seconds: float) -> bool:
        """Waits for a server that is about to start; whether one runs. One that has crashed is not waited for."""
        with self._changed:
            self._changed.wait_for(lambda: self.running or self._crashed, seconds)
            return self.running

    def open_session(self) -> str:
        """The id of a new session in place of any other."""
        with self._changed:
            self._session = str(uuid.uuid4())
            return self._session
