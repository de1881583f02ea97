"""Scoring the policies of a finished run on another farm: the same held-out tasks, on any kind of device.

What is played lies in a run of its own, with its own configuration and a stage for each policy, so that it continues
where it was and more policies may follow. The run that the policies come from is only read. Jobs and seeds are those of
its own evaluation: only the devices differ, if the settings do not say otherwise.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from digiq_ray.core.errors import InputError
from digiq_ray.core.settings import RunSettings
from digiq_ray.evaluation.html import render_report
from digiq_ray.loops.clusters import Cluster
from digiq_ray.loops.demo import Show
from digiq_ray.loops.reporting import versions
from digiq_ray.loops.run import Run
from digiq_ray.loops.stages.score import BEHAVIOUR, RERANK, player, score
from digiq_ray.store.manifest import read_json, write_json

_MODEL_FILES = ("config.json", "adapter_config.json")
_NO_POLICIES = ("feature_vlm",)


def policies_of(run: Path) -> list[str]:
    """The policies that can be scored: the behaviour policy, every trained one, and re-ranking if there is a critic."""
    models = {path.parent.name for file in _MODEL_FILES for path in (run / "models").glob(f"*/{file}")}
    trained = sorted(models.difference(_NO_POLICIES))
    critics = [RERANK] if (run / "models" / "critic" / "critic.json").is_file() else []
    return [BEHAVIOUR, *trained, *critics]


def evaluate_run(
    source: Path,
    root: Path,
    settings: RunSettings,
    policies: Sequence[str],
    *,
    make_cluster: Callable[[], Cluster],
    show: Show,
) -> dict[str, Any]:
    """Scores ``policies`` of the run in ``source`` on the devices of ``settings``, into the run in ``root``.

    Args:
        source: Has the trained policies in ``models``; nothing is written there.
        root: A new run, or one of the same settings and source, which is continued.
        settings: Those of ``source``, but for what is to differ.
        policies: Names from ``policies_of(source)``.
        make_cluster: Called only if something is left to play.
        show: Is told of the progress.

    Returns:
        The report, which ``root`` has as ``report.json`` too: ``policies`` holds all that were scored there so far.

    Raises:
        InputError: a policy is not there, or ``root`` is the source, or holds scores of another run.
    """
    there = policies_of(source)
    for policy in policies:
        if policy not in there:
            raise InputError(f"{source} has no policy {policy!r}; it has {', '.join(there)}")
    if root.resolve().is_relative_to(source.resolve()):
        raise InputError(
            f"{root} belongs to the run whose policies are scored, which is not touched; give another --out"
        )
    run, began = Run(root, settings), time.monotonic()
    with run.lock():
        _bind(run, source.resolve())
        _play(run, source.resolve(), policies, make_cluster, show)
        report = _report(run, source.resolve(), there, seconds=time.monotonic() - began)
        run.write_report(report, render_report(report))
    return report


def _play(run: Run, source: Path, policies: Sequence[str], make_cluster: Callable[[], Cluster], show: Show) -> None:
    """Plays what is not done; what was done before is told of as well."""
    meaning = f"scored on devices of kind {run.settings.devices.kind}"
    with ExitStack() as ends:
        cluster = functools.cache(lambda: ends.enter_context(closing(make_cluster())))
        for policy in policies:

            def work(name: str = policy) -> dict[str, Any]:
                return score(run, cluster(), name, player(run.settings, source, name), show.watch(name))

            record = run.stage(_stage(policy), work)
            show.stage(policy, meaning, record.seconds, record.rows, record.skipped)


def _bind(run: Run, source: Path) -> None:
    """Notes which run the policies come from; one directory scores those of one run."""
    note, path = {"run": str(source)}, run.root / "source.json"
    before = read_json(path) if path.is_file() else note
    if before != note:
        raise InputError(f"{run.root} scores the policies of {before['run']}, not of {source}; give another --out")
    write_json(path, note)


def _stage(policy: str) -> str:
    return f"evaluate-{policy}"


def _report(run: Run, source: Path, policies: Sequence[str], *, seconds: float) -> dict[str, Any]:
    found = {policy: run.record(_stage(policy)) for policy in policies}
    records = {policy: record for policy, record in found.items() if record is not None}
    settings = run.settings
    return {
        "command": "evaluate",
        "run": str(source),
        "device": settings.devices.kind,
        "seed": settings.seed,
        "task_set": settings.tasks.set,
        "config_hash": run.config_hash,
        "versions": versions(),
        "policies": {
            policy: {name: value for name, value in record.figures.items() if name != "rows"}
            for policy, record in records.items()
        },
        "stages": [
            {"name": record.name, "seconds": record.seconds, "rows": record.rows, "skipped": False}
            for record in records.values()
        ],
        "seconds": round(seconds, 1),
    }
