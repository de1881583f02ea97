"""One phone of the stub: the simulated phone's screen, the life of its UiAutomator2 server, and its faults.

What a client of Appium can do to it comes in through adb (``adb_server``) and the server on the phone (``uia2``). What
a worker and its judge must know besides (the task, the clock, whether the goal is reached, faults) comes in through
the methods here, ``PhoneControl``: nothing of it passes through adb or Appium.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from PIL import Image

from digiq_ray.core.tasks import Task
from emulator_workers.devices.base import DeviceUnreachable
from emulator_workers.devices.phone import AndroidPhone
from emulator_workers.stub.faults import PICTURE_FAULTS, PlannedFault, StubFault, StubFaultPlan
from emulator_workers.stub.forwarding import Forwards
from emulator_workers.stub.instrumentation import Instrumentation
from emulator_workers.stub.screen import IDLE, Clock, PhoneScreen, encode

UIA2_PORT = "tcp:6790"


class PhoneControl(AndroidPhone, Protocol):
    """The side channel of a phone of the stub: in this process a ``StubPhone``, else a ``RemotePhone``.

    ``ensure`` raises ``DeviceUnreachable`` while it is offline; ``restore`` ends all faults, sessions and forwarded
    ports, as loading a snapshot does; ``reboot`` does so on a phone without a task.
    """

    def unplug(self) -> None:
        """Takes it from its adb server until ``ensure``; never raises."""
        ...

    def begin(self, task: Task, clock: Clock = Clock.ON_TICK) -> None:
        """A fresh phone for a task."""
        ...

    def tick(self) -> None:
        """The next screenshot shows the next frame."""
        ...

    def succeeded(self) -> bool:
        """Whether the task's goal is reached now."""
        ...

    def inject(self, kind: StubFault, *, shots: int = 1, seconds: float = 1.0) -> None:
        """A fault, now."""
        ...

    @property
    def injected(self) -> Mapping[StubFault, int]:
        """How often each kind has struck, by plan and by call."""
        ...


class StubPhone:
    """A phone of an ``AndroidStub``, which makes it. Thread-safe.

    Args:
        udid: Its serial.
        forwards: Of its adb server.
        screen: What it shows.
        plan: Which faults strike when.
        plug: Makes its adb server know it and returns that server's port.
        unplug: Takes it away.
    """

    def __init__(
        self,
        udid: str,
        *,
        forwards: Forwards,
        screen: PhoneScreen,
        plan: StubFaultPlan | None,
        plug: Callable[[StubPhone], int],
        unplug: Callable[[StubPhone], object],
    ) -> None:
        self.udid, self.screen = udid, screen
        self.instrumentation = Instrumentation()
        self.injected: dict[StubFault, int] = dict.fromkeys(StubFault, 0)
        self._forwards, self._plan, self._plug, self._unplug = forwards, plan, plug, unplug
        self._port = 0
        self._episode = -1
        self._changed = threading.Condition()
        self._online = True
        self._clashes = 0
        self._spoiled: dict[StubFault, PlannedFault] = {}
        self._shots: dict[StubFault, int] = {}
        self._shown: bytes | None = None
        self._woken = threading.Event()

    # ---- PhoneControl

    @property
    def adb_port(self) -> int:
        """The adb server that knows it; 0 before ``ensure``."""
        return self._port

    def ensure(self) -> None:
        """Plugs it in.

        Raises:
            DeviceUnreachable: it is offline.
        """
        self._port = self._plug(self)
        if not self._online:
            raise DeviceUnreachable(f"{self.udid} is offline: restore it")

    def restore(self) -> None:
        """Ends all faults, sessions and forwarded ports; the task goes on."""
        with self._changed:
            self._spoiled.clear()
            self._shots.clear()
            self._clashes = 0
        self.wake()
        self.instrumentation.stop()
        self._forwards.remove_all(self.udid)
        self.reconnect()

    def reboot(self) -> None:
        """As ``restore``, and without a task afterwards."""
        self.restore()
        self.screen.begin(IDLE, Clock.ON_INPUT)

    def unplug(self) -> None:
        """Takes it from its adb server until ``ensure``. What it shows and its faults stay."""
        self._unplug(self)

    def begin(self, task: Task, clock: Clock = Clock.ON_TICK) -> None:
        """A fresh phone for a task; the plan counts one more episode."""
        self._episode += 1
        self.screen.begin(task, clock)

    def tick(self) -> None:
        """The next screenshot shows the next frame."""
        self.screen.tick()

    def succeeded(self) -> bool:
        """Whether the task's goal is reached now."""
        return self.screen.succeeded()

    def inject(self, kind: StubFault, *, shots: int = 1, seconds: float = 1.0) -> None:
        """A fault, now.

        Args:
            kind: What goes wrong.
            shots: How many screenshots a fault of the picture spoils, unless a restore ends it before.
            seconds: How late ``SLOW_SCREENSHOT`` makes them.
        """
        self._strike(PlannedFault(kind, 0, None, shots, seconds))

    # ---- what adb and the server on the phone ask

    @property
    def online(self) -> bool:
        """Whether adb reaches it."""
        return self._online

    def wait_online(self, online: bool, seconds: float) -> bool:
        """Waits for adb to reach it, or not to; whether it came to that."""
        with self._changed:
            return self._changed.wait_for(lambda: self._online is online, seconds)

    def reconnect(self) -> None:
        """Ends ``ADB_OFFLINE``."""
        with self._changed:
            self._online = True
            self._changed.notify_all()

    def takes_port(self) -> bool:
        """Whether a port can be forwarded to the server on the phone; false once for each ``PORT_CLASH``."""
        with self._changed:
            clash = self._clashes > 0
            self._clashes -= clash
            return not clash

    def screenshot(self) -> bytes:
        """The picture that the phone gives, with the faults that strike now: PNG, or what is left of it."""
        step = self.screen.pass_time()
        if step is not None and self._plan is not None and self._episode >= 0:
            for fault in self._plan.due(self.udid, self._episode, step):
                self._strike(fault)
        with self._changed:
            spoiled = {kind: fault for kind, fault in self._spoiled.items() if self._shots[kind] > 0}
            for kind in spoiled:
                self._shots[kind] -= 1
            woken = self._woken
        if StubFault.SLOW_SCREENSHOT in spoiled:
            woken.wait(spoiled[StubFault.SLOW_SCREENSHOT].seconds)
        picture = self.screen.png()
        if StubFault.FROZEN_SCREENSHOT in spoiled and self._shown is not None:
            picture = self._shown
        self._shown = picture
        if StubFault.WRONG_SIZE in spoiled:
            picture = _turned(picture)
        if StubFault.TRUNCATED_SCREENSHOT in spoiled:
            picture = picture[: len(picture) // 2]
        return picture

    def wake(self) -> None:
        """Ends the wait of screenshots that are slow just now."""
        with self._changed:
            self._woken.set()
            self._woken = threading.Event()

    def end_uia2(self, *, crash: bool = False) -> None:
        """Ends the server on the phone from outside: its connections break."""
        self.instrumentation.stop(crash=crash)
        self._forwards.cut(self.udid, UIA2_PORT)

    def _strike(self, fault: PlannedFault) -> None:
        with self._changed:
            self.injected[fault.kind] += 1
            if fault.kind in PICTURE_FAULTS:
                self._spoiled[fault.kind], self._shots[fault.kind] = fault, fault.shots
        match fault.kind:
            case StubFault.UIA2_CRASH:
                self.end_uia2(crash=True)
            case StubFault.ADB_OFFLINE:
                self._go_offline()
            case StubFault.PORT_CLASH:
                with self._changed:
                    self._clashes += 1
            case StubFault.STOLEN_SESSION:
                self.end_uia2()
                self.instrumentation.start().abandon()
                self.instrumentation.open_session()
            case StubFault.NOT_RESPONDING:
                self.screen.show_not_responding()

    def _go_offline(self) -> None:
        with self._changed:
            self._online = False
            self._changed.notify_all()
        self.instrumentation.stop()
        self._forwards.remove_all(self.udid)


def _turned(png: bytes) -> bytes:
    """The picture of a phone that was turned on its side."""
    with Image.open(io.BytesIO(png)) as picture:
        return encode(picture.transpose(Image.Transpose.ROTATE_90))
