"""The kinds of devices that a farm can be made of, and how each is made in a worker's process.

A ``Backend`` is a description that can be sent to another process; calling it makes one device, which is not started.
A process has at most one Appium server and one adb server of its own, started when the first device needs them and
ended with the process. Devices are numbered, and named after the worker too (``naming``), but for phones, which have
names of their own: their ids. Those are dealt out: each call takes one that nobody has leased,
and one that this process has used longest ago first, so that a device in quarantine is replaced by a spare. What Appium
needs is imported when the first such device is made: simulated phones need none of it.
"""

from __future__ import annotations

import functools
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from digiq_ray.core.errors import InputError
from emulator_workers.devices.base import Device
from emulator_workers.naming import of_worker
from emulator_workers.settle import SettleSettings
from emulator_workers.simphone.device import SimulatedDevice
from emulator_workers.simphone.world import Release

if TYPE_CHECKING:
    from emulator_workers.adb_server import AdbServer
    from emulator_workers.appium_server import AppiumEndpoint

Kind = Literal["simulated", "android", "chromium", "stub"]
_LOCK = threading.Lock()
_USED: dict[str, int] = {}
_ENDINGS: list[Callable[[], object]] = []


@dataclass(frozen=True, slots=True)
class Made:
    """A device, and what ends that which was made for it alone."""

    device: Device
    end: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One kind of device.

    Attributes:
        kind: ``simulated``; ``android`` (``udids``, or emulators of ``avd``); ``chromium`` (``home_url``, or the
            simulated phone as a web page); ``stub`` (the simulated phone behind the real Android driver).
        release: Software of simulated phones, also of those on a web page or behind the Android driver.
        udids: Android phones and emulators that adb knows.
        avd: The AVD whose emulators are started, from the snapshot that ``digiq farm golden`` made.
        home_url: The page that Chromium begins on.
        appium_url: An Appium server that somebody else runs; by default each process starts its own.
        adb_port: The adb server that knows ``udids``.
        prepared: Whether Appium's server is on the phones already, as in a golden snapshot.
        settles: Whether to wait for settled screens; by default only where screens change in their own time, which
            those of the simulated phone do not, on a web page neither.
    """

    kind: Kind = "simulated"
    release: str = "updated"
    udids: tuple[str, ...] = ()
    avd: str = ""
    home_url: str = ""
    appium_url: str = ""
    adb_port: int = 5037
    prepared: bool = False
    settles: bool | None = None

    def __post_init__(self) -> None:
        if self.kind == "android" and bool(self.udids) == bool(self.avd):
            raise InputError(
                "Android devices are named by their ids or made from an AVD: give either devices.udids or devices.avd"
            )

    @property
    def slow(self) -> bool:
        """Whether a device takes its time, so that each wants a thread of its own."""
        return self.kind != "simulated"

    @property
    def resources(self) -> dict[str, float]:
        """What one device takes from the cluster, as a Ray resource; a local cluster has to offer it too."""
        return {self.kind: 1.0} if self.kind == "android" else {}

    def settle(self) -> SettleSettings | None:
        """When a screen counts as settled; ``None`` takes screens as they are."""
        own_time = self.kind == "android" or bool(self.home_url)
        return SettleSettings() if (own_time if self.settles is None else self.settles) else None

    def make(self) -> Made:
        """One device, which is not started.

        Raises:
            InputError: the machine lacks something that the message names.
        """
        if self.kind == "simulated":
            name = of_worker(f"simphone-{_next('simphone')}")
            return Made(SimulatedDevice(name, release=Release(self.release)))
        return {"chromium": self._chromium, "stub": self._stub, "android": self._android}[self.kind]()

    def _chromium(self) -> Made:
        name = of_worker(f"chromium-{_next('chromium')}")
        if not self.home_url:
            from emulator_workers.webphone.device import WebPhoneDevice

            return Made(WebPhoneDevice(name, _appium(self.appium_url), release=Release(self.release)))
        from emulator_workers.devices.chromium import ChromiumDevice

        return Made(ChromiumDevice(name, _appium(self.appium_url), home_url=self.home_url))

    def _stub(self) -> Made:
        from emulator_workers.stub.android_stub import SHARED
        from emulator_workers.stub.device import StubDevice

        phone = SHARED.add(release=Release(self.release))
        device = StubDevice(phone, _appium(self.appium_url), name=of_worker(f"stub-{_next('stub')}"))
        return Made(device, functools.partial(SHARED.remove, phone))

    def _android(self) -> Made:
        from emulator_workers.devices.android import AndroidDevice, ConnectedPhone

        if self.udids:
            phone = ConnectedPhone(_free_udid(self.udids, self.adb_port), adb_port=self.adb_port)
            return Made(AndroidDevice(phone, _appium(self.appium_url), name=phone.udid, prepared=self.prepared))
        from emulator_workers.emulator import AndroidEmulator, EmulatorSettings

        _check_golden(self.avd)
        emulator = AndroidEmulator(EmulatorSettings(avd=self.avd), adb_server=_adb(), log=_directory() / "emulator.log")
        name = of_worker(f"{self.avd}-{_next(self.avd)}")
        return Made(AndroidDevice(emulator, _appium(self.appium_url), name=name, prepared=True), emulator.stop)


def _next(name: str) -> int:
    """How often this process has used ``name`` before."""
    with _LOCK:
        _USED[name] = _USED.get(name, -1) + 1
        return _USED[name]


def _free_udid(udids: tuple[str, ...], adb_port: int) -> str:
    """A phone that nobody has leased, that which this process used longest ago; the first in line if all are taken."""
    from emulator_workers.processes.leases import LeaseRefusedError, UdidLeases

    with _LOCK:
        order = sorted(udids, key=lambda udid: _USED.get(udid, -1))
        chosen = order[0]
        for udid in order:
            try:
                UdidLeases().lease(udid, adb_port).release()
            except LeaseRefusedError:
                continue
            chosen = udid
            break
        _USED[chosen] = max(_USED.values(), default=0) + 1
        return chosen


@functools.cache
def _appium(url: str) -> AppiumEndpoint:
    from emulator_workers.appium_server import AppiumServer, RemoteAppium

    if url:
        return RemoteAppium(url)
    server = AppiumServer()
    _ENDINGS.append(server.stop)
    return server


@functools.cache
def _adb() -> AdbServer:
    from emulator_workers.adb_server import AdbServer

    server = AdbServer(log=_directory() / "adb.log")
    _ENDINGS.append(server.stop)
    return server


@functools.cache
def _check_golden(avd: str) -> None:
    """Raises ``InputError`` unless emulators of ``avd`` can start from its golden snapshot; asked once in a process."""
    from emulator_workers.emulator import EmulatorSettings
    from emulator_workers.golden import check_golden

    check_golden(EmulatorSettings(avd=avd))


@functools.cache
def _directory() -> Path:
    place = tempfile.TemporaryDirectory(prefix="digiq-devices-")
    _ENDINGS.append(place.cleanup)
    return Path(place.name)


def end_servers() -> None:
    """Ends the servers of this process, last first, and forgets them."""
    while _ENDINGS:
        _ENDINGS.pop()()
    for made in (_appium, _adb, _check_golden, _directory):
        made.cache_clear()
