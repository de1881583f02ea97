"""Where the parts of a loop run: all in this process (for debugging and fast tests), or on Ray.

Both offer the same three ways to work: episodes on a pool of devices, a function over many items, and trainings. The
entry point chooses; no part asks where it runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch

from digiq_ray.core.policies import Policy
from digiq_ray.core.settings import RunSettings
from digiq_ray.learner.models import cached_vlm
from digiq_ray.loops.stages.devices import worker_spec
from digiq_ray.vlm.sampling import VlmPolicy
from emulator_workers.environment import Environment
from emulator_workers.pool import PoolReport, SerialPool
from emulator_workers.rollout import Job

Item = TypeVar("Item")
OnProgress = Callable[[int, int], None]
Training = Callable[..., dict[str, Any]]


class Cluster(Protocol):
    """Something to run on."""

    name: str

    def play(
        self,
        jobs: Sequence[Job],
        *,
        model: str,
        temperature: float,
        make_environment: Callable[[], Environment],
        store: str,
        on_progress: OnProgress,
    ) -> PoolReport:
        """Plays ``jobs`` with the policy in ``model`` and writes their episodes to ``store``."""
        ...

    def map(self, function: Callable[[Item], int], items: Sequence[Item], on_progress: OnProgress) -> int:
        """Calls ``function`` on every item, in any order, and returns the sum of the results."""
        ...

    def learn(
        self, trainings: Sequence[tuple[Training, tuple[Any, ...]]], on_progress: OnProgress
    ) -> list[dict[str, Any]]:
        """Carries out trainings, several at once where there is room; figures in the order given."""
        ...

    def close(self) -> None:
        """Ends what was started."""
        ...


def _local_policy(model: str, temperature: float, max_tokens: int, batch: int) -> Policy:
    return VlmPolicy(cached_vlm(model), temperature=temperature, max_tokens=max_tokens, batch=batch)


class SerialCluster:
    """Everything in this process, one thing after another, in one thread: models this small lose by more."""

    name = "serial"

    def __init__(self, settings: RunSettings) -> None:
        torch.set_num_threads(1)
        self._settings = settings

    def play(
        self,
        jobs: Sequence[Job],
        *,
        model: str,
        temperature: float,
        make_environment: Callable[[], Environment],
        store: str,
        on_progress: OnProgress,
    ) -> PoolReport:
        """See ``Cluster``."""
        vlm, slots = self._settings.vlm, self._settings.devices.slots
        make_policy = functools.partial(_local_policy, model, temperature, vlm.max_tokens, slots)
        spec = worker_spec(self._settings, make_environment=make_environment, make_policy=make_policy, store=store)
        return SerialPool(spec).run(jobs, on_progress)

    def map(self, function: Callable[[Item], int], items: Sequence[Item], on_progress: OnProgress) -> int:
        """See ``Cluster``."""
        total = 0
        for done, item in enumerate(items, 1):
            total += function(item)
            on_progress(done, len(items))
        return total

    def learn(
        self, trainings: Sequence[tuple[Training, tuple[Any, ...]]], on_progress: OnProgress
    ) -> list[dict[str, Any]]:
        """See ``Cluster``."""
        results = []
        for number, (training, arguments) in enumerate(trainings):

            def seen(done: int, total: int, before: int = number) -> None:
                on_progress(before * total + done, len(trainings) * total)

            results.append(training(*arguments, seen))
        return results

    def close(self) -> None:
        """Nothing was started."""
