"""Does a device do what every device must? The steps of ``digiq farm check``, on a real one, without pytest.

They are a subset of the contract that the tests run: what can be found out on any phone, whatever it shows. Each step
is timed; one that fails ends nothing, so that the whole table is seen, but for the start, without which there is
nothing to check. What bounds a step is the device's own deadlines.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

from digiq_ray.core.errors import DigiQError
from digiq_ray.core.tasks import Task
from emulator_workers.devices.base import ActionRejected, Device, DeviceError, Frame, Key, Reset
from emulator_workers.environment import TaskAware
from emulator_workers.settle import changed_share, picture_of

TASK = Task("check/0", "open the notes app", 10, "test", kind="open", goal={"kind": "open", "app": "notes"}, seed=3)
_FRAMES = 5


class CheckFailedError(DigiQError):
    """A device does not do what every device must."""


@dataclass(frozen=True, slots=True)
class Result:
    """One step: whether the device passed, what was seen, and how long it took."""

    name: str
    passed: bool
    detail: str
    seconds: float


Step = Callable[[Device], str]


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise CheckFailedError(otherwise)


def _start(device: Device) -> str:
    device.start()
    if isinstance(device, TaskAware):
        device.prepare(TASK)
    info = device.info
    if info is None:
        raise CheckFailedError("info is not known after the start")
    _require(bool(info.name) and info.width > 0 and info.height > 0, f"info says nothing: {info}")
    return f"{info.kind} {info.name}, {info.width} x {info.height} pixels"


def _reset(device: Device) -> str:
    frame = device.reset()
    _whole(device, frame)
    return f"{len(frame.image) // 1024} KiB"


def _frames(device: Device) -> str:
    took = []
    for _ in range(_FRAMES):
        asked = time.monotonic()
        frame = device.screenshot()
        took.append(time.monotonic() - asked)
        _require(frame.monotonic >= asked, "a frame is older than the question for it")
        _whole(device, frame)
    return f"median {1000 * sorted(took)[_FRAMES // 2]:.0f} ms"


def _touches(device: Device) -> str:
    for x, y in ((0.0, 0.0), (1.0, 1.0), (0.5, 0.5)):
        device.tap(x, y)
    device.tap(0.5, 0.5, hold_ms=800)
    device.swipe(0.5, 0.8, 0.5, 0.2)
    _whole(device, device.screenshot())
    return "on the whole screen, up to its edges"


def _keys(device: Device) -> str:
    for key in Key:
        device.press(key)
    return "back, home, enter"


def _typing(device: Device) -> str:
    device.reset()
    try:
        device.type_text("check")
    except ActionRejected:
        return "rejected without focus, as it should be"
    return "something has the focus on the first screen"


def _home(device: Device) -> str:
    first = device.reset()
    device.swipe(0.5, 0.8, 0.5, 0.2)
    device.press(Key.HOME)
    last = device.screenshot()
    for frame in (first, last):
        _whole(device, frame)
    share = changed_share(picture_of(first.image), picture_of(last.image))
    _require(share < 0.5, f"{share:.0%} of the first screen differ after the home key")
    return f"{share:.1%} of the first screen differ"


def _reset_to(level: Reset) -> Step:
    def step(device: Device) -> str:
        _whole(device, device.reset(level))
        _require(device.healthy(), "it is not healthy afterwards")
        return "healthy"

    return step


def _close(device: Device) -> str:
    device.close()
    device.close()
    _require(not device.healthy(), "it says that it is healthy after it was closed")
    try:
        device.screenshot()
    except DeviceError as error:
        return f"{type(error).__name__} afterwards"
    raise CheckFailedError("a closed device gives a screenshot")


def _restart(device: Device) -> str:
    _start(device)
    _whole(device, device.reset())
    return "starts again"


STEPS: tuple[tuple[str, Step], ...] = (
    ("start", _start),
    ("reset", _reset),
    ("screenshots", _frames),
    ("touches", _touches),
    ("keys", _keys),
    ("typing", _typing),
    ("home", _home),
    *((f"reset {level.name.lower()}", _reset_to(level)) for level in Reset if level is not Reset.HOME),
    ("close", _close),
    ("restart", _restart),
)


def conformance(device: Device, steps: tuple[tuple[str, Step], ...] = STEPS) -> Iterator[Result]:
    """Carries out each step and tells how it went; closes the device at the end.

    Raises:
        InputError: the machine lacks something that the message names.
    """
    try:
        for name, step in steps:
            began = time.monotonic()
            try:
                detail, passed = step(device), True
            except (CheckFailedError, DeviceError) as error:
                detail, passed = f"{type(error).__name__}: {error}", False
            yield Result(name, passed, detail, time.monotonic() - began)
            if not passed and name == "start":
                return
    finally:
        device.close()


def _whole(device: Device, frame: Frame) -> None:
    """Raises ``CheckFailedError`` if a frame cannot be decoded or has another size than the device says."""
    info = device.info
    try:
        with Image.open(io.BytesIO(frame.image)) as image:
            image.load()
            size = image.size
    except (OSError, SyntaxError, ValueError) as error:
        raise CheckFailedError(f"a frame of {len(frame.image)} bytes is no whole image: {error}") from error
    said = (info.width, info.height) if info is not None else None
    _require(size == (frame.width, frame.height) == said, f"a frame has {size} pixels, the device says {said}")
