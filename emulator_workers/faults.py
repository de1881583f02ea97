"""A device that fails on purpose: wraps any ``Device`` and injects faults where a plan says so.

A plan names single calls or steps, or gives each kind a probability per call; the draws are counter-based, so that
the same seed injects the same faults whatever else runs. Frame faults (a wrong or a broken image) that fall on a call
without a frame wait for the next frame. Every fault that struck is counted in ``injected``.
"""

from __future__ import annotations

import dataclasses
import enum
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from digiq_ray.core.errors import InputError
from digiq_ray.core.rng import uniforms
from digiq_ray.core.tasks import Task
from digiq_ray.evaluation.judges import ask_device
from emulator_workers.devices.base import Device, DeviceInfo, DeviceUnreachable, Frame, Key, Reset, SessionLost
from emulator_workers.environment import FrameByFrame, TaskAware


class FaultKind(enum.StrEnum):
    """What can go wrong.

    ``CRASH`` loses the session until a restart or a reset to ``SESSION`` or more; ``UNREACHABLE`` fails one call;
    ``HANG`` blocks for the fault's seconds and then fails; ``SLOW`` blocks and goes on; ``WRONG_FRAME`` gives the
    previous frame; ``BROKEN_IMAGE`` gives half of the image's bytes.
    """

    CRASH = "crash"
    UNREACHABLE = "unreachable"
    HANG = "hang"
    SLOW = "slow"
    WRONG_FRAME = "wrong_frame"
    BROKEN_IMAGE = "broken_image"


_FRAME_FAULTS = (FaultKind.WRONG_FRAME, FaultKind.BROKEN_IMAGE)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, which strikes once.

    Attributes:
        kind: What goes wrong.
        call: At this call, counted from 0 over the device's life: start, reset, screenshot, touches and keys.
        step: At the frame after this many actions since a reset; 0 is the reset itself.

    Raises:
        InputError: not exactly one of ``call`` and ``step`` is given.
    """

    kind: FaultKind
    call: int | None = None
    step: int | None = None

    def __post_init__(self) -> None:
        if (self.call is None) == (self.step is None):
            raise InputError(f"fault {self.kind}: give either call or step")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan:
    """Which faults strike when.

    Attributes:
        faults: Named faults; they go before drawn ones.
        rates: Probability per call of each kind; together at most 1.
        seed: Decides the draws.
        seconds: How long ``HANG`` and ``SLOW`` block.

    Raises:
        InputError: the rates are no probabilities.
    """

    faults: tuple[Fault, ...] = ()
    rates: Mapping[FaultKind, float] = field(default_factory=dict)
    seed: int = 0
    seconds: float = 1.0

    def __post_init__(self) -> None:
        if min(self.rates.values(), default=0.0) < 0 or sum(self.rates.values()) > 1:
            raise InputError(f"fault rates must be at least 0 and sum to at most 1, not {dict(self.rates)}")

    def draw(self, call: int) -> FaultKind | None:
        """The kind that the rates and the seed give to this call, a pure function of both."""
        left = float(uniforms(self.seed, call))
        for kind in FaultKind:
            left -= self.rates.get(kind, 0.0)
            if left < 0:
                return kind
        return None


class FaultyDevice:
    """``device`` with the faults of ``plan``. Knows tasks and success if the device does.

    Attributes:
        injected: How often each kind has struck.
    """

    def __init__(self, device: Device, plan: FaultPlan) -> None:
        self.info: DeviceInfo | None = device.info
        self.injected: dict[FaultKind, int] = dict.fromkeys(FaultKind, 0)
        self._device, self._plan = device, plan
        self._calls = self._step = 0
        self._crashed = False
        self._struck: set[Fault] = set()
        self._waiting: FaultKind | None = None
        self._previous: Frame | None = None
        self._closed = threading.Event()

    def start(self) -> None:
        """Starts the device; mends a crash."""
        self._crashed = False
        self._closed.clear()
        self._strike()
        self._device.start()
        self.info = self._device.info

    def prepare(self, task: Task) -> None:
        """Hands the task on to a device that wants it."""
        if isinstance(self._device, TaskAware):
            self._device.prepare(task)

    def next_frame(self) -> None:
        """Hands it on to a device whose time passes a frame at a time."""
        if isinstance(self._device, FrameByFrame):
            self._device.next_frame()

    def reset(self, level: Reset = Reset.HOME) -> Frame:
        """Resets the device; the steps of the plan count from here. More than a ``HOME`` mends a crash."""
        self._step = 0
        self._crashed &= level is Reset.HOME
        self._strike(frame=True)
        return self._distorted(self._device.reset(level))

    def screenshot(self) -> Frame:
        """The screen, unless the plan says otherwise."""
        self._step += 1
        self._strike(frame=True)
        return self._distorted(self._device.screenshot())

    def tap(self, x: float, y: float, hold_ms: int = 50) -> None:
        """Touches the device."""
        self._strike()
        self._device.tap(x, y, hold_ms)

    def swipe(self, x1: float, y1: float, x2: float, y2: float, duration_ms: int = 200) -> None:
        """Swipes on the device."""
        self._strike()
        self._device.swipe(x1, y1, x2, y2, duration_ms)

    def type_text(self, text: str) -> None:
        """Types on the device."""
        self._strike()
        self._device.type_text(text)

    def press(self, key: Key) -> None:
        """Presses a key of the device."""
        self._strike()
        self._device.press(key)

    def healthy(self) -> bool:
        """Whether the device answers and has not crashed."""
        return not self._crashed and self._device.healthy()

    def close(self) -> None:
        """Closes the device and wakes a call that hangs."""
        self._closed.set()
        self._device.close()

    def succeeded(self) -> bool:
        """What the device says; ``InputError`` if it does not know."""
        return ask_device(self._device)

    def _strike(self, *, frame: bool = False) -> None:
        """Counts a call and injects what the plan has for it; frame faults are kept for ``_distorted``."""
        if self._crashed:
            raise SessionLost("injected: the session has crashed; begin a new one")
        kind = self._due(frame)
        self._calls += 1
        if kind in _FRAME_FAULTS:
            self._waiting = kind
            return
        if kind is None:
            return
        self.injected[kind] += 1
        if kind is FaultKind.CRASH:
            self._crashed = True
            raise SessionLost("injected: the session crashes")
        if kind is FaultKind.UNREACHABLE:
            raise DeviceUnreachable("injected: the device does not answer")
        self._closed.wait(self._plan.seconds)
        if kind is FaultKind.HANG:
            raise DeviceUnreachable(f"injected: the device hung for {self._plan.seconds} s")

    def _due(self, frame: bool) -> FaultKind | None:
        for fault in self._plan.faults:
            here = fault.call == self._calls or (frame and fault.step == self._step)
            if here and fault not in self._struck:
                self._struck.add(fault)
                return fault.kind
        return self._plan.draw(self._calls)

    def _distorted(self, frame: Frame) -> Frame:
        """``frame``, or what a waiting frame fault makes of it; there is no wrong frame before the first."""
        previous, self._previous = self._previous, frame
        if self._waiting is FaultKind.BROKEN_IMAGE:
            given = dataclasses.replace(frame, image=frame.image[: len(frame.image) // 2])
        elif self._waiting is FaultKind.WRONG_FRAME and previous is not None:
            given = previous
        else:
            return frame
        self.injected[self._waiting] += 1
        self._waiting = None
        return given
