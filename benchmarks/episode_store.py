"""What the EpisodeStore costs, on a local disk and on an S3 server: committing an episode, and reading everything.

``python -m benchmarks.episode_store [--quick] --json FILE``. Both places run the same code and take turns. The S3
server is moto in a process of its own on loopback: the figures are those of our client and of that server, without a
network, and tell how many requests the store makes rather than how fast Amazon S3 is.

An episode has ten actions and eleven different screens of 30 kB. ``commit_ms``: ``append`` of one episode, acknowledged
when it outlives a power cut, the median over the episodes of a repeat. ``scan_mb_s``: all columns with all screens by
``table`` of a newly opened store, megabytes of screens a second, from as many segments as there were commits;
``compacted_mb_s`` the same of one segment. Local files are dropped from the page cache before each scan.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.feature_loading import evict
from benchmarks.report import Cell, Report, Spread, interleave, options
from digiq_ray.core.actions import tap
from digiq_ray.core.episodes import Episode, Step, StopReason, episode_id
from digiq_ray.core.tasks import Task
from digiq_ray.store.episodes import EpisodeStore

ACTIONS, SCREEN_BYTES = 10, 30_000
FIGURES = ("commit_ms", "scan_mb_s", "compacted_mb_s")
_SERVER = """
import sys, threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print("http://%s:%d" % server.get_host_and_port(), flush=True)
sys.stdin.read()
server.stop()
"""
_DEADLINE_S = 60.0

Figures = dict[str, float]


def episode(run: str, number: int) -> Episode:
    """Episode ``number`` of ``run``; its screens do not compress and differ from all others."""
    rng = random.Random(f"{run} {number}")
    steps = [
        Step(rng.randbytes(SCREEN_BYTES), f"tap 0.5 0.{i}", tap(0.5, i / 10), None, 0.0, -1.0, float(i), i + 0.5)
        for i in range(ACTIONS)
    ]
    return Episode(
        episode_id=episode_id(run, str(number), 0),
        task=Task(f"shop/train/{number}", f"Find item {number} and add it to the cart", ACTIONS, "train"),
        steps=(*steps, Step(rng.randbytes(SCREEN_BYTES), None, None, None, 0.0, None, 10.0, 10.0)),
        stop_reason=StopReason.TIME_LIMIT,
        policy_version="behaviour",
        device="none",
        judge="none",
    )


def commit_and_scan(root: str, repeats: Iterator[int], episodes: int) -> Figures:
    """Writes a new store under ``root`` and reads it."""
    run = str(next(repeats))
    given = [episode(run, number) for number in range(episodes)]
    store = EpisodeStore.create(f"{root}/{run}")
    seconds = []
    for one in given:
        began = time.perf_counter()
        store.append([one])
        seconds.append(time.perf_counter() - began)
    EpisodeStore.create(f"{root}/{run}-compacted").append(given)
    return {
        "commit_ms": 1000 * statistics.median(seconds),
        "scan_mb_s": _scan(f"{root}/{run}", episodes),
        "compacted_mb_s": _scan(f"{root}/{run}-compacted", episodes),
    }


def _scan(path: str, episodes: int) -> float:
    if "://" not in path:
        evict(Path(path))
    began = time.perf_counter()
    rows = EpisodeStore(path).table()
    seconds = time.perf_counter() - began
    assert rows.num_rows == episodes * (ACTIONS + 1)
    return rows.num_rows * SCREEN_BYTES / 1e6 / seconds


@contextmanager
def s3() -> Iterator[str]:
    """A bucket on an S3 server that lives as long as the context."""
    pipe, silence = subprocess.PIPE, subprocess.DEVNULL  # it logs every request
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=pipe, stdout=pipe, stderr=silence, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            address = server.stdout.readline().strip()
            if not address.startswith("http://"):
                sys.exit("the S3 server did not start: pip install 'moto[server]'")
            _environment(address)
            yield "s3://benchmark"
        finally:
            server.stdin.close()
            server.wait(_DEADLINE_S)


def _environment(address: str) -> None:
    """Points this process at the server and makes the bucket."""
    import boto3

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    words = {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark"}
    files = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    os.environ.update(words | files | {"AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"})
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="benchmark")


def measure(local: str, remote: str, episodes: int, repeats: int, console: Console) -> Report:
    """Runs both places in turn."""
    ways = {
        name: partial(commit_and_scan, root, iter(range(repeats)), episodes)
        for name, root in (("local", local), ("s3", remote))
    }
    found = interleave(ways, repeats, console)
    spreads = {name: {key: Spread.of([run[key] for run in runs]) for key in FIGURES} for name, runs in found.items()}
    rows: list[dict[str, Cell]] = [{"place": name, **figures} for name, figures in spreads.items()]
    ratios = {
        f"{figure}_{name}": figures[key]
        for name, figures in spreads.items()
        for figure, key in (("commit_ms_p50", "commit_ms"), ("scan_mb_s", "scan_mb_s"))
    }
    return Report(name="episode_store", rows=rows, ratios=ratios)


def main() -> None:
    """Command line."""
    given = options(__doc__)
    episodes, repeats = (20, 2) if given.quick else (200, 5)
    with tempfile.TemporaryDirectory(prefix="episode-store-") as local, s3() as remote:
        measure(local, remote, episodes, repeats, Console(stderr=True)).publish(given.json)


if __name__ == "__main__":
    main()
