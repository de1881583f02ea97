"""Where the parts of a loop run: all in this process (for debugging and fast tests), or on Ray.

Both offer the same three ways to work: episodes on a pool of devices, a bulk stage over shards, and trainings. The
entry point chooses; no part asks where it runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from digiq_ray.core.settings import RunSettings
from digiq_ray.loops.stages.devices import worker_spec
from emulator_workers.environment import Environment
from emulator_workers.pool import PoolReport, SerialPool
from emulator_workers.rollout import Job
from serve.bulk import Done, Shard, Work
from serve.engine import open_engine
from serve.players import Player, local_policy
from serve.protocols import Engine

OnProgress = Callable[[int, int], None]
Training = Callable[..., dict[str, Any]]


class Cluster(Protocol):
    """Something to run on."""

    name: str

    def play(
        self,
        jobs: Sequence[Job],
        *,
        player: Player,
        make_environment: Callable[[], Environment],
        store: str,
        on_progress: OnProgress,
    ) -> PoolReport:
        """Lets ``player`` play ``jobs`` and writes their episodes to ``store``."""
        ...

    def bulk(self, work: Work, shards: Sequence[Shard], on_progress: OnProgress) -> Done:
        """Does ``work`` for every shard, in any order, with the models of engines."""
        ...

    def learn(
        self, trainings: Sequence[tuple[Training, tuple[Any, ...]]], on_progress: OnProgress, *, alone: bool = False
    ) -> list[dict[str, Any]]:
        """Carries out trainings, several at once where there is room; figures in the order given.

        Those of a model are spread over ``learner.workers`` processes each; ``alone`` is for what trains nothing.
        """
        ...

    def close(self) -> None:
        """Ends what was started."""
        ...


class SerialCluster:
    """Everything in this process, one thing after another, in one thread: models this small lose by more."""

    name = "serial"

    def __init__(self, settings: RunSettings) -> None:
        torch.set_num_threads(1)
        self._settings = settings
        self._engine: Engine | None = None

    def _own_engine(self) -> Engine:
        if self._engine is None:
            vlm, slots = self._settings.vlm, self._settings.devices.slots
            self._engine = open_engine(vlm.backend, max_tokens=vlm.max_tokens, batch=slots)
        return self._engine

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
        make_policy = functools.partial(local_policy, self._own_engine(), player)
        spec = worker_spec(self._settings, make_environment=make_environment, make_policy=make_policy, store=store)
        return SerialPool(spec).run(jobs, on_progress)

    def bulk(self, work: Work, shards: Sequence[Shard], on_progress: OnProgress) -> Done:
        """See ``Cluster``."""
        total = Done()
        for number, shard in enumerate(shards, 1):
            total.add(work(shard, self._own_engine()))
            on_progress(number, len(shards))
        return total

    def learn(
        self, trainings: Sequence[tuple[Training, tuple[Any, ...]]], on_progress: OnProgress, *, alone: bool = False
    ) -> list[dict[str, Any]]:
        """See ``Cluster``."""
        results = []
        for number, (training, arguments) in enumerate(trainings):

            def seen(done: int, total: int, before: int = number) -> None:
                on_progress(before * total + done, len(trainings) * total)

            results.append(training(*arguments, seen))
        return results

    def close(self) -> None:
        """Ends the engine."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None
