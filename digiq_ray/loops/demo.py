"""A whole run with its report, and single stages: what the commands call."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from digiq_ray.core.errors import InputError
from digiq_ray.core.settings import RunSettings
from digiq_ray.evaluation.html import render_report
from digiq_ray.loops.alarms import stage_alarms
from digiq_ray.loops.clusters import Cluster, OnProgress, SerialCluster
from digiq_ray.loops.memory import PeakMemory
from digiq_ray.loops.offline import RECIPE, Stage, carry_out, offline, require_earlier
from digiq_ray.loops.reporting import build_report
from digiq_ray.loops.run import Run, StageRecord
from digiq_ray.loops.stages.strips import film_strips
from digiq_ray.store.manifest import read_json


class Show(Protocol):
    """How progress is shown."""

    def watch(self, name: str) -> OnProgress:
        """The progress callback of something that begins."""
        ...

    def stage(self, name: str, meaning: str, seconds: float, rows: int, skipped: bool) -> None:
        """A stage is done."""
        ...

    def alarm(self, stage: str, text: str) -> None:
        """Something is wrong with what a stage that is done has trained."""
        ...


def make_cluster(settings: RunSettings, serial: bool) -> Cluster:
    """Where a run's parts work: this process, or Ray."""
    if serial:
        if settings.learner.spread:
            raise InputError("learner.workers and learner.use_gpu are for trainings on Ray: leave out --serial")
        return SerialCluster(settings)
    from digiq_ray.loops.ray_cluster import RayCluster

    return RayCluster(settings)


def _on_stage(show: Show) -> Callable[[Stage, StageRecord], None]:
    def tell(stage: Stage, record: StageRecord) -> None:
        show.stage(stage.name, stage.meaning, record.seconds, record.rows, record.skipped)
        for alarm in stage_alarms(stage.name, record.figures):
            show.alarm(stage.name, alarm.sentence)

    return tell


def whole_run(command: str, root: Path, settings: RunSettings, *, serial: bool, show: Show) -> dict[str, Any]:
    """Carries out the recipe and writes ``report.json`` and ``report.html``; a run that is done gives its report."""
    run = Run(root, settings)
    with run.lock():
        if (run.root / "report.json").is_file():
            return dict(read_json(run.root / "report.json"))
        began = time.monotonic()
        with PeakMemory() as memory:
            cluster = make_cluster(settings, serial)
            try:
                records = offline(run, cluster, lambda stage: show.watch(stage.name), _on_stage(show))
            finally:
                cluster.close()
            strips = film_strips(run, show.watch("report"))
        seconds = time.monotonic() - began
        report = build_report(command, run, records, seconds=seconds, peak_memory_mb=memory.peak_mb)
        run.write_report(report, render_report(report, strips))
        return report


def one_stage(name: str, root: Path, settings: RunSettings, *, serial: bool, show: Show) -> dict[str, Any]:
    """Carries out one stage and returns its record."""
    stage = next(one for one in RECIPE if one.name == name)
    require_earlier(stage, root)
    run = Run(root, settings)
    with run.lock():
        cluster = make_cluster(settings, serial)
        try:
            record = carry_out(stage, run, cluster, lambda begun: show.watch(begun.name))
        finally:
            cluster.close()
    _on_stage(show)(stage, record)
    alarms = [alarm.to_json() for alarm in stage_alarms(name, record.figures)]
    return {"name": name, "seconds": record.seconds, "skipped": record.skipped, **record.figures, "alarms": alarms}
