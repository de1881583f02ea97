"""Steps a second of the simulated phone: state machine alone, with its picture, and as a device with PNG bytes.

``python -m benchmarks.simphone [--quick] --json FILE``. The three ways are interleaved; figures are medians.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial

from benchmarks.report import Report, Spread, interleave, options, ratio
from emulator_workers.simphone.demonstrator import demonstrate
from emulator_workers.simphone.device import SimulatedDevice
from emulator_workers.simphone.oracle import apply
from emulator_workers.simphone.screens import render
from emulator_workers.simphone.tasks import build

Way = Callable[[SimulatedDevice], object]
WAYS: dict[str, Way] = {
    "state machine": lambda device: device.phone.advance(),
    "with picture": lambda device: (device.phone.advance(), render(device.phone)),
    "device (PNG)": lambda device: device.screenshot(),
}


def steps_per_second(way: Way, steps: int) -> float:
    """Plays tasks with prepared actions; only the phone's own work is timed."""
    device, rng, spent, done = SimulatedDevice(), random.Random(0), 0.0, 0
    device.start()
    for task in build("webshop", "train", 1 + steps // 10):
        device.prepare(task)
        device.reset()
        for _ in range(task.horizon):
            action = demonstrate(device.phone, rng)
            began = time.perf_counter()
            apply(device.phone, action)
            way(device)
            spent += time.perf_counter() - began
            done += 1
            if done == steps:
                return steps / spent
    raise AssertionError("too few tasks for so many steps")


def main() -> None:
    """Command line."""
    given = options(__doc__)
    steps, repeats = (300, 3) if given.quick else (3000, 7)
    found = interleave({name: partial(steps_per_second, way, steps) for name, way in WAYS.items()}, repeats)
    Report(
        name="simphone",
        rows=[{"way": name, "steps_per_second": Spread.of(values)} for name, values in found.items()],
        ratios={"png_over_state_machine": ratio(found["device (PNG)"], found["state machine"])},
    ).publish(given.json)


if __name__ == "__main__":
    main()
