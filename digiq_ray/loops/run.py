"""A run's directory: which configuration it belongs to, which stages are done, and what they found.

A stage is done when its record exists; the record is written atomically after everything that the stage publishes. So
the same command continues a run that was killed at any moment, and does nothing to one that is done.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digiq_ray.core.config import config_hash, differences, dump_yaml, load_config
from digiq_ray.core.errors import InputError, RunMismatchError, is_disk_full
from digiq_ray.core.settings import RunSettings
from digiq_ray.learner.paths import RunPaths
from digiq_ray.store.directory import locate
from digiq_ray.store.manifest import read_json, write_json
from digiq_ray.store.publish import replace

_TRAININGS = ("finetune", "critic", "critic_mc", "digirl_values")  # besides those of policies


def _record_path(root: Path, name: str) -> Path:
    return root / "stages" / f"{name}.json"


def is_done(root: Path, name: str) -> bool:
    """Whether stage ``name`` of the run in ``root`` has left its record."""
    return _record_path(root, name).is_file()


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What a finished stage left: seconds of the try that ended it, figures, and whether it was done before."""

    name: str
    seconds: float
    figures: dict[str, Any]
    skipped: bool

    @property
    def rows(self) -> int:
        """How many rows the stage made."""
        return int(self.figures.get("rows", 0))


class Run:
    """A run in ``root`` with ``settings``.

    Raises:
        RunMismatchError: the directory holds a run of another configuration; the message names the first difference.
        InputError: the directory holds something else, or checkpoints have a place that cannot be one.
    """

    def __init__(self, root: Path, settings: RunSettings) -> None:
        self.root, self.settings, self.paths = root.absolute(), settings, RunPaths(root.absolute())
        locate(settings.learner.checkpoints)
        config = self.root / "config.yaml"
        if config.is_file():
            before = load_config(RunSettings, config)
            different = differences(before, settings)
            if different:
                first = different[0]
                raise RunMismatchError(
                    f"{root} holds a run with {first.key}={first.left!r}, not {first.right!r}"
                    f"{f' (and {len(different) - 1} other differences)' if len(different) > 1 else ''}; "
                    "give another --out, or the same settings to continue it"
                )
        elif self.root.is_file():
            raise InputError(f"{root} is a file; give another --out")
        elif self.root.is_dir() and any(self.root.iterdir()):
            raise InputError(f"{root} is not empty and holds no run (no config.yaml); give another --out")
        else:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                if is_disk_full(error):
                    raise
                raise InputError(f"cannot make the directory {root} ({error.strerror}); give another --out") from error
            replace(config, dump_yaml(settings).encode())

    @property
    def config_hash(self) -> str:
        """Identifies the configuration."""
        return config_hash(self.settings)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps a second process from working on the same run; the lock goes with the process that holds it.

        Raises:
            InputError: another process holds it.
        """
        handle = os.open(self.root / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise InputError(f"another process is working on {self.root}; wait for it or give another --out") from error
        try:
            yield
        finally:
            os.close(handle)

    def record(self, name: str) -> StageRecord | None:
        """What stage ``name`` left, if it is done."""
        if not is_done(self.root, name):
            return None
        kept = read_json(_record_path(self.root, name))
        return StageRecord(name, kept["seconds"], kept["figures"], skipped=True)

    def stage(self, name: str, work: Callable[[], dict[str, Any]]) -> StageRecord:
        """Does ``work`` and records it, unless that is done already."""
        done = self.record(name)
        if done is not None:
            return done
        began = time.monotonic()
        figures = work()
        seconds = round(time.monotonic() - began, 2)
        path = _record_path(self.root, name)
        path.parent.mkdir(exist_ok=True)
        write_json(path, {"seconds": seconds, "figures": figures})
        return StageRecord(name, seconds, figures, skipped=False)

    def write_report(self, report: dict[str, Any], page: str) -> None:
        """Publishes ``report.json`` and ``report.html``."""
        replace(self.root / "report.html", page.encode())
        replace(self.root / "report.json", (json.dumps(report, indent=1) + "\n").encode())

    def clear_checkpoints(self) -> None:
        """Removes checkpoints of trainings that are done."""
        shutil.rmtree(self.root / "checkpoints", ignore_errors=True)
        elsewhere = self.settings.learner.checkpoints
        if elsewhere:
            from digiq_ray.learner.checkpoints import Checkpoints  # with torch, which most commands do without

            for name in (*_TRAININGS, *self.settings.policy.trained):
                Checkpoints(self.paths.checkpoints(name, elsewhere)).clear()
