"""What the workers of a farm of stub phones are made of, for tests: a phone whose faults come with its tasks.

A goal names a fault and how often it strikes: ``once``, or at ``each`` try. It strikes while the screen after the
second action is asked for. What happened in the workers' processes is told in a diary, a directory of small files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from ulid import ULID

from digiq_ray.core.actions import ActionType, format_action, press, tap
from digiq_ray.core.policies import ActRequest, ActResult
from digiq_ray.core.tasks import Task
from digiq_ray.evaluation.judges import OracleJudge
from emulator_workers.appium_server import SHARED as APPIUM
from emulator_workers.environment import Environment
from emulator_workers.settle import SettleSettings
from emulator_workers.simphone.phone import CALM, SimPhone
from emulator_workers.stub.android_stub import SHARED as STUB
from emulator_workers.stub.device import StubDevice
from emulator_workers.stub.faults import PlannedFault, StubFault

AT, HORIZON = 2, 6
FRAME = AT + 1
"""A reset shows two frames: one to be there at all, one to have settled."""
CALL_SECONDS = 3.0
SETTLE = SettleSettings(stable_seconds=0.05, poll_seconds=0.02, change_seconds=0.3, deadline_seconds=5.0)
SHOTS = {StubFault.FROZEN_SCREENSHOT: 12}
CLASH = "clash"
"""In the diary: the next session that is opened anywhere meets a port clash."""


def fault_task(fault: StubFault | None, often: str = "once", number: int = 0) -> Task:
    """Without a fault the goal is reached at the first action; with one, never."""
    name = f"{fault}/{often}/{number}" if fault is not None else f"fine/{number}"
    goal = {"kind": "open", "app": "notes"} if fault is None else {"kind": "buy", "shop": "ebuy", "item": "no hat"}
    more = {} if fault is None else {"fault": str(fault), "often": often}
    return Task(name, "open the notes", HORIZON, "test", kind=goal["kind"], goal={**goal, **more}, seed=3)


class BackAndForth:
    """Opens the notes and goes home again: each action changes the screen."""

    def __init__(self) -> None:
        notes = next(each for each in SimPhone(fault_task(None), hazards=CALM).elements() if each.name == "notes")
        self._texts = format_action(tap(*notes.centre)), format_action(press(ActionType.HOME))

    def act(self, requests: Sequence[ActRequest]) -> list[ActResult]:
        return [ActResult(self._texts[len(request.history) % 2], -0.5, "v1") for request in requests]


class FaultsOfTheTask:
    """A plan for a phone: what its present task names."""

    def __init__(self, diary: Path) -> None:
        self._diary = diary
        self.task: Task | None = None

    def due(self, udid: str, episode: int, step: int) -> list[PlannedFault]:
        if self.task is None or step != FRAME or "fault" not in self.task.goal:
            return []
        name = self.task.task_id.replace("/", " ")
        if self.task.goal["often"] == "once" and list(self._diary.glob(f"struck {name} *")):
            return []
        fault = StubFault(self.task.goal["fault"])
        write(self._diary, f"struck {name} {ULID()}")
        if fault is StubFault.PORT_CLASH:  # it strikes sessions that are opened, so one has to end
            write(self._diary, CLASH)
            fault = StubFault.UIA2_CRASH
        return [PlannedFault(fault, step, None, SHOTS.get(fault, 1), 10 * CALL_SECONDS)]


class FaultyStubDevice(StubDevice):
    """Tells its phone's plan the task, and the diary what it has opened; meets a clash that waits there."""

    def __init__(self, diary: Path) -> None:
        self.plan, self._diary = FaultsOfTheTask(diary), diary
        stub_phone = STUB.add(plan=self.plan, hazards=CALM)
        self._ensure, stub_phone.ensure = stub_phone.ensure, self._ensure_and_clash
        super().__init__(stub_phone, APPIUM, call_seconds=CALL_SECONDS, start_seconds=30.0)

    def start(self) -> None:
        super().start()
        self._tell()

    def prepare(self, task: Task) -> None:
        self.plan.task = task
        super().prepare(task)

    def _ensure_and_clash(self) -> None:
        """What opens a session asks of its phone first, after a restore, which would end a clash."""
        self._ensure()
        with suppress(FileNotFoundError):
            (self._diary / CLASH).unlink()
            self.phone.inject(StubFault.PORT_CLASH)

    def _tell(self) -> None:
        write(self._diary, f"port {self.phone.adb_port}")
        write(self._diary, f"port {APPIUM.ready().rpartition(':')[2]}")
        write(self._diary, f"process {APPIUM.pid}")
        write(self._diary, f"process {os.getpid()}")
        write(self._diary, f"directory {APPIUM.directory.name}")


def write(diary: Path, line: str) -> None:
    """One entry; the same one twice is one."""
    (diary / line).touch()


def read(diary: Path, kind: str) -> list[str]:
    """All entries of a kind, without its name."""
    return sorted(file.name.partition(" ")[2] for file in diary.glob(f"{kind} *"))


def make_stub_environment(diary: Path) -> Environment:
    """A phone of this process's stub behind this process's Appium."""
    device = FaultyStubDevice(diary)
    return Environment(device, OracleJudge(), settle=SETTLE, on_close=partial(STUB.remove, device.phone))
