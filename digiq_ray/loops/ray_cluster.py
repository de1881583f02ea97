"""Running on Ray: emulator workers, engines and learners as actors, bulk stages as Ray Data pipelines.

``RAY_ADDRESS`` names the cluster; without it a local Ray is started, on loopback. Tasks and calls of actors are
repeated by Ray when their process dies: shards and checkpoints make the repetition cheap. Engines and learners stay for
the whole run, so that their imports are paid for once.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import ray
import torch

from digiq_ray.core.errors import InputError, WorkerLostError
from digiq_ray.core.settings import RunSettings
from digiq_ray.learner.actor import CONTROL, Learner, Training
from digiq_ray.learner.worker_group import WorkerGroup
from digiq_ray.loops.clusters import OnProgress
from digiq_ray.loops.patience import Patience
from digiq_ray.loops.pipeline import run_pipeline
from digiq_ray.loops.reaper import Reaper
from digiq_ray.loops.stages.devices import backend, farm_directory, worker_spec
from emulator_workers.environment import Environment
from emulator_workers.pool import EmulatorPool, PoolReport
from emulator_workers.rollout import Job
from serve.bulk import Done, Shard, Work
from serve.engine import EngineActor
from serve.players import ANSWER_SECONDS, Player, remote_policy

_POLL_SECONDS = 0.5
_REACH_SECONDS = 10.0


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes that are started inside inherit one thread each.

    Ray's ``runtime_env`` would say the same and start each worker twice for it.
    """
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def _join(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdecimal():  # Ray itself would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS).close()
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"there is no Ray cluster at RAY_ADDRESS={address} ({reason}): correct it, "
            "or unset it and a local Ray is started"
        ) from error


def _start(settings: RunSettings) -> None:
    devices, learner = backend(settings).resources, settings.learner
    with _one_thread():
        ray.init(
            "local",
            resources={name: amount * settings.devices.workers for name, amount in devices.items()},
            num_cpus=max(2, os.cpu_count() or 2, learner.processes * learner.workers),
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            object_store_memory=256 * 2**20,
        )


class RayCluster:
    """A Ray cluster: the one that this process is in or that ``RAY_ADDRESS`` names, or a local one that it starts.

    Raises:
        InputError: there is no cluster at that address.
    """

    name = "ray"

    def __init__(self, settings: RunSettings) -> None:
        torch.set_num_threads(1)
        self._settings = settings
        self._own = not ray.is_initialized()
        self._ends = ExitStack()
        if self._own and (address := os.environ.get("RAY_ADDRESS")):
            _join(address)
        elif self._own:
            self._ends.enter_context(Reaper())
            _start(settings)
        self._engines: list[Any] = []
        self._learners: list[Any] = []

    def _hired_engines(self) -> list[Any]:
        if not self._engines:
            vlm, batch = self._settings.vlm, self._settings.devices.slots
            hire = ray.remote(EngineActor).options(
                num_cpus=0, num_gpus=vlm.gpus, max_concurrency=16, max_restarts=-1, max_task_retries=3
            )
            self._engines = [
                hire.remote(vlm.backend, max_tokens=vlm.max_tokens, batch=batch) for _ in range(vlm.processes)
            ]
        return self._engines

    def play(
        self,
        jobs: Sequence[Job],
        *,
        player: Player,
        make_environment: Callable[[], Environment],
        store: str,
        on_progress: OnProgress,
    ) -> PoolReport:
        """See ``Cluster``."""
        devices = self._settings.devices
        make_policy = functools.partial(remote_policy, self._hired_engines(), player)
        spec = worker_spec(self._settings, make_environment=make_environment, make_policy=make_policy, store=store)
        pool = EmulatorPool(
            spec,
            workers=devices.workers,
            num_cpus=0,
            resources=backend(self._settings).resources,
            stall_seconds=devices.stall_seconds,
            start_seconds=devices.start_seconds,
            max_worker_losses=devices.max_losses,
            farm=farm_directory(store),
        )
        return pool.run(jobs, on_progress)

    def bulk(self, work: Work, shards: Sequence[Shard], on_progress: OnProgress) -> Done:
        """See ``Cluster``."""
        stall = self._settings.learner.stall_seconds
        return run_pipeline(work, shards, self._hired_engines(), on_progress, stall=stall)

    def learn(
        self, trainings: Sequence[tuple[Training, tuple[Any, ...]]], on_progress: OnProgress, *, alone: bool = False
    ) -> list[dict[str, Any]]:
        """See ``Cluster``."""
        chosen = self._settings.learner
        if chosen.spread and not alone:
            trainings = [(WorkerGroup(training, chosen), arguments) for training, arguments in trainings]
        wanted = min(chosen.processes, len(trainings))
        hire = ray.remote(concurrency_groups={CONTROL: 1})(Learner).options(
            num_cpus=0, max_restarts=3, max_task_retries=3
        )
        self._learners += [hire.remote() for _ in range(wanted - len(self._learners))]
        return _Trainings(self._learners, trainings, on_progress, chosen.stall_seconds).run()

    def close(self) -> None:
        """Ends engines and learners, and Ray if it was started here."""
        for actor in [*self._engines, *self._learners]:
            ray.kill(actor)
        self._engines, self._learners = [], []
        if self._own:
            ray.shutdown()
        self._ends.close()


class _Trainings:
    """Hands trainings to learners as they become free, and adds up their progress."""

    def __init__(
        self,
        learners: Sequence[Any],
        trainings: Sequence[tuple[Training, tuple[Any, ...]]],
        on_progress: OnProgress,
        stall_seconds: float,
    ) -> None:
        self._trainings, self._on_progress = trainings, on_progress
        self._patience = Patience("training", stall_seconds)
        self._free = list(learners)
        self._left = list(range(len(trainings)))
        self._running: dict[Any, tuple[int, Any]] = {}
        self._results: dict[int, dict[str, Any]] = {}

    def run(self) -> list[dict[str, Any]]:
        while self._left or self._running:
            while self._left and self._free:
                number, learner = self._left.pop(0), self._free.pop(0)
                training, arguments = self._trainings[number]
                self._running[learner.run.remote(training, *arguments)] = (number, learner)
            finished, _ = ray.wait(list(self._running), num_returns=1, timeout=_POLL_SECONDS)
            for reference in finished:
                number, learner = self._running.pop(reference)
                try:
                    self._results[number] = ray.get(reference, timeout=ANSWER_SECONDS)
                except ray.exceptions.RayActorError as error:
                    raise WorkerLostError(
                        "a learner died more often than it may be started again; look at the memory of this machine"
                    ) from error
                self._free.append(learner)
            self._report()
        return [self._results[number] for number in sorted(self._results)]

    def _report(self) -> None:
        asked = [learner.progress.options(concurrency_group=CONTROL).remote() for _, learner in self._running.values()]
        answered, _ = ray.wait(asked, num_returns=len(asked), timeout=_POLL_SECONDS) if asked else ([], [])
        shares = []
        for reference in answered:
            try:
                done, total = ray.get(reference, timeout=_POLL_SECONDS)
            except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
                continue
            shares.append(done / total if total else 0.0)
        whole = 1000 * len(self._trainings)
        done = 1000 * len(self._results) + round(1000 * sum(shares))
        self._patience.look(done)
        self._on_progress(done, whole)
