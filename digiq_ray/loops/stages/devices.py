"""How simulated phones, their tasks and their judges are made; picklable, so that workers can do it themselves."""

from __future__ import annotations

import functools
from collections.abc import Callable

from digiq_ray.core.settings import RunSettings
from digiq_ray.core.tasks import TaskSet, check_no_overlap
from digiq_ray.evaluation.judges import OracleJudge
from emulator_workers.environment import Environment
from emulator_workers.simphone.device import SimulatedDevice
from emulator_workers.simphone.tasks import RELEARNED, build
from emulator_workers.simphone.world import Release


def _environment(release: str) -> Environment:
    device = SimulatedDevice(release=Release(release))
    device.start()
    return Environment(device, OracleJudge())


def environment_factory(settings: RunSettings) -> Callable[[], Environment]:
    """Makes simulated phones of the configured release, judged by the oracle."""
    return functools.partial(_environment, settings.tasks.release)


def train_tasks(settings: RunSettings) -> TaskSet:
    """The tasks that episodes are collected on: all training tasks, or those that validation leaves."""
    split = "train" if settings.tasks.held_out == "test" else "practice"
    return build(settings.tasks.set, split, settings.collect.episodes, settings.seed)


def held_out_tasks(settings: RunSettings) -> TaskSet:
    """The tasks that policies are scored on.

    Raises:
        InputError: a goal of theirs is among those of training.
    """
    tasks = build(settings.tasks.set, settings.tasks.held_out, settings.evaluate.episodes, settings.seed)
    check_no_overlap(train_tasks(settings), tasks)
    return tasks


def relearned_kinds(settings: RunSettings) -> frozenset[str]:
    """Kinds of tasks that need an action which every pre-training stage would have called wrong."""
    return RELEARNED if settings.tasks.release == "updated" else frozenset()
