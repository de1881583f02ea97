"""Training a critic: the original's way against ours, with the same heads on the same data, each in turn.

``python -m benchmarks.critic_training [--quick] --json FILE``. The data (``_critic_runs.py``) are 64 trajectories in
the shapes of the released files, written as a trajectory file and as the stores of a run. What the original does is in
``_critic_original.py``; ours is the stage ``train-critic``. Both make updates of the same number of samples with the
same losses (``tests/benchmarks/test_benchmark_critic.py`` compares those and the weights after them), each in a
process of its own. The released file has 17 times as much data, which the original holds twice.

* ``legacy_speedup``: samples a second, ours over original, with the released heads (417.7 million weights), inputs and
  targets. Its three text encoders, which the original trains too, are left out on both sides.
* ``legacy_bfloat16_speedup``: the same with ``critic.precision=bfloat16``, over the original, which has float32 only.
* ``legacy_validated_speedup``: the same over the original with the validation that follows each of its updates.
* ``paper_speedup``: with the paper's heads and targets: V follows the mean over the 64 candidates.
* ``paper_executed_speedup``: with the paper's heads and the released target, the executed action.
* ``default_speedup``: with our defaults; ours alone has the conservative term.
* ``peak_memory_ratio``: peak resident memory with the paper's heads, original over ours, which counts mapped pages;
  ``legacy_peak_memory_ratio`` with the released ones, whose weights, gradients and optimiser take 8.4 GB on both sides.

``update_cpu_s`` is the processor's time, which other work on the machine disturbs less; with ``OMP_NUM_THREADS=1`` it
is what an update takes on a quiet one, and ``..._cpu`` are the ratios of it. It needs 12 GB of memory and 4 GB of disk.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks._critic_runs import write_run
from benchmarks._critic_ways import CASES, FILE, INPUTS, settings_of
from benchmarks._feature_sets import trajectories, write_pickle
from benchmarks.report import Cell, Report, Spread, interleave, options, ratio

RUNS = [
    ("legacy", "original_validated"),
    *((case, way) for case in CASES for way in ("original", "ours") if (case, way) != ("legacy_bfloat16", "original")),
]
_CHILD_S = 1800
_DISK = 4e9

Figures = dict[str, float]


def run(case: str, way: str, path: Path, updates: int) -> Figures:
    """One way in a process of its own."""
    command = [sys.executable, "-m", "benchmarks._critic_ways", way, case, str(path), str(updates)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_CHILD_S, check=False)
    if done.returncode:
        sys.exit(f"{case}, {way} failed with code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    batch = settings_of(CASES[case], updates).critic.batch
    return {"samples_per_second": batch / found["update_s"], **found}


def measure(folder: Path, count: int, updates: dict[str, int], repeats: int, console: Console) -> Report:
    """Makes the data and runs all ways in turn; ``updates`` are those of wide heads and of narrow ones."""
    console.print(f"[dim]writing {count} trajectories in three forms[/]")
    write_pickle(folder / FILE, trajectories(count))
    for name, inputs in INPUTS.items():
        write_run(folder / name, count, inputs)
    ways = {
        f"{case}, {way}": partial(
            run, case, way, folder, updates["wide" if CASES[case].preset == "legacy" else "narrow"]
        )
        for case, way in RUNS
    }
    return report(interleave(ways, repeats, console))


def report(found: dict[str, list[Figures]]) -> Report:
    """Rows and ratios of what each way gave, in order of the repeats."""
    rate, computed, memory = (
        {way: [one[figure] for one in runs] for way, runs in found.items()}
        for figure in ("samples_per_second", "update_cpu_s", "peak_mb")
    )
    rows: list[dict[str, Cell]] = [
        {"way": way, **{figure: Spread.of([one[figure] for one in runs]) for figure in runs[0]}}
        for way, runs in found.items()
    ]

    def speedup(case: str, original: str = "original") -> Spread:
        return ratio(rate[f"{case}, ours"], rate[f"{case.removesuffix('_bfloat16')}, {original}"])

    def less(case: str) -> Spread:
        return ratio(computed[f"{case.removesuffix('_bfloat16')}, original"], computed[f"{case}, ours"])

    def smaller(case: str) -> Spread:
        return ratio(memory[f"{case}, original"], memory[f"{case}, ours"])

    return Report(
        name="critic_training",
        rows=rows,
        ratios={
            **{f"{case}_speedup": speedup(case) for case in CASES},
            **{f"{case}_speedup_cpu": less(case) for case in CASES},
            "legacy_validated_speedup": speedup("legacy", "original_validated"),
            "peak_memory_ratio": smaller("paper"),
            "legacy_peak_memory_ratio": smaller("legacy"),
        },
    )


def main() -> None:
    """Command line."""
    given = options(__doc__, directory={"type": Path, "help": "where the data are made (and removed again)"})
    count, updates, repeats = (16, {"wide": 1, "narrow": 2}, 1) if given.quick else (64, {"wide": 2, "narrow": 5}, 3)
    with tempfile.TemporaryDirectory(prefix="critic-training-", dir=given.directory) as name:
        if shutil.disk_usage(name).free < _DISK:
            sys.exit(f"{_DISK / 1e9:.0f} GB of disk are needed at {name}; give another --directory")
        measure(Path(name), count, updates, repeats, Console(stderr=True)).publish(given.json)


if __name__ == "__main__":
    main()
