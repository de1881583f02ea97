"""Memory of the critic's training on 10,000, 100,000 and 1,000,000 (state, candidate) rows: it must not grow with them.

``python -m benchmarks.critic_memory [--quick] --json FILE [--directory DIR]``. The stores are made as the recipe leaves
them (``_critic_sets.py``: shards of 25 episodes, features of 32 numbers, since their length is no matter here) in a
temporary directory that goes away; a million rows take 0.3 GB. Training is ``learner.critic.train_critic`` with the
default settings, but fewer updates, in a process of its own. What counts is *private* memory, ``RssAnon`` of the
process: pages of mapped files are the system's cache, which it takes back when it needs them. Each size is trained
twice: the first training builds its training set on disk, the second finds it there.

* ``growth_mb``: peak private memory above that of the imported program at 1,000,000 rows, less that at 10,000: the
  larger of the two trainings.
* ``bytes_a_row``: the same by the rows that are more.
* ``step_ratio``: median time of an update at 1,000,000 rows over that at 10,000.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks._critic_sets import write_run
from benchmarks.report import Cell, Report, Spread, options
from digiq_ray.learner.paths import RunPaths

ROWS = (10_000, 100_000, 1_000_000)
QUICK_ROWS = (1_000, 10_000)
UPDATES = 60
BYTES_A_ROW = 400
DEADLINE_S = 3600

_CHILD = """
import json, statistics, sys, threading, time
from pathlib import Path

import torch

from digiq_ray.core.settings import RunSettings
from digiq_ray.learner.critic import train_critic


def private_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1000


torch.set_num_threads(1)
before = peak = private_mb()
ended = threading.Event()


def watch():
    global peak
    while not ended.wait(0.005):
        peak = max(peak, private_mb())


watcher = threading.Thread(target=watch)
watcher.start()
began, times = time.perf_counter(), []
settings = RunSettings(critic={"steps": int(sys.argv[2])})
try:
    figures = train_critic(Path(sys.argv[1]), settings, lambda done, total: times.append(time.perf_counter()))
finally:
    ended.set()
    watcher.join()
steps = [later - earlier for earlier, later in zip(times, times[1:])]
print(json.dumps({
    "transitions": figures["rows"],
    "before_mb": before,
    "peak_mb": peak,
    "ready_s": times[0] - began,
    "ms_per_update": 1000 * statistics.median(steps),
}))
"""


def trained(root: Path, updates: int) -> dict[str, float]:
    """Trains on the stores in ``root`` in a process of its own; its peak private memory in MB, and its times."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(root), str(updates)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=DEADLINE_S,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(folder: Path, rows: int, updates: int) -> list[dict[str, float]]:
    """Both trainings on that many rows: the one that builds the training set, and one that finds it."""
    paths, found = write_run(folder / str(rows), rows), []
    for _ in range(2):
        found.append(trained(paths.root, updates))
        shutil.rmtree(paths.model("critic"))
    return found


def main() -> None:
    """Command line."""
    given = options(__doc__, directory={"help": "where the stores go for the time of the run"})
    sizes, console = QUICK_ROWS if given.quick else ROWS, Console(stderr=True, highlight=False)
    rows: list[dict[str, Cell]] = []
    grown, steps = [], []
    with tempfile.TemporaryDirectory(prefix="critic-memory-", dir=given.directory) as folder:
        need, free = BYTES_A_ROW * sum(sizes), shutil.disk_usage(folder).free
        if free < need:
            sys.exit(f"{folder}: {need / 1e9:.1f} GB must be free, {free / 1e9:.1f} are; give another --directory")
        for size in sizes:
            console.print(f"{size:,} rows", soft_wrap=True)
            runs = measure(Path(folder), size, UPDATES)
            grown.append(max(one["peak_mb"] - one["before_mb"] for one in runs))
            steps.append(min(one["ms_per_update"] for one in runs))
            for what, one in zip(("builds", "finds"), runs, strict=True):
                rows.append(
                    {
                        "rows": size,
                        "training set": what,
                        "transitions": int(one["transitions"]),
                        "imported_mb": round(one["before_mb"], 1),
                        "peak_mb": round(one["peak_mb"], 1),
                        "more_mb": round(one["peak_mb"] - one["before_mb"], 1),
                        "ready_s": round(one["ready_s"], 2),
                        "ms_per_update": round(one["ms_per_update"], 2),
                    }
                )
            shutil.rmtree(RunPaths(Path(folder) / str(size)).root)
    growth = grown[-1] - grown[0]
    Report(
        name="critic_memory",
        rows=rows,
        ratios={
            "growth_mb": Spread.of([growth]),
            "bytes_a_row": Spread.of([growth * 1e6 / (sizes[-1] - sizes[0])]),
            "step_ratio": Spread.of([steps[-1] / steps[0]]),
        },
        notes=["MB are 10^6 bytes of private memory; a block of features that is normalised takes up to 67 of them"],
    ).publish(given.json)


if __name__ == "__main__":
    main()
