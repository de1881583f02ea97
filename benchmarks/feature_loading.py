"""Features to a learner: the original's way against ours, on the same data, each reading a cold disk.

``python -m benchmarks.feature_loading [--quick] --json FILE``. The data (``_feature_sets.py``) are 2 GiB of float32
features in the shapes of the released files, written as a trajectory file and as our stores, and our stores once more
with 0.25 and 4 GiB. What each way does is in ``_feature_ways.py``. Each run is a process of its own, the files are
dropped from the page cache before it, and the ways take turns. Ours runs several times in a turn and counts with the
medians, for its first batch takes about as long as a busy machine lets a process wait. It needs 11 GB of disk and 7 GB
of memory.

* ``first_batch_speedup``: time from an imported program to the first batch of 128, original over ours.
* ``peak_memory_ratio``: peak resident memory, original over ours; that of ours counts mapped pages and libraries.
* ``samples_per_second_speedup``: samples a second of the batches that follow, ours over original.
* ``first_batch_growth``: time to the first batch, ours, 4 GiB over 0.25 GiB.

The original delivers all 64 candidates of each sample, though its critic uses one: it has no way to read fewer.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks._feature_sets import STEP_BYTES, STEPS, trajectories, write_pickle, write_stores
from benchmarks.report import Cell, Report, Spread, interleave, options, ratio

SIZES = (1 << 28, 1 << 31, 1 << 32)
QUICK_SIZES = (1 << 28, 1 << 29, 1 << 30)
"""Bytes of features: the smallest and the largest for ours only, that between for both ways."""
FIGURES = ("first_batch_s", "samples_per_second", "peak_mb", "anonymous_mb", "imports_s")
RUNS_OF_OURS = 7
_CHILD_S = 900

Figures = dict[str, float]


def evict(path: Path) -> None:
    """Drops the files at ``path`` from the page cache."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def several(path: Path, batches: int) -> Figures:
    """Medians of several runs of ours."""
    runs = [run("ours", path, batches) for _ in range(RUNS_OF_OURS)]
    return {figure: statistics.median(one[figure] for one in runs) for figure in FIGURES}


def run(way: str, path: Path, batches: int) -> Figures:
    """One way, cold, in a process of its own."""
    evict(path)
    command = [sys.executable, "-m", "benchmarks._feature_ways", way, str(path), str(batches)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_CHILD_S, check=False)
    if done.returncode:
        sys.exit(f"{way} failed: {done.stderr.strip().splitlines()[-1:]}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(folder: Path, sizes: Sequence[int], batches: int, repeats: int, console: Console) -> Report:
    """Makes the data and runs all ways in turn."""
    small, middle, large = (f"ours, {size / 2**30:g} GiB" for size in sizes)
    theirs = f"original, {sizes[1] / 2**30:g} GiB"
    ways: dict[str, Callable[[], Figures]] = {}
    for name, size in zip((small, middle, large), sizes, strict=True):
        count = -(-size // (STEP_BYTES * STEPS))
        console.print(f"[dim]writing {size / 2**30:g} GiB of features: {count} trajectories[/]", soft_wrap=True)
        if name == middle:
            write_pickle(folder / "trajectories.pt", trajectories(count))
            ways[theirs] = partial(run, "original", folder / "trajectories.pt", batches)
        write_stores(folder / name, trajectories(count))
        ways[name] = partial(several, folder / name, batches)
    found = interleave(ways, repeats, console)
    values = {way: {figure: [one[figure] for one in runs] for figure in FIGURES} for way, runs in found.items()}
    rows: list[dict[str, Cell]] = [
        {"way": way, **{figure: Spread.of(runs) for figure, runs in figures.items()}} for way, figures in values.items()
    ]
    first, rate, peak = FIGURES[:3]
    return Report(
        name="feature_loading",
        rows=rows,
        ratios={
            "first_batch_speedup": ratio(values[theirs][first], values[middle][first]),
            "peak_memory_ratio": ratio(values[theirs][peak], values[middle][peak]),
            "samples_per_second_speedup": ratio(values[middle][rate], values[theirs][rate]),
            "first_batch_growth": ratio(values[large][first], values[small][first]),
        },
    )


def main() -> None:
    """Command line."""
    given = options(__doc__, directory={"type": Path, "help": "where the data are made (and removed again)"})
    sizes, batches, repeats = (QUICK_SIZES, 10, 2) if given.quick else (SIZES, 80, 3)
    needed = sum(sizes) + 2 * sizes[1]
    with tempfile.TemporaryDirectory(prefix="feature-loading-", dir=given.directory) as name:
        if shutil.disk_usage(name).free < needed:
            sys.exit(f"{needed / 1e9:.0f} GB of disk are needed at {name}; give another --directory")
        measure(Path(name), sizes, batches, repeats, Console(stderr=True)).publish(given.json)


if __name__ == "__main__":
    main()
