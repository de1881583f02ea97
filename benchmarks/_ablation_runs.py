"""How a cell is carried out: in the run that all cells of a task set and a seed share, or in one of its own beside it.

The shared run collects, samples candidates, fine-tunes, embeds and learns the critic once, by the recipe's own stages.
A cell whose settings are the same trains and scores its policy there. Any other has a run of its own that takes over
the stages before the first that reads a setting which differs: what they published is linked (stores and models
are immutable once they are published, so two runs may have the same files) and their records are copied. A cell with
fewer episodes begins with a copy of the first ones. Everything is a stage of a run: killed at any moment, it continues.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from benchmarks._ablation_cells import Cell, Configuration, Place, Result
from digiq_ray.core.config import differences
from digiq_ray.core.settings import RunSettings
from digiq_ray.learner.directories import publish_directory
from digiq_ray.learner.policy import train_policy
from digiq_ray.loops.clusters import Cluster, OnProgress
from digiq_ray.loops.offline import RECIPE, Stage
from digiq_ray.loops.run import Run
from digiq_ray.loops.stages.devices import train_tasks
from digiq_ray.loops.stages.score import BEHAVIOUR, RERANK, player, score
from digiq_ray.store.episodes import EpisodeStore

READS = {
    "collect": {"preset", "seed", "tasks", "devices", "vlm", "collect"},
    "candidates": {"candidates"},
    "finetune": {"finetune", "tuning"},
    "embed": {"features"},
    "train-critic": {"critic"},
}
"""The stages that cells share, and the sections of the settings that each is the first to read."""
_PUBLISHES = {
    "collect": "episodes",
    "candidates": "candidates",
    "finetune": "models/feature_vlm",
    "embed": "features",
    "train-critic": "models/critic",
}
_CURVES = ("loss",)


def same_stages(shared: RunSettings, own: RunSettings) -> list[str]:
    """The first stages of the recipe that do the same with both settings."""
    different = {one.key.partition(".")[0] for one in differences(shared, own)}
    return list(takewhile(lambda stage: not different & READS[stage], READS))


@dataclass(frozen=True, slots=True)
class Bench:
    """Where cells are carried out.

    Attributes:
        directory: Has a run for each task set and seed, and beside it those of cells that need their own.
        configuration: Of the cells.
        cluster: Gives what the runs work on; asked only when there is something to do.
        watch: Gives the progress callback of something that begins.
    """

    directory: Path
    configuration: Configuration
    cluster: Callable[[], Cluster]
    watch: Callable[[str], OnProgress]

    def carry_out(self, place: Place) -> Result:
        """Does what is not yet done of a cell.

        Raises:
            StoreError: its method finds nothing to learn from.
            InputError: another process works on one of its runs.
        """
        shared = Run(
            self.directory / f"{place.task_set}-{place.seed}",
            self.configuration.shared(place.task_set, place.seed),
        )
        settings = self.configuration.of(place)
        with shared.lock():
            shared_seconds = self._prepare(shared)
            if settings == shared.settings:
                return self._score(shared, place, 0.0, shared_seconds)
        own = Run(self.directory / str(place), settings)
        with own.lock():
            return self._score(own, place, self._prepare(own, shared), shared_seconds)

    def _prepare(self, run: Run, shared: Run | None = None) -> float:
        """All stages before the policies, and the seconds that they took here."""
        stages = [stage for stage in RECIPE if stage.name in READS]
        return sum(run.stage(stage.name, partial(self._work, stage, run, shared)).seconds for stage in stages)

    def _work(self, stage: Stage, run: Run, shared: Run | None) -> dict[str, Any]:
        if shared is not None:
            if stage.name in same_stages(shared.settings, run.settings):
                return _take_over(stage.name, shared, run)
            if stage.name == "collect" and _only_fewer_episodes(shared.settings, run.settings):
                _copy_episodes(shared, run)
        return stage.work(run, self.cluster(), self.watch(stage.name))

    def _score(self, run: Run, place: Place, seconds: float, shared_seconds: float) -> Result:
        method, trained = place.cell.method, {}
        if _is_trained(place.cell):
            training = (train_policy, (run.root, method, run.settings))
            record = run.stage(
                f"train-{method}", lambda: self.cluster().learn([training], self.watch("train-policy"))[0]
            )
            trained = {name: value for name, value in record.figures.items() if name not in _CURVES}
            seconds += record.seconds

        def play() -> dict[str, Any]:
            plays = player(run.settings, run.root, method)
            return score(run, self.cluster(), method, plays, self.watch("evaluate"))

        played = run.stage(f"evaluate-{method}", play)
        run.clear_checkpoints()
        return Result(place, played.figures, trained, round(seconds + played.seconds, 2), round(shared_seconds, 2))


def _is_trained(cell: Cell) -> bool:
    return cell.method not in (BEHAVIOUR, RERANK)


def _take_over(stage: str, shared: Run, run: Run) -> dict[str, Any]:
    """Links what a stage of the shared run published, and gives its figures."""
    source, target = shared.root / _PUBLISHES[stage], run.root / _PUBLISHES[stage]

    def link(hidden: Path) -> None:
        shutil.copytree(source, hidden, copy_function=os.link, dirs_exist_ok=True)

    publish_directory(target, link)
    record = shared.record(stage)
    assert record is not None, "the shared run was prepared before"
    return record.figures


def _only_fewer_episodes(shared: RunSettings, own: RunSettings) -> bool:
    different = {one.key for one in differences(shared, own)}
    return different == {"collect.episodes"} and own.collect.episodes < shared.collect.episodes


def _copy_episodes(shared: Run, run: Run) -> None:
    """Puts the first episodes of the shared run into the store of one that has fewer; collecting finds them there."""
    wanted = {task.task_id for task in train_tasks(run.settings)}
    store = EpisodeStore.create(run.paths.episodes)
    store.append(one for one in EpisodeStore(shared.paths.episodes).episodes() if one.task.task_id in wanted)
