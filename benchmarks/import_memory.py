"""Peak memory of ``digiq import`` for trajectory files of 0.25, 1 and 4 GB: it must not grow with the file.

``python -m benchmarks.import_memory [--quick] --json FILE [--directory DIR]``. The files are made as the original makes
its own (64 candidates a step with features of 4,096 numbers, pickled by ``torch.save``'s protocol into its archive),
one trajectory at a time, in a temporary directory that goes away. Each import is a process of its own, whose peak is
what the system says of it, libraries and all. ``--quick`` makes files of a sixteenth of the sizes.
"""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from rich.console import Console

from benchmarks.report import Cell, Report, Spread, options

GIGABYTES = (0.25, 1, 4)
QUICK_PART = 16
LIMIT_MB = 600
STEPS, CANDIDATES, STATE_DIM, ACTION_DIM = 10, 64, 1408, 4096
DEADLINE_S = 3600

_CHILD = """
import json, resource, sys, time
from pathlib import Path
from digiq_ray.store.legacy.importing import import_trajectories
began = time.monotonic()
report = import_trajectories(Path(sys.argv[1]), sys.argv[2])
seconds = time.monotonic() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"peak_mb": peak / 1024, "seconds": seconds, "steps": report["counts"]["steps"]}))
"""


_Pickler: Any = vars(pickle)["_Pickler"]  # pickle's own, in Python


class StreamingPickler(_Pickler):
    """Pickles one trajectory after another into one list, with the opcodes of ``torch.save``.

    What it remembers for later references are texts, types and functions only, so that it can write any amount.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, 2)
        self.slots = 0

    def memoize(self, obj: object) -> None:
        """Writes the opcode that pickle writes, and remembers what may be referred to again."""
        self.write(self.put(self.slots))
        if (isinstance(obj, str | type) and len(str(obj)) < 64) or callable(obj):
            self.memo[id(obj)] = self.slots, obj
        self.slots += 1

    def dump_all(self, trajectories: Iterator[list[dict[str, Any]]]) -> None:
        """Writes the whole pickle."""
        self.write(pickle.PROTO + b"\2" + pickle.EMPTY_LIST)
        self.memoize([])
        self.write(pickle.MARK)
        for trajectory in trajectories:
            self.save(trajectory)
        self.write(pickle.APPENDS + pickle.STOP)


def trajectories(rng: np.random.Generator) -> Iterator[list[dict[str, Any]]]:
    """Trajectories without end, every second one a success."""
    words = '"action_type": "TYPE", "touch_point": "[-1.0, -1.0]", "lift_point": "[-1.0, -1.0]", "typed_text": "{}"'
    number = 0
    while True:
        task = f"Search for mug {number}"
        states = rng.random((STEPS + 1, STATE_DIM), dtype=np.float32)
        steps = []
        for step in range(STEPS):
            texts = [f"Action Plan: [TYPE] ; Action Decision: {words.format(i)}" for i in range(CANDIDATES)]
            features = rng.random((CANDIDATES, ACTION_DIM), dtype=np.float32)
            won = number % 2 == 0
            steps.append(
                {
                    "observation": f"Previous Actions: Goal: {task}</s>",
                    "next_observation": f"Previous Actions: Goal: {task}</s>",
                    "image_features": states[step],
                    "next_image_features": states[step + 1],
                    "image_path": f"<path_to_images>/images/test1/{number}.5_{step}.png",
                    "task": task,
                    "reward": int(won and step == STEPS - 1),
                    "done": step == STEPS - 1,
                    "action": texts[0],
                    "trajectory_reward": np.int64(won),
                    "mc_return": np.float64(0.95 ** (STEPS - 1 - step) * won),
                    "action_list": "<split>".join(texts),
                    "q_rep_out": features[0],
                    "q_rep_out_list": features,
                }
            )
        yield steps
        number += 1


def make_file(path: Path, size: int) -> None:
    """Writes a trajectory file of at least ``size`` bytes."""
    with path.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(zipfile.ZipInfo("archive/data.pkl"), "w", force_zip64=True) as member:

            def until_full() -> Iterator[list[dict[str, Any]]]:
                for trajectory in trajectories(np.random.default_rng(0)):
                    if file.tell() >= size:
                        return
                    yield trajectory

            StreamingPickler(member).dump_all(until_full())  # type: ignore[arg-type]
        archive.writestr("archive/version", "3\n")


def measure(path: Path, out: Path) -> dict[str, float]:
    """Imports a file in a process of its own: its peak memory in MB, its seconds, and the steps that it read."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(path), str(out)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=DEADLINE_S,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Command line."""
    given = options(__doc__, directory={"help": "where the files go for the time of the run"})
    part = QUICK_PART if given.quick else 1
    console = Console(stderr=True, highlight=False)
    rows: list[dict[str, Cell]] = []
    with tempfile.TemporaryDirectory(dir=given.directory) as folder:
        need, free = 2.5 * max(GIGABYTES) / part * 1e9, shutil.disk_usage(folder).free
        if free < need:
            sys.exit(f"{folder}: {need / 1e9:.1f} GB must be free, {free / 1e9:.1f} are; give another --directory")
        for gigabytes in GIGABYTES:
            path, out = Path(folder, "file.pt"), Path(folder, "out")
            console.print(f"making {gigabytes / part:g} GB")
            make_file(path, int(gigabytes / part * 1e9))
            console.print(f"importing {gigabytes / part:g} GB")
            found = measure(path, out)
            size = path.stat().st_size
            rows.append(
                {
                    "file_gb": round(size / 1e9, 3),
                    "steps": int(found["steps"]),
                    "peak_mb": round(found["peak_mb"], 1),
                    "seconds": round(found["seconds"], 1),
                    "mb_per_second": round(size / 1e6 / found["seconds"], 1),
                }
            )
            path.unlink()
            shutil.rmtree(out)
    peaks = {f"peak_mb_{size:g}": float(row["peak_mb"]) for size, row in zip(GIGABYTES, rows, strict=True)}  # type: ignore[arg-type]
    notes = [f"the limit is {LIMIT_MB} MB at {max(GIGABYTES)} GB"]
    if given.quick:
        notes.append(f"quick: the files had a sixteenth of the sizes that the figures name ({1 / QUICK_PART:g})")
    ratios = {name: Spread.of([peak]) for name, peak in peaks.items()}
    Report(name="import_memory", rows=rows, ratios=ratios, notes=notes).publish(given.json)
    if peaks[f"peak_mb_{max(GIGABYTES):g}"] > LIMIT_MB:
        sys.exit(f"the peak is above {LIMIT_MB} MB")


if __name__ == "__main__":
    main()
