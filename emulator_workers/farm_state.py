"""What a running farm tells other processes, and what they ask of it: files in a directory of the run.

The supervisor replaces ``state.json`` in one step; ``digiq farm`` commands read it and leave requests, one file each,
which the supervisor takes in its next round. Files rather than a named actor: they need no connection to the cluster,
they are there when the supervisor hangs and after it died, a person can read them, and they bind no process to live
on. The price is that the commands have to see the run's directory, as they do for everything else of a run. A state
that has not been replaced for ``STALE_SECONDS`` is that of a supervisor that hangs or is gone.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ulid import ULID

from digiq_ray.core.errors import InputError, StoreError
from digiq_ray.store.manifest import read_json
from digiq_ray.store.publish import publish

log = logging.getLogger(__name__)

STALE_SECONDS = 60.0
Verb = Literal["restart", "drain", "resize"]
_VERBS = ("restart", "drain", "resize")


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks of a farm.

    Attributes:
        verb: ``restart`` the devices of a worker (or of all), ``drain`` the farm, ``resize`` it.
        worker: The name of one worker; ``None`` is all of them.
        workers: The size that is wanted, for ``resize``.
    """

    verb: Verb
    worker: str | None = None
    workers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """One worker.

    Attributes:
        name: What ``digiq farm`` calls it.
        state: ``starting``, ``idle``, ``busy``, ``leaving``; ``gone`` or ``lost`` if it is no more.
        pid: Its process, once known.
        jobs: Jobs that it was given and has not published.
        episodes, steps: What it has done.
        utilisation: Share of its slots' time in which devices worked.
        device_errors: Device errors by cause.
        note: Why it waits, or how it was lost.
    """

    name: str
    state: str
    pid: int | None = None
    jobs: int = 0
    episodes: int = 0
    steps: int = 0
    utilisation: float | None = None
    device_errors: dict[str, int] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FarmState:
    """A farm at one moment.

    Attributes:
        pid: The supervisor's process.
        updated_at: Unix time in seconds.
        wanted: How many workers it should have.
        done, total: Published jobs and all.
        state: ``running``, ``draining`` or ``ended``.
        waiting: Why workers wait to be placed; empty if none does.
        losses: Workers lost, by cause.
        device_errors: Device errors by cause, over all workers.
        workers: One by one, with the latest of those that are gone or lost.
    """

    pid: int
    updated_at: float
    wanted: int
    done: int
    total: int
    state: str
    waiting: str = ""
    losses: dict[str, int] = field(default_factory=dict)
    device_errors: dict[str, int] = field(default_factory=dict)
    utilisation: float | None = None
    workers: tuple[WorkerState, ...] = ()

    def is_stale(self, now: float) -> bool:
        """Whether the supervisor of a farm that has not ended has been silent for too long at Unix time ``now``."""
        return self.state != "ended" and now - self.updated_at > STALE_SECONDS


class FarmDirectory:
    """The files of one farm, in ``path`` (the run's directory and ``farm``)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> None:
        """Makes the directory and forgets requests to an earlier farm."""
        (self.path / "requests").mkdir(parents=True, exist_ok=True)
        (self.path / "logs").mkdir(exist_ok=True)
        for file in self._request_files():
            file.unlink(missing_ok=True)

    def write(self, state: FarmState) -> None:
        """Replaces the state. It is not flushed to the disk: it describes processes, which a power cut ends too."""
        hidden = self.path / ".state.json.tmp"
        hidden.write_text(json.dumps(dataclasses.asdict(state), indent=1) + "\n")
        os.replace(hidden, self.path / "state.json")

    def read(self) -> FarmState:
        """The last state.

        Raises:
            InputError: there is none.
        """
        if not (self.path / "state.json").is_file():
            raise InputError(f"{self.path.parent} has no farm (no {self.path.name}/state.json): give --out RUN")
        kept: dict[str, Any] = read_json(self.path / "state.json")
        try:
            workers = tuple(WorkerState(**one) for one in kept.pop("workers", ()))
            return FarmState(**kept, workers=workers)
        except TypeError as error:
            raise StoreError(f"{self.path / 'state.json'} is of another version: {error}") from error

    def ask(self, request: Request, now: float) -> None:
        """Leaves a request.

        Raises:
            InputError: there is no farm, it has ended or is silent, or it has no such worker.
        """
        state = self.read()
        if state.state == "ended":
            raise InputError(f"the farm of {self.path.parent} has ended")
        if state.is_stale(now):
            raise InputError(
                f"the farm of {self.path.parent} has been silent for {now - state.updated_at:.0f} s "
                f"(process {state.pid}): the same command as before continues its run"
            )
        names = [worker.name for worker in state.workers if worker.state not in ("gone", "lost")]
        if request.worker is not None and request.worker not in names:
            raise InputError(f"the farm has no worker {request.worker!r}; it has {', '.join(names) or 'none now'}")
        publish(self.path / "requests" / f"{ULID()}.json", json.dumps(dataclasses.asdict(request)).encode())

    def take_requests(self) -> list[Request]:
        """The requests since the last call, oldest first. One that cannot be read is logged and dropped."""
        taken = []
        for file in self._request_files():
            try:
                kept = read_json(file)
                if not isinstance(kept, Mapping) or kept.get("verb") not in _VERBS:
                    raise StoreError(f"{file} holds no request")
                taken.append(Request(**kept))
            except (StoreError, TypeError) as error:
                log.warning("a request to the farm is dropped: %s", error)
            file.unlink(missing_ok=True)
        return taken

    def log_path(self, worker: str) -> Path:
        """Where a worker logs."""
        return self.path / "logs" / f"{worker}.log"

    def log_lines(self, worker: str, lines: int) -> list[str]:
        """The last lines of a worker's log.

        Raises:
            InputError: the worker has none.
        """
        path = self.log_path(worker)
        if not path.is_file():
            there = sorted(file.stem for file in (self.path / "logs").glob("*.log"))
            workers = self.read().workers if (self.path / "state.json").is_file() else ()
            if worker in [one.name for one in workers]:
                raise InputError(f"{worker} has logged nothing yet; ask again when it is busy")
            known = f"it has those of {', '.join(there)}" if there else "nobody has logged anything yet"
            raise InputError(f"{self.path} has no log of {worker!r}; {known}")
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]

    def _request_files(self) -> list[Path]:
        return sorted(file for file in (self.path / "requests").glob("*.json") if not file.name.startswith("."))
