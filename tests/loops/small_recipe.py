"""A recipe small enough for a test: everything happens, nothing is learned well."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from digiq_ray.core.config import load_config
from digiq_ray.core.settings import RunSettings
from digiq_ray.store.candidates import CandidateStore
from digiq_ray.store.episodes import EpisodeStore

SMALL = [
    "collect.episodes=24",
    "candidates.k=4",
    "policy.min_support=1",
    "finetune.steps=6",
    "finetune.batch=16",
    "critic.steps=60",
    "critic.batch=32",
    "policy.steps=6",
    "policy.batch=16",
    "evaluate.episodes=12",
    "evaluate.ranking_states=9",
    "devices.slots=8",
    "learner.checkpoint_every=2",
]
DEADLINE = 900.0  # ends what hangs; a run with three starts of vLLM takes 300 s where tests run beside it


def small_settings(*more: str) -> RunSettings:
    return load_config(RunSettings, None, [*SMALL, *more])


def command(*words: str) -> list[str]:
    sets = [word for one in SMALL for word in ("--set", one)]
    return [sys.executable, "-m", "digiq_ray.cli.main", *words, *sets]


def start(*words: str) -> subprocess.Popen[str]:
    """A command in a process group of its own."""
    return subprocess.Popen(
        command(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=DEADLINE)
    return process.returncode, out, err


def wait_for(found: Callable[[], object], process: subprocess.Popen[str], what: str) -> object:
    """Waits until ``found()`` is true, while ``process`` runs."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        result = found()
        if result:
            return result
        if process.poll() is not None:
            out, err = process.communicate(timeout=10)
            raise AssertionError(f"the command ended before {what}: {process.returncode}\n{out}\n{err}")
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {DEADLINE} s")


def descendant(process: subprocess.Popen[str], name: str) -> psutil.Process | None:
    """One that ``process`` has started, by a part of its command line."""
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if name in " ".join(child.cmdline()):
                return child
        except psutil.NoSuchProcess:
            continue
    return None


def kill_tree(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the process alone, then waits until everything that it started has ended."""
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    _, alive = psutil.wait_procs(children, timeout=40)
    assert not alive, f"processes outlive the command: {alive}"


def rows_of(root: Path) -> dict[str, object]:
    """What a run holds, without times: collected and evaluated episodes, and candidates."""
    columns = ["episode_id", "step", "screen_hash", "action", "reward", "stop_reason"]
    stores = {path: EpisodeStore(root / path) for path in ("episodes", *_evaluations(root))}
    found: dict[str, object] = {path: store.table(columns).to_pylist() for path, store in stores.items()}
    candidates = CandidateStore(root / "candidates").table(["episode_id", "step", "action", "multiplicity"])
    return {**found, "candidates": candidates.to_pylist()}


def _evaluations(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in (root / "evaluation").glob("*/*"))


def report_of(root: Path) -> dict[str, object]:
    report = json.loads((root / "report.json").read_text())
    assert isinstance(report, dict)
    return report
