"""A farm of slow and unreliable devices: our asynchronous pool against lock-step batches of 8, as in the original.

``python -m benchmarks.farm [--quick] --json FILE``. The devices are models: a step takes a log-normal time with a
median of 1.5 s and a tail that is cut at 60 s, a boot takes 30 s, and 2 % of steps fail. Time runs faster by
``SPEED``; every figure is in the devices' own seconds, but for ``cpu_ms_per_step``, which is not scaled.

Both ways drive the same 512 devices of the same model, with the same tasks. *Ours* is the real thing: ``EmulatorPool``
on Ray, workers with a thread for each device, recovery, retries, episodes written to a store. *Lock-step* is the
original's loop: a batch of 8 steps together and waits for the slowest; a device that has finished idles until its batch
ends; each episode begins with a boot; a step that fails is tried again 10 s later, and when that fails too the episode
is lost (a failure of the model lasts until somebody recovers the device); it sleeps 5 s before each screenshot and 26 s
at each reset. The other rows take these habits away one by one, so that one can see what each costs: first as if the
device worked while the program sleeps, then without sleeps, and so on. Lock-step has no code around it that could slow
it down: its time is computed from the model.
"""

from __future__ import annotations

import itertools
import logging
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.report import Report, Spread, interleave, options, ratio
from digiq_ray.core.policies import ActRequest, ActResult
from digiq_ray.core.rng import seed_of, uniforms
from digiq_ray.core.tasks import Task
from digiq_ray.evaluation.judges import OracleJudge
from digiq_ray.store.episodes import EpisodeStore
from emulator_workers.devices.base import DeviceInfo, DeviceUnreachable, Frame, Key, Reset, SessionLost
from emulator_workers.environment import NO_SCREEN, Environment
from emulator_workers.jobs import Job, make_jobs
from emulator_workers.phases import Deadlines
from emulator_workers.pool import EmulatorPool
from emulator_workers.worker import WorkerSpec

DEVICES = 512
BATCH = 8
SPEED = 8.0
"""Devices' seconds in one second of the clock: 512 devices then make about 1,300 steps a second on two cores."""


@dataclass(frozen=True)
class Model:
    """How long things take, in seconds of the device.

    Attributes:
        median, sigma: Of a step's time (log-normal).
        longest: Where its tail is cut.
        boot: A boot.
        failing: Probability that a step fails; half of the failures lose the session, half need the snapshot.
    """

    median: float = 1.5
    sigma: float = 1.2
    longest: float = 60.0
    boot: float = 30.0
    failing: float = 0.02

    def latencies(self, draws: NDArray[np.float64]) -> NDArray[np.float64]:
        """Times of steps from uniform draws, by the inverse of the distribution."""
        normal = statistics.NormalDist().inv_cdf
        levels = np.vectorize(normal)(np.clip(draws, 1e-12, 1 - 1e-12))
        return np.minimum(self.median * np.exp(self.sigma * levels), self.longest)


MODEL = Model()
_TABLE = MODEL.latencies((np.arange(65536) + 0.5) / 65536)
DEADLINES = Deadlines(
    boot=300.0 / SPEED, reset=180.0 / SPEED, recover=300.0 / SPEED, act=60.0 / SPEED, settle=180.0 / SPEED
)
SNAPSHOT_SECONDS = 5.0
Sleeps = Literal["added", "meanwhile", "none"]
SECOND_TRY_SECONDS, STEP_SLEEP, RESET_SLEEP = 10.0, 5.0, 26.0


class SlowDevice:
    """A device of the model. A task is done after as many steps as its goal says."""

    def __init__(self, seed: int) -> None:
        self.info: DeviceInfo | None = None
        self._seed, self._calls, self._taken, self._goal = seed, 0, 0, 0
        self._pause = threading.Event()

    def start(self) -> None:
        """Boots."""
        self._spend(MODEL.boot)
        self.info = DeviceInfo("model", f"model-{self._seed}", 32, 32)

    def prepare(self, task: Task) -> None:
        """Sets the task."""
        self._goal = int(task.goal["steps"])

    def reset(self, level: Reset = Reset.HOME) -> Frame:
        """A reset; a reboot and a snapshot take their time."""
        self._taken = 0
        if level is Reset.REBOOT:
            self._spend(MODEL.boot)
        elif level is Reset.SNAPSHOT:
            self._spend(SNAPSHOT_SECONDS)
        self._spend(self._latency())
        return self._frame()

    def screenshot(self) -> Frame:
        """A step: the action's effect and the screen."""
        self._spend(self._latency())
        kind = float(uniforms(self._seed, 2 * self._calls + 1))
        if kind < MODEL.failing:
            raise SessionLost("model") if kind < MODEL.failing / 2 else DeviceUnreachable("model")
        self._taken += 1
        return self._frame()

    def tap(self, x: float, y: float, hold_ms: int = 50) -> None:
        """Counts in the screenshot that follows."""

    def swipe(self, x1: float, y1: float, x2: float, y2: float, duration_ms: int = 200) -> None:
        """Counts in the screenshot that follows."""

    def type_text(self, text: str) -> None:
        """Counts in the screenshot that follows."""

    def press(self, key: Key) -> None:
        """Counts in the screenshot that follows."""

    def healthy(self) -> bool:
        """Whether it was started."""
        return self.info is not None

    def close(self) -> None:
        """Ends it."""
        self.info = None

    def succeeded(self) -> bool:
        """Whether the task's steps are done."""
        return self._taken >= self._goal

    def _latency(self) -> float:
        self._calls += 1
        return float(_TABLE[int(uniforms(self._seed, 2 * self._calls) * len(_TABLE))])

    def _spend(self, seconds: float) -> None:
        self._pause.wait(seconds / SPEED)

    def _frame(self) -> Frame:
        return Frame(NO_SCREEN, "image/png", 32, 32, time.monotonic())


class SteadyPolicy:
    """Always taps the middle, at once."""

    def act(self, requests: Sequence[ActRequest]) -> list[ActResult]:
        """The same action for each."""
        return [ActResult("tap 0.5 0.5", 0.0, "steady") for _ in requests]


def make_environment() -> Environment:
    """A device of its own."""
    return Environment(SlowDevice(seed_of(time.perf_counter_ns(), threading.get_ident())), OracleJudge())


def jobs_of(count: int) -> list[Job]:
    """Tasks that take 4 to 20 steps, as episodes of Web Shopping do (horizon 20)."""
    lengths = 4 + np.floor(uniforms(np.arange(count), 7) * 17).astype(int)
    return make_jobs(
        [Task(f"farm/{n}", "go on", 20, "train", goal={"steps": str(length)}) for n, length in enumerate(lengths)],
        run="farm",
    )


@dataclass(frozen=True)
class Figures:
    """What one run gave; times are the devices' own, but for those of our own code."""

    episodes_per_hour: float
    utilisation: float
    utilisation_to_the_end: float
    whole: int
    cpu_ms_per_step: float = 0.0
    steps_per_second: float = 0.0
    device_errors: int = 0


def lockstep(
    lengths: Sequence[int], devices: int, *, boot: bool, retry: bool, sleeps: Sleeps, seed: int = 0
) -> Figures:
    """Time of lock-step batches, from draws of the model.

    Args:
        lengths: Steps of each episode, dealt to the batches in order.
        devices: How many there are, in batches of ``BATCH``.
        boot: Each episode begins with a boot, as in the original; else with a reset that costs a step.
        retry: An episode that failed is repeated in a later batch until it is whole; else it is lost, after a second
            try of the step that failed.
        sleeps: The original's fixed sleeps: added to what the device takes, or going on while it works, or none.
        seed: Decides the draws.

    Returns:
        Its figures, without code of its own.
    """
    rng = np.random.default_rng(seed)
    free = np.full(devices // BATCH, 0.0 if boot else MODEL.boot)
    busy, whole = (0.0 if boot else MODEL.boot * devices), 0
    left = list(lengths)
    while left:
        group, left = left[:BATCH], left[BATCH:]
        begin = np.full(len(group), MODEL.boot) if boot else MODEL.latencies(rng.random(len(group)))
        elapsed = float(begin.max()) + (RESET_SLEEP if sleeps != "none" else 0.0)
        busy += float(begin.sum())
        alive = np.ones(len(group), dtype=bool)
        for step in range(max(group)):
            running = alive & (np.array(group) > step)
            if not running.any():
                break
            took = MODEL.latencies(rng.random(len(group)))
            failed = running & (rng.random(len(group)) < MODEL.failing)
            if failed.any() and not retry:
                took[failed] += SECOND_TRY_SECONDS + MODEL.latencies(rng.random(int(failed.sum())))
            alive &= ~failed
            slowest = float(took[running].max())
            elapsed += {"added": slowest + STEP_SLEEP, "meanwhile": max(slowest, STEP_SLEEP), "none": slowest}[sleeps]
            busy += float(took[running].sum()) - (SECOND_TRY_SECONDS * int(failed.sum()) if not retry else 0.0)
        whole += int(alive.sum())
        if retry:
            left += [length for length, lived in zip(group, alive, strict=True) if not lived]
        free[free.argmin()] += elapsed
    seconds = float(free.max())
    share = busy / (seconds * devices)
    return Figures(3600 * whole / seconds, share, share, whole)


def ours(jobs: Sequence[Job], devices: int, workers: int) -> Figures:
    """The pool on Ray, with a thread for each device."""
    used = time.process_time()
    with tempfile.TemporaryDirectory() as place:
        store = Path(place) / "episodes"
        EpisodeStore.create(store)
        spec = WorkerSpec(
            make_environment=make_environment,
            make_policy=SteadyPolicy,
            store_path=str(store),
            slots=devices // workers,
            concurrent=True,
            deadlines=DEADLINES,
            flush_episodes=256,
        )
        report = EmulatorPool(spec, workers=workers, num_cpus=0, probe_seconds=0.5).run(jobs)
        stops = EpisodeStore(store).table(["is_last", "stop_reason"]).filter(pc.field("is_last"))["stop_reason"]
    stats, whole = report.stats, len(jobs) - pc.sum(pc.equal(stops, "device_error")).as_py()
    return Figures(
        episodes_per_hour=3600 * whole / (report.seconds * SPEED),
        utilisation=report.utilisation or 0.0,
        utilisation_to_the_end=stats.utilisation or 0.0,
        whole=whole,
        cpu_ms_per_step=1000 * (stats.cpu_seconds + time.process_time() - used) / stats.steps,
        steps_per_second=stats.steps / report.seconds,
        device_errors=sum(stats.device_errors.values()),
    )


OURS = "ours"
HABITS: dict[str, dict[str, Any]] = {
    "lock-step, as the original": {"boot": True, "retry": False, "sleeps": "added"},
    "- devices work while it sleeps": {"boot": True, "retry": False, "sleeps": "meanwhile"},
    "- without its sleeps": {"boot": True, "retry": False, "sleeps": "none"},
    "- nor boots for each episode": {"boot": False, "retry": False, "sleeps": "none"},
    "- nor lost episodes: the barrier": {"boot": False, "retry": True, "sleeps": "none"},
}
SPEEDUPS = (
    "speedup_over_lockstep",
    "speedup_if_devices_work_in_sleeps",
    "speedup_without_sleeps",
    "speedup_without_boots",
    "speedup_of_the_barrier",
)


def main() -> None:
    """Command line."""
    given = options(__doc__, workers={"type": int, "default": 2, "help": "worker processes that share the devices"})
    devices, episodes, repeats = (128, 1024, 1) if given.quick else (DEVICES, 24576, 2)
    jobs = jobs_of(episodes)
    lengths = [int(job.task.goal["steps"]) for job in jobs]
    ways = {OURS: partial(ours, jobs, devices, given.workers)}
    seeds = itertools.count()
    ways |= {
        name: lambda habits=habits: lockstep(lengths, devices, seed=next(seeds), **habits)
        for name, habits in HABITS.items()
    }
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    logging.getLogger("emulator_workers").setLevel(logging.ERROR)
    try:
        found = interleave(ways, repeats, Console(stderr=True))
    finally:
        ray.shutdown()
    hourly = {name: [one.episodes_per_hour for one in figures] for name, figures in found.items()}
    rows = [
        {
            "way": name,
            "episodes_per_hour": Spread.of(hourly[name]),
            "utilisation": Spread.of([one.utilisation for one in figures]),
            "whole_episodes": Spread.of([one.whole for one in figures]),
        }
        for name, figures in found.items()
    ]
    ratios = {
        name: Spread.of([getattr(one, name) for one in found[OURS]])
        for name in ("utilisation", "utilisation_to_the_end", "cpu_ms_per_step", "steps_per_second", "device_errors")
    }
    ratios |= {name: ratio(hourly[OURS], hourly[way]) for name, way in zip(SPEEDUPS, HABITS, strict=True)}
    Report(
        name="farm",
        rows=rows,
        ratios=ratios,
        notes=[
            f"{devices} devices, {episodes:,} episodes of 4 to 20 steps, times {SPEED:g} times as fast as the devices'",
            "utilisation: while there were jobs to hand out; to the end: the last episodes included",
            "cpu_ms_per_step: workers and driver, the model of the devices included; not scaled",
        ],
    ).publish(given.json)


if __name__ == "__main__":
    main()
