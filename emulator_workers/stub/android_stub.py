"""``AndroidStub``: simulated phones behind an adb server, for the real Appium, its real driver and the real ``adb``.

It runs in threads of this process, on loopback ports. The adb server listens while at least one phone is plugged in,
so a stub that is not used costs nothing, and one that is given back leaves no port open. Several phones share it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from digiq_ray.core.errors import DeadlineExceededError, InputError
from emulator_workers.processes.leases import PortKind, PortLease, PortLeases
from emulator_workers.simphone.phone import Hazards
from emulator_workers.simphone.style import Style
from emulator_workers.simphone.world import Release
from emulator_workers.stub.adb_server import AdbServices
from emulator_workers.stub.faults import StubFaultPlan
from emulator_workers.stub.forwarding import Forwards
from emulator_workers.stub.listening import Listener
from emulator_workers.stub.phone import StubPhone
from emulator_workers.stub.screen import PhoneScreen

log = logging.getLogger(__name__)

STOP_SECONDS = 5.0
FIRST_CONSOLE = 5554


class AndroidStub:
    """An adb server with its phones. Thread-safe. As a context manager it has all its phones plugged in.

    Args:
        phones: How many phones, or their serials.
        port: Of the adb server; by default one is leased whenever the first phone is plugged in.
        ports: Where it is leased.
        look: ``scale``, ``release``, ``style``, ``hazards`` and ``plan`` of ``add``.

    Attributes:
        phones: All phones, by serial.
        unknown: Requests and commands that the stub did not know, and how often each came.
    """

    def __init__(
        self,
        phones: int | Sequence[str] = 0,
        *,
        port: int | None = None,
        ports: PortLeases | None = None,
        **look: Any,
    ) -> None:
        self._given, self._ports = port, ports
        self._lock, self._unknown_lock = threading.RLock(), threading.Lock()
        self._forwards = Forwards()
        self._plugged: dict[str, StubPhone] = {}
        self._lease: PortLease | None = None
        self._listener: Listener | None = None
        self.unknown: dict[str, int] = {}
        self.phones: dict[str, StubPhone] = {}
        for serial in [None] * phones if isinstance(phones, int) else phones:
            self.add(serial, **look)

    @property
    def adb_port(self) -> int:
        """The port of the adb server; 0 while no phone is plugged in."""
        return self._listener.port if self._listener is not None else 0

    def add(
        self,
        udid: str | None = None,
        *,
        scale: int = 1,
        release: Release = Release.UPDATED,
        style: Style | None = None,
        hazards: Hazards | None = None,
        plan: StubFaultPlan | None = None,
    ) -> StubPhone:
        """A new phone, not plugged in yet.

        Args:
            udid: Its serial; by default ``emulator-5554`` and so on.
            scale: Pixels per unit of the 96 x 192 screen.
            release, style, hazards: See ``SimPhone``.
            plan: Which faults strike when.

        Raises:
            InputError: there is a phone with this serial.
        """
        with self._lock:
            serials = (f"emulator-{FIRST_CONSOLE + 2 * i}" for i in range(len(self.phones) + 1))
            name = udid or next(serial for serial in serials if serial not in self.phones)
            if name in self.phones or ":" in name:
                raise InputError(f"a phone of the stub cannot be called {name!r}: choose another serial")
            screen = PhoneScreen(scale=scale, release=release, style=style, hazards=hazards)
            phone = StubPhone(
                name, forwards=self._forwards, screen=screen, plan=plan, plug=self._plug, unplug=self._unplug
            )
            self.phones[name] = phone
            return phone

    def remove(self, phone: StubPhone) -> None:
        """Unplugs a phone and forgets it. May be called twice."""
        self._unplug(phone)
        with self._lock:
            self.phones.pop(phone.udid, None)

    def stop(self) -> None:
        """Unplugs all phones: no port stays open, no thread goes on. May be called twice.

        Raises:
            DeadlineExceededError: a connection does not end.
        """
        late = [name for phone in list(self._plugged.values()) for name in self._unplug(phone)]
        if late:
            raise DeadlineExceededError(f"connections to {', '.join(late)} did not end within {STOP_SECONDS:g} s")

    def __enter__(self) -> AndroidStub:
        for phone in self.phones.values():
            self._plug(phone)
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _plug(self, phone: StubPhone) -> int:
        with self._lock:
            self.phones.setdefault(phone.udid, phone)
            if self._listener is None:
                self._listen()
            self._plugged[phone.udid] = phone
            return self.adb_port

    def _listen(self) -> None:
        services = AdbServices(self._plugged, self._forwards, self._not_known)
        if self._given is None:
            self._lease = (self._ports or PortLeases()).lease(PortKind.ADB_SERVER)
        port = self._lease.port if self._lease is not None else self._given or 0
        try:
            self._listener = Listener(services.serve, name="adb stub", port=port)
        except OSError as error:
            self._give_back()
            raise InputError(f"the stub's adb server cannot listen on port {port}: {error.strerror}") from error

    def _unplug(self, phone: StubPhone) -> list[str]:
        """Takes a phone away; returns what did not end in time."""
        with self._lock:
            if self._plugged.pop(phone.udid, None) is None:
                return []
            phone.instrumentation.stop()
            phone.wake()
            closed = self._forwards.remove_all(phone.udid)
            if not self._plugged and self._listener is not None:
                self._listener.close()
                closed.append(self._listener)
                self._listener = None
                self._give_back()
        late = [f"{phone.udid}, port {listener.port}" for listener in closed if not listener.join(STOP_SECONDS)]
        if late:
            log.warning("connections did not end within %g s: %s", STOP_SECONDS, late)
        return late

    def _give_back(self) -> None:
        if self._lease is not None:
            self._lease.release()
        self._lease = None

    def _not_known(self, what: str) -> None:
        log.info("the stub does not know: %s", what)
        with self._unknown_lock:
            self.unknown[what] = self.unknown.get(what, 0) + 1


SHARED = AndroidStub()
"""The stub of this process: its adb server listens while a phone is plugged in."""
