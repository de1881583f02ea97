"""One agent step on a real browser: ours, which waits until the screen has settled, against the original's sleeps.

``python -m benchmarks.device_step [--quick] --json FILE``. Both ways drive the same class of device, the simulated
phone as a web page in Chromium behind the real Appium server, each in a browser of its own, with the expert's actions
on the same tasks. They take turns: in each round one step of the original's, then some of ours.

*Ours* is ``Environment.step`` as a farm calls it: the action, frames until the picture stands still, the judge. *The
original's* is what its environment does with a phone: the action (100 ms taps, 250 ms swipes; 4 s of sleep before
typing), 5 s of sleep and a screenshot, up to five times while it is nearly white, the screenshot to a file, the judge.
The judge is the simulator's oracle in both, which costs nothing; the policy is not timed.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from benchmarks.report import Report, Spread, options, ratio
from digiq_ray.core.actions import Action, ActionType, format_action
from digiq_ray.core.policies import ActResult
from digiq_ray.core.tasks import Task
from digiq_ray.evaluation.judges import OracleJudge
from emulator_workers.appium_server import AppiumEndpoint, AppiumServer
from emulator_workers.devices.base import ActionRejected, Frame, Key
from emulator_workers.environment import Environment
from emulator_workers.settle import SettleSettings
from emulator_workers.simphone.oracle import best_action
from emulator_workers.simphone.tasks import build
from emulator_workers.webphone.device import WebPhoneDevice

SCALE = 4
"""384 x 768 pixels: about the CSS pixels of a phone."""
SCREEN_SLEEP, TYPE_SLEEP, TRIES = 5.0, 4.0, 5
TAP_MS, SWIPE_MS = 100, 250
WHITE, WHITE_SHARE = 240, 2.3 / 2.46
KEYS = {ActionType.BACK: Key.BACK, ActionType.HOME: Key.HOME, ActionType.ENTER: Key.ENTER}

Phases = dict[str, float]
"""Seconds of each phase of one step; their sum is the step."""


@contextmanager
def booked(seconds: Phases, phase: str) -> Iterator[None]:
    """Adds the time inside to ``seconds[phase]``."""
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - began


class TimedPhone(WebPhoneDevice):
    """A web phone that adds up what its frames and its screenshots have taken."""

    def __init__(self, name: str, server: AppiumEndpoint, **look: Any) -> None:
        super().__init__(name, server, **look)
        self.seconds: Phases = {}
        self.shots = 0

    def next_frame(self) -> None:
        """Timed."""
        with booked(self.seconds, "next frame"):
            super().next_frame()

    def screenshot(self) -> Frame:
        """Timed and counted."""
        self.shots += 1
        with booked(self.seconds, "screenshots"):
            return super().screenshot()


class Ours:
    """Steps of an ``Environment``, one after the other, on tasks that follow each other."""

    def __init__(self, phone: TimedPhone, tasks: Sequence[Task], settle: SettleSettings) -> None:
        self._phone, self._tasks = phone, itertools.cycle(tasks)
        self._environment = Environment(phone, OracleJudge(), settle=settle)
        self._over = True
        self.looks = 0
        self.tags: dict[str, int] = {}

    def step(self) -> Phases:
        """One step, in phases; between episodes the phone is reset first, which is not timed."""
        if self._over:
            self._environment.reset(next(self._tasks))
        result = ActResult(format_action(best_action(self._phone.phone)), 0.0, "expert")
        inside: Phases = {}
        self._phone.seconds = inside
        shots, began = self._phone.shots, time.perf_counter()
        *_, terminated, truncated, info = self._environment.step(result)
        whole = time.perf_counter() - began
        if info["device_error"] is not None:
            raise info["device_error"]
        self._over = terminated or truncated
        self.looks += self._phone.shots - shots
        if info["tag"] is not None:
            self.tags[info["tag"]] = self.tags.get(info["tag"], 0) + 1
        phases = {"act": info["seconds"]["act"], **inside}
        phases["wait and compare"] = info["seconds"]["settle"] - sum(inside.values())
        phases["judge and rest"] = whole - sum(phases.values())
        return phases


class Original:
    """The same steps as the original takes them."""

    def __init__(self, phone: TimedPhone, tasks: Sequence[Task], place: Path, *, sleeps: float = 1.0) -> None:
        self._phone, self._tasks, self._place, self._sleeps = phone, itertools.cycle(tasks), place, sleeps
        self._left = 0

    def step(self) -> Phases:
        """One step, in phases."""
        phone = self._phone
        if self._left == 0:
            task = next(self._tasks)
            phone.prepare(task)
            phone.reset()
            self._left = task.horizon
        action = best_action(phone.phone)
        phases: Phases = {}
        phone.seconds = phases
        if action.type is ActionType.TYPE:
            self._sleep(phases, TYPE_SLEEP)
        with booked(phases, "act"):
            act(phone, action)
        self._look(phases)
        with booked(phases, "judge and rest"):
            done = phone.succeeded()
        self._left = 0 if done else self._left - 1
        return phases

    def _look(self, phases: Phases) -> None:
        for _ in range(TRIES):
            self._sleep(phases, SCREEN_SLEEP)
            file = self._place / "screen.png"
            image = self._phone.screenshot().image
            with booked(phases, "white? and file"):
                file.write_bytes(image)
                with Image.open(file) as opened:
                    white = float((np.asarray(opened.convert("RGB")) > WHITE).mean())
            if white <= WHITE_SHARE:
                return

    def _sleep(self, phases: Phases, seconds: float) -> None:
        with booked(phases, "sleep"):
            time.sleep(self._sleeps * seconds)


def act(phone: WebPhoneDevice, action: Action) -> None:
    """Carries out an action with the original's durations; a refused one is passed over, as there."""
    try:
        match action:
            case Action(type=ActionType.TAP, x=float(x), y=float(y)):
                phone.tap(x, y, hold_ms=TAP_MS)
            case Action(type=ActionType.SWIPE, x=float(x), y=float(y), x2=float(x2), y2=float(y2)):
                phone.swipe(x, y, x2, y2, duration_ms=SWIPE_MS)
            case Action(type=ActionType.TYPE, text=str(text)):
                phone.type_text(text)
            case Action(type=kind) if kind in KEYS:
                phone.press(KEYS[kind])
    except ActionRejected:
        return


def take_turns(
    ours: Ours, original: Original, rounds: int, each: int, console: Console | None = None
) -> tuple[list[list[Phases]], list[Phases]]:
    """In each round one step of the original's and ``each`` of ours; ours by rounds, and the original's."""
    mine: list[list[Phases]] = []
    theirs: list[Phases] = []
    for number in range(rounds):
        if console is not None:
            console.print(f"[dim]{number + 1} of {rounds}[/]")
        theirs.append(original.step())
        mine.append([ours.step() for _ in range(each)])
    return mine, theirs


def total(phases: Phases) -> float:
    """Seconds of a step."""
    return sum(phases.values())


def rows_of(way: str, steps: Sequence[Phases]) -> list[dict[str, str | float | Spread]]:
    """A row for the whole step, then one for each phase, with its share of the time of all steps."""
    whole = sum(map(total, steps))
    names = list(dict.fromkeys(name for step in steps for name in step))
    rows: list[dict[str, str | float | Spread]] = [
        {"way": way, "phase": "step", "seconds": Spread.of([total(step) for step in steps]), "share": 1.0}
    ]
    for name in sorted(names, key=lambda one: -sum(step.get(one, 0.0) for step in steps)):
        seconds = [step.get(name, 0.0) for step in steps]
        rows.append({"way": way, "phase": name, "seconds": Spread.of(seconds), "share": sum(seconds) / whole})
    return rows


def report_of(mine: Sequence[Sequence[Phases]], theirs: Sequence[Phases], notes: Sequence[str] = ()) -> Report:
    """The table and the ratios; that of each round compares its step of the original's with the median of ours."""
    flat = [step for steps in mine for step in steps]
    medians = [statistics.median(map(total, steps)) for steps in mine]
    whole = [total(step) for step in flat]
    return Report(
        name="device_step",
        rows=[*rows_of("ours", flat), *rows_of("original", theirs)],
        ratios={
            "chromium_median_s": Spread.of(whole),
            "chromium_p90_s": Spread.of([float(np.quantile(whole, 0.9))]),
            "speedup_over_sleeps": ratio([total(step) for step in theirs], medians),
        },
        notes=notes,
    )


def main() -> None:
    """Command line."""
    given = options(__doc__)
    rounds, each = (2, 6) if given.quick else (8, 6)
    tasks = build("webshop", "train", 8).tasks
    console = Console(stderr=True)
    with AppiumServer() as server, tempfile.TemporaryDirectory() as place:
        phones = [TimedPhone(name, server, scale=SCALE) for name in ("ours", "original")]
        try:
            for phone in phones:
                phone.start()
            ours = Ours(phones[0], tasks, SettleSettings())
            original = Original(phones[1], tasks, Path(place))
            mine, theirs = take_turns(ours, original, rounds, each, console)
        finally:
            for phone in phones:
                phone.close()
    steps = rounds * each
    report_of(
        mine,
        theirs,
        [
            f"{steps} of our steps and {rounds} of the original's in turns; one Appium server, two browsers",
            f"screens of {96 * SCALE} x {192 * SCALE} pixels; {ours.looks / steps:.1f} screenshots in a step of ours",
            f"screens of ours that had not settled: {ours.tags or 'none'}",
        ],
    ).publish(given.json)


if __name__ == "__main__":
    main()
