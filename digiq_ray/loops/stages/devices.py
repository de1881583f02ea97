"""How devices, their tasks and their judges are made; picklable, so that workers can do it themselves."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

from digiq_ray.core.policies import Policy
from digiq_ray.core.settings import RunSettings
from digiq_ray.core.tasks import TaskSet, check_no_overlap
from digiq_ray.evaluation.judges import OracleJudge
from emulator_workers.backends import Backend
from emulator_workers.checks.ready import check_ready
from emulator_workers.environment import Environment
from emulator_workers.simphone.tasks import RELEARNED, build
from emulator_workers.worker import WorkerSpec


def _environment(backend: Backend) -> Environment:
    made = backend.make()
    return Environment(made.device, OracleJudge(), settle=backend.settle(), on_close=made.end)


def backend(settings: RunSettings) -> Backend:
    """The configured kind of device."""
    devices = settings.devices
    return Backend(
        kind=devices.kind,
        release=settings.tasks.release,
        udids=tuple(devices.udids),
        avd=devices.avd,
        home_url=devices.home_url,
        appium_url=devices.appium_url,
        adb_port=devices.adb_port,
        prepared=devices.prepared,
        settles=devices.settle,
    )


def require_devices(settings: RunSettings, *, serial: bool) -> None:
    """Finds out at once whether this machine has the configured devices; other machines of a cluster are not asked.

    Raises:
        InputError: something is missing; the message says how to mend it.
    """
    if serial or not os.environ.get("RAY_ADDRESS"):
        check_ready(backend(settings))


def environment_factory(settings: RunSettings) -> Callable[[], Environment]:
    """Makes devices of the configured kind, judged by the oracle."""
    return functools.partial(_environment, backend(settings))


def farm_directory(store: str) -> Path | None:
    """Where the farm that writes to ``store`` tells its state: ``farm`` in the run's directory; nowhere on S3."""
    if "://" in store:
        return None
    place = Path(store)
    root = next((parent for parent in place.parents if (parent / "config.yaml").is_file()), place.parent)
    return root / "farm"


def worker_spec(
    settings: RunSettings,
    *,
    make_environment: Callable[[], Environment],
    make_policy: Callable[[], Policy],
    store: str,
) -> WorkerSpec:
    """What a worker is made of: many simulated phones in one thread, or one slow device with deadlines."""
    devices, kind = settings.devices, backend(settings)
    return WorkerSpec(
        make_environment=make_environment,
        make_policy=make_policy,
        store_path=store,
        slots=1 if kind.slow else devices.slots,
        concurrent=kind.slow,
        flush_seconds=30.0 if kind.slow else 60.0,  # a lost episode costs more where devices are slow
        device_retries=devices.retries,
        restart_every=devices.restart_every,
    )


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
