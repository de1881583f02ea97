"""Small phones and policies for the tests of environments, rollouts, workers and pools.

A ``FakePhone`` is a row of numbered pages: a tap right of the middle goes to the next page, one left of it to the one
before, and the task's goal is to see a page. Typing needs a focus, which the home key gives.
"""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from digiq_ray.core.actions import ActionType, format_action, press, tap, type_text
from digiq_ray.core.policies import ActRequest, ActResult
from digiq_ray.core.rng import seed_of, uniforms
from digiq_ray.core.tasks import Task
from digiq_ray.evaluation.judges import OracleJudge
from emulator_workers.devices.base import ActionRejected, DeviceInfo, DeviceUnreachable, Frame, Key, Reset
from emulator_workers.environment import Environment
from emulator_workers.faults import FaultPlan, FaultyDevice
from emulator_workers.naming import of_worker


def page_task(page: int, *, horizon: int = 6, name: str = "") -> Task:
    """The goal of seeing ``page``."""
    return Task(name or f"pages/{page}", f"go to page {page}", horizon, "train", goal={"page": str(page)})


def encode(page: int, fmt: str = "PNG") -> bytes:
    """The screen of a page."""
    encoded = io.BytesIO()
    Image.new("RGB", (8, 16), (page % 256, 40, 90)).save(encoded, fmt)
    return encoded.getvalue()


class MutePhone:
    """A phone whose screen is one colour per page, which does not tell. ``calls`` logs what was done to it."""

    def __init__(self, name: str = "fake") -> None:
        self.info: DeviceInfo | None = None
        self.calls: list[str] = []
        self._name = name
        self._page, self._goal, self._focused = 0, -1, False

    def start(self) -> None:
        self.calls.append("start")
        self.info = DeviceInfo("fake", self._name, 8, 16)

    def prepare(self, task: Task) -> None:
        self.calls.append("prepare")
        self._goal = int(task.goal["page"])

    def reset(self, level: Reset = Reset.HOME) -> Frame:
        self.calls.append(f"reset {level.name}")
        self._page, self._focused = 0, False
        return self._frame()

    def screenshot(self) -> Frame:
        self.calls.append("screenshot")
        return self._frame()

    def tap(self, x: float, y: float, hold_ms: int = 50) -> None:
        self.calls.append(f"tap {x} {y} {hold_ms}")
        self._page += 1 if x > 0.5 else -1

    def swipe(self, x1: float, y1: float, x2: float, y2: float, duration_ms: int = 200) -> None:
        self.calls.append(f"swipe {x1} {y1} {x2} {y2}")

    def type_text(self, text: str) -> None:
        self.calls.append(f"type {text}")
        if not self._focused:
            raise ActionRejected("nothing has the focus")
        self._page += 10

    def press(self, key: Key) -> None:
        self.calls.append(f"press {key.value}")
        self._focused = key is Key.HOME

    def healthy(self) -> bool:
        return self.info is not None

    def close(self) -> None:
        self.calls.append("close")
        self.info = None

    def _frame(self) -> Frame:
        return Frame(encode(self._page), "image/png", 8, 16, time.monotonic())


class FakePhone(MutePhone):
    """A phone that knows whether its task is done."""

    def succeeded(self) -> bool:
        return self._page == self._goal


class DeadPhone(FakePhone):
    """A phone that cannot be reset."""

    def reset(self, level: Reset = Reset.HOME) -> Frame:
        super().reset(level)
        raise DeviceUnreachable("no answer")


class SlowPhone(FakePhone):
    """A phone whose screens take their time."""

    def screenshot(self) -> Frame:
        threading.Event().wait(0.05)
        return super().screenshot()


class FatalPhone(FakePhone):
    """A phone that is the end of its worker: its ``at``-th screen kills the process or hangs, or it cannot be reset.

    It notes its process in ``diary``; with ``once`` only the first process of a diary meets its end.
    """

    def __init__(self, diary: Path, end: str, *, at: int, once: bool = True) -> None:
        super().__init__()
        self._diary, self._end, self._at, self._once = diary, end, at, once
        self._count = 0
        (diary / str(os.getpid())).touch()

    def reset(self, level: Reset = Reset.HOME) -> Frame:
        if self._end == "dead" and self._is_the_victim():
            raise DeviceUnreachable("no answer")
        return super().reset(level)

    def screenshot(self) -> Frame:
        self._count += 1
        if self._count == self._at and self._end != "dead" and self._is_the_victim():
            if self._end == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait(60)
        return super().screenshot()

    def _is_the_victim(self) -> bool:
        if not self._once:
            return True
        try:
            with (self._diary / "victim").open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return (self._diary / "victim").read_text() == str(os.getpid())
        return True


class ScriptedPolicy:
    """Plays a list of texts: the n-th action of an episode is the n-th text."""

    def __init__(self, *texts: str) -> None:
        self._texts = texts
        self.requests: list[ActRequest] = []
        self.batches: list[int] = []

    def act(self, requests: Sequence[ActRequest]) -> list[ActResult]:
        self.requests.extend(requests)
        self.batches.append(len(requests))
        return [ActResult(self._texts[len(request.history)], -1.0, "scripted") for request in requests]


class DicePolicy:
    """Draws any kind of action, good and bad, from the request's seed and screen."""

    TEXTS = (
        *(format_action(tap(0.9, 0.5)),) * 4,
        *(format_action(tap(0.1, 0.5)),) * 2,
        format_action(type_text("hello")),
        format_action(press(ActionType.HOME)),
        format_action(press(ActionType.COMPLETE)),
        "no action at all",
    )

    def __init__(self) -> None:
        self.batches: list[int] = []

    def act(self, requests: Sequence[ActRequest]) -> list[ActResult]:
        self.batches.append(len(requests))
        draws = (float(uniforms(seed_of(r.seed, r.screen.hex()), 0)) for r in requests)
        return [ActResult(self.TEXTS[int(u * len(self.TEXTS))], -u, "dice") for u in draws]


def make_fake_environment() -> Environment:
    """A fake phone with the oracle judge."""
    return Environment(FakePhone(), OracleJudge())


def make_named_environment() -> Environment:
    """A fake phone that is named after its worker."""
    return Environment(FakePhone(of_worker("fake")), OracleJudge())


def make_slow_environment() -> Environment:
    """A phone that takes its time."""
    return Environment(SlowPhone(), OracleJudge())


def make_faulty_environment(plan: FaultPlan) -> Environment:
    """A fake phone with faults."""
    return Environment(FaultyDevice(FakePhone(), plan), OracleJudge())


def make_fatal_environment(diary: Path, end: str, at: int, once: bool = True) -> Environment:
    """A phone that ends its worker."""
    return Environment(FatalPhone(diary, end, at=at, once=once), OracleJudge())
