"""Steps a second of the simulated phone: state machine alone, with its picture, and as a device with PNG bytes.

``python -m benchmarks.simphone [--quick] --json FILE``. The three ways are interleaved; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    steps, repeats = (300, 3) if given.quick else (3000, 7)
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(repeats):
        for name, way in WAYS.items():
            found[name].append(steps_per_second(way, steps))
    rows = [
        {
            "way": name,
            "steps_per_second": round(statistics.median(values)),
            "min": round(min(values)),
            "max": round(max(values)),
        }
        for name, values in found.items()
    ]
    medians = {row["way"]: float(row["steps_per_second"]) for row in rows}
    table = Table("way", "steps/s (median)", "min", "max")
    for row in rows:
        table.add_row(*(str(row[key]) for key in ("way", "steps_per_second", "min", "max")))
    Console().print(table)
    result = {
        "name": "simphone",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.processor() or platform.machine()}, Python {platform.python_version()}",
        "command": " ".join(["python -m benchmarks.simphone", *sys.argv[1:2]]),
        "rows": rows,
        "ratios": {"png_over_state_machine": round(medians["device (PNG)"] / medians["state machine"], 4)},
    }
    given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
