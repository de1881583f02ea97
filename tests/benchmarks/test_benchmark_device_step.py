"""The benchmark of a step does in both ways what it says, on a phone in this process; one real run of both."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import device_step
from benchmarks.device_step import Original, Ours, Phases, booked, main, report_of, rows_of, take_turns
from digiq_ray.core.actions import ActionType
from digiq_ray.core.tasks import Task
from emulator_workers.devices.base import Frame
from emulator_workers.settle import SettleSettings
from emulator_workers.simphone.device import SimulatedDevice
from emulator_workers.simphone.oracle import best_action
from emulator_workers.simphone.phone import CALM
from tests.emulator_workers.appium_testing import need_chromium

NOTE = Task("step/note", "note: buy milk", 12, "train", goal={"kind": "note", "note": "buy milk"}, seed=3)
QUICK = SettleSettings(stable_seconds=0.02, poll_seconds=0.005, change_seconds=0.05)


class Phone(SimulatedDevice):
    """Shows one frame until the next is asked for, counts screenshots and keeps what was typed and touched."""

    def __init__(self) -> None:
        super().__init__("bench", hazards=CALM)
        self.seconds: Phases = {}
        self.shots = 0
        self.holds: list[int] = []
        self._shown: Frame | None = None

    def next_frame(self) -> None:
        with booked(self.seconds, "next frame"):
            self._shown = super().screenshot()

    def screenshot(self) -> Frame:
        self.shots += 1
        with booked(self.seconds, "screenshots"):
            frame = super().screenshot() if self._shown is None else self._shown
            return Frame(frame.image, frame.mime, frame.width, frame.height, time.monotonic())

    def tap(self, x: float, y: float, hold_ms: int = 50) -> None:
        self.holds.append(hold_ms)
        super().tap(x, y, hold_ms)


@pytest.fixture
def phone() -> Phone:
    made = Phone()
    made.start()
    return made


def test_our_step_is_an_environments_with_all_its_phases(phone: Phone) -> None:
    ours = Ours(phone, [NOTE], QUICK)
    phases = ours.step()
    assert set(phases) == {"act", "next frame", "screenshots", "wait and compare", "judge and rest"}
    assert min(phases.values()) >= 0
    assert phases["wait and compare"] >= 0.015
    assert (phone.holds, ours.looks >= 2, ours.tags) == ([50], True, {})


def test_both_ways_go_from_task_to_task_with_the_experts_actions(phone: Phone, tmp_path: Path) -> None:
    ours, other = Ours(phone, [NOTE], QUICK), Phone()
    other.start()
    original = Original(other, [NOTE], tmp_path, sleeps=0.0)
    for way, driven in ((ours, phone), (original, other)):
        solved = 0
        for _ in range(12):
            way.step()
            solved += driven.succeeded()
        assert solved >= 2


def test_the_originals_step_sleeps_before_it_looks_and_longer_before_it_types(
    phone: Phone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(device_step.time, "sleep", slept.append)
    original = Original(phone, [NOTE], tmp_path)
    typed = False
    while not typed:
        if phone.healthy() and phone._task is not None:
            typed = best_action(phone.phone).type is ActionType.TYPE
        slept.clear()
        original.step()
        assert slept == ([4.0, 5.0] if typed else [5.0])
    assert set(phone.holds) == {100}
    assert Image.open(tmp_path / "screen.png").size == (96, 192)


def test_the_original_looks_again_while_the_screen_is_white(phone: Phone, tmp_path: Path, monkeypatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(device_step.time, "sleep", slept.append)
    monkeypatch.setattr(device_step, "WHITE", -1)
    Original(phone, [NOTE], tmp_path).step()
    assert slept == [5.0] * 5


def test_the_ways_take_turns_and_a_ratio_compares_steps_of_one_round() -> None:
    class Way:
        def __init__(self, *seconds: float) -> None:
            self.left = list(seconds)

        def step(self) -> Phases:
            return {"act": self.left.pop(0)}

    mine, theirs = take_turns(Way(0.1, 0.2, 0.3, 0.4), Way(4.0, 8.0), 2, 2)
    assert mine == [[{"act": 0.1}, {"act": 0.2}], [{"act": 0.3}, {"act": 0.4}]]
    ratios = report_of(mine, theirs).ratios
    assert ratios["chromium_median_s"].median == pytest.approx(0.25)
    found = ratios["speedup_over_sleeps"]
    assert (found.median, found.low, found.high) == pytest.approx((6.0 / 0.25, 8.0 / 0.35, 4.0 / 0.15))


def test_the_shares_of_the_phases_are_those_of_all_the_time() -> None:
    rows = rows_of("ours", [{"act": 1.0, "wait": 2.0}, {"act": 2.0, "wait": 2.0, "type": 1.0}])
    assert [(row["phase"], row["share"]) for row in rows] == [
        *(("step", 1.0), ("wait", 4 / 8), ("act", 3 / 8), ("type", 1 / 8)),
    ]
    assert rows[3]["seconds"].to_json() == {"median": 0.5, "min": 0.0, "max": 1.0}


def test_it_runs_on_real_browsers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_chromium()
    monkeypatch.setattr(device_step, "SCREEN_SLEEP", 0.5)
    monkeypatch.setattr(device_step, "TYPE_SLEEP", 0.5)
    monkeypatch.setattr("sys.argv", ["device_step", "--quick", "--json", str(tmp_path / "found.json")])
    main()
    found = json.loads((tmp_path / "found.json").read_text())
    assert {"chromium_median_s", "speedup_over_sleeps"} <= found["ratios"].keys()
    assert {(row["way"], row["phase"]) for row in found["rows"]} >= {("ours", "screenshots"), ("original", "sleep")}
