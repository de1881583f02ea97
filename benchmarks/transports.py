"""One trained policy on the same tasks over three transports: does it matter how the phone is reached? It must not.

``python -m benchmarks.transports [RUN] [--tasks 100] [--serial] [--keep DIR] [--quick] --json FILE``. RUN is the
directory of a finished ``digiq demo`` (without it: ``runs/demo-general-seed0``, made first where it is missing). Its
Digi-Q policy plays the first ``--tasks`` held-out tasks, sampled at the run's temperature with the same seeds, on

- the simulated phone in the process;
- the same phone behind real ``adb``, Appium and the UiAutomator2 driver (the Android stub);
- the same phone as a web page in Chromium, through Appium.

Workers, pool and recovery are those of ``digiq evaluate --device ...``; ``--serial`` is that of the commands. It shows
success rates whose 95 % intervals overlap, and screens on the stub that equal those in the process in every pixel, up
to the first action that differs (a sample may fall between two tokens, where another batch rounds otherwise). For
exactness without any policy the actions that were recorded in the process are then done again on the stub, all of
them, and every screen is compared. Chromium's screens are compared too, for information.

Exit code 1 if two intervals do not overlap, if a screen of the stub differs, or if the actions that were done again did
not end every episode as in the process. ``--quick`` plays 8 tasks. ``--keep`` keeps the episodes, to look at.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks._transport_episodes import Comparison, RecordedActions, all_overlap, compare
from benchmarks.report import Cell, Report, Spread, options
from digiq_ray.cli.show import Show
from digiq_ray.core.config import load_config
from digiq_ray.core.errors import DigiQError, InputError
from digiq_ray.core.settings import RunSettings
from digiq_ray.evaluation.summary import policy_result
from digiq_ray.loops.clusters import Cluster, OnProgress, SerialCluster
from digiq_ray.loops.demo import whole_run
from digiq_ray.loops.ray_cluster import RayCluster
from digiq_ray.loops.stages.devices import environment_factory, held_out_tasks, relearned_kinds, worker_spec
from digiq_ray.store.episodes import EpisodeStore
from emulator_workers.backends import end_servers
from emulator_workers.jobs import Job
from emulator_workers.pool import PoolReport, SerialPool
from emulator_workers.rollout import make_jobs
from serve.players import Player

DEFAULT_RUN = Path("runs") / "demo-general-seed0"
QUICK_TASKS = 8
TABLE_WIDTH = 160
POLICY = "digi_q"
TRANSPORTS = {"simulated": "in process", "stub": "adb, Appium, UiAutomator2", "chromium": "Appium, Chromium"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a transport made of the tasks; ``comparison`` is with the episodes in the process, where it was made."""

    result: Mapping[str, Any]
    report: PoolReport
    step_seconds: Spread | None
    comparison: Comparison = field(default_factory=Comparison)

    def row(self, transport: str) -> dict[str, Cell]:
        """A line of the table."""
        found, result, stats = self.comparison, self.result, self.report.stats
        interval, compared = result["ci95"], found.episodes > 0
        return {
            "transport": transport,
            "successes": result["successes"],
            "n": result["n"],
            "rate": result["success_rate"],
            "ci95": f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else None,
            "step_s": self.step_seconds,
            "device_errors": sum(stats.device_errors.values()),
            "lost": result["infra_errors"],
            "actions": found.actions if compared else None,
            "parted": found.parted if compared else None,
            "screens": found.screens if compared else None,
            "different": found.different if compared else None,
        }


def with_devices(settings: RunSettings, kind: str) -> RunSettings:
    """The settings with another kind of device."""
    return settings.model_copy(update={"devices": settings.devices.model_copy(update={"kind": kind})})


class Transports:
    """Plays the tasks of one run over and over, and keeps the episodes in ``root``.

    Args:
        run: Directory of a run with a trained policy.
        tasks: How many held-out tasks are played.
        root: Gets an EpisodeStore for each transport.
        serial: Everything in this process, on one device at a time.

    Raises:
        InputError: the run has no trained policy.
    """

    def __init__(self, run: Path, *, tasks: int, root: Path, serial: bool) -> None:
        self._model = run.absolute() / "models" / POLICY
        if not self._model.is_dir():
            raise InputError(f"{run} has no trained policy in models/{POLICY}: give a finished run of digiq demo")
        self._root, self._serial = root.absolute(), serial
        settings = load_config(RunSettings, run / "config.yaml", [f"evaluate.episodes={tasks}"])
        self.settings = with_devices(settings, "simulated")
        self.tasks = held_out_tasks(self.settings)
        self.jobs: list[Job] = make_jobs(self.tasks, run=f"evaluate/{POLICY}/sampled", seed=self.settings.seed)

    def play(self, kind: str, on_progress: OnProgress) -> Outcome:
        """The policy on one transport."""
        settings, store = with_devices(self.settings, kind), self._store(kind)
        cluster: Cluster = SerialCluster(settings) if self._serial else RayCluster(settings)
        try:
            report = cluster.play(
                self.jobs,
                player=Player(str(self._model), settings.evaluate.temperature),
                make_environment=environment_factory(settings),
                store=str(store.path),
                on_progress=on_progress,
            )
        finally:
            cluster.close()
            end_servers()
        return self._outcome(store, report)

    def play_again(self, kind: str, on_progress: OnProgress) -> Outcome:
        """The actions that were recorded in the process, on another transport, on one device."""
        settings, store = with_devices(self.settings, kind), self._store(f"{kind}-again")
        recorded = {episode.episode_id: episode for episode in self._store("simulated").episodes()}
        spec = worker_spec(
            settings,
            make_environment=environment_factory(settings),
            make_policy=lambda: RecordedActions(self.jobs, recorded),
            store=str(store.path),
        )
        try:
            report = SerialPool(spec).run(self.jobs, on_progress)
        finally:
            end_servers()
        return self._outcome(store, report)

    def _store(self, name: str) -> EpisodeStore:
        return EpisodeStore.create(self._root / name)

    def _outcome(self, store: EpisodeStore, report: PoolReport) -> Outcome:
        reference = self._store("simulated")
        same = store.path == reference.path
        seconds = [
            step.ended_at - step.started_at
            for episode in store.episodes()
            for step in episode.steps
            if step.action_text is not None
        ]
        return Outcome(
            result=policy_result(store, tasks=self.tasks, relearned=relearned_kinds(self.settings)),
            report=report,
            step_seconds=Spread.of(seconds) if seconds else None,
            comparison=Comparison() if same else compare(reference.episodes(), store.episodes()),
        )


def overlap(outcomes: Mapping[str, Outcome]) -> bool:
    """Whether the intervals of each two transports overlap; one that judged no episode has none."""
    intervals = [outcome.result["ci95"] for outcome in outcomes.values()]
    return all(intervals) and all_overlap(intervals)


def failures(outcomes: Mapping[str, Outcome], again: Outcome) -> list[str]:
    """What must not be: one line each."""
    found = [] if overlap(outcomes) else ["the 95 % intervals do not all overlap"]
    done = again.comparison
    for name, one in {"sampled": outcomes["stub"].comparison, "done again": done}.items():
        if one.different:
            found.append(f"stub, {name}: {one.different} of {one.screens} screens differ; the first: {one.first}")
    if done.parted or done.outcomes:
        found.append(f"stub, done again: {done.parted} episodes were not whole, {done.outcomes} ended differently")
    return found


def notes(settings: RunSettings, outcomes: Mapping[str, Outcome], again: Outcome) -> list[str]:
    """What one must know to read the table."""
    result = outcomes["simulated"].result
    tasks = result["n"] + result["infra_errors"]
    lines = [
        f"{tasks} tasks of {result['tasks']}, seed {settings.seed}, temperature {settings.evaluate.temperature:g}",
        f"policy {', '.join(result['policy_versions'])}",
        "step_s: act, screenshot and judge, without the policy; median (least to most)",
        "lost: episodes that device errors cut short at every try",
        "actions: equal to those in the process; parted: episodes of which not all are",
        "screens: compared with those in the process, up to the first action that differs; different: in any pixel",
        "done again: the actions that were recorded in the process, without a policy",
    ]
    for kind, outcome in {**outcomes, "stub, done again": again}.items():
        one, stats = outcome.comparison, outcome.report.stats
        if one.parted:
            lines.append(
                f"{kind}: the actions of {one.parted} of {one.episodes} episodes part from those in the process, "
                f"{one.parted_alike} of them after screens that are all equal, {one.cut} by a device error"
            )
        if one.different:
            lines.append(f"{kind}: the first screen that differs: {one.first}")
        if stats.device_errors:
            lines.append(f"{kind}: device errors {stats.device_errors}, {stats.retries} tasks begun again")
    return lines


def measure(transports: Transports, show: Show, json: Path) -> list[str]:
    """Plays everything, prints the table and writes the file; what must not be."""
    outcomes = {}
    for kind, meaning in TRANSPORTS.items():
        outcomes[kind] = outcome = transports.play(kind, show.watch(kind))
        show.stage(kind, meaning, outcome.report.seconds, outcome.report.stats.steps, False)
    again = transports.play_again("stub", show.watch("stub"))
    show.stage("stub", "the recorded actions again", again.report.seconds, again.report.stats.steps, False)
    stub = outcomes["stub"].comparison.plus(again.comparison)
    figures = {
        "intervals_overlap": overlap(outcomes),
        "screens_compared": stub.screens,
        "screens_different": stub.different,
        "episodes_parted": stub.parted,
    }
    rows = {**outcomes, "stub, done again": again}
    Report(
        name="transports",
        rows=[outcome.row(name) for name, outcome in rows.items()],
        ratios={name: Spread.of([float(value)]) for name, value in figures.items()},
        notes=notes(transports.settings, outcomes, again),
    ).publish(json, Console(highlight=False, width=max(Console().width, TABLE_WIDTH)))
    return failures(outcomes, again)


def main() -> None:
    """Command line."""
    given = options(
        __doc__,
        positional={"run": {"nargs": "?", "type": Path, "metavar": "RUN", "help": "a finished run of digiq demo"}},
        tasks={"type": int, "default": 100, "help": "how many held-out tasks"},
        serial={"action": "store_true", "help": "everything in this process, without Ray"},
        keep={"type": Path, "metavar": "DIR", "help": "a new directory for the episodes, which are kept"},
    )
    if given.keep is not None:
        given.keep.mkdir(parents=True)
    run = given.run or DEFAULT_RUN
    tasks = min(given.tasks, QUICK_TASKS) if given.quick else given.tasks
    try:
        with Show() as show, nullcontext(given.keep) if given.keep else tempfile.TemporaryDirectory() as root:
            if given.run is None:
                whole_run("demo", run, RunSettings(), serial=given.serial, show=show)
            transports = Transports(run, tasks=tasks, root=Path(root), serial=given.serial)
            wrong = measure(transports, show, given.json)
    except DigiQError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
