"""The offline recipe of Digi-Q, from first episode to scored policy.

Collect episodes; sample candidates; teach the VLM which actions change the screen; embed; learn Q and V by TD; imitate
the best of N; score on held-out tasks, beside the controls that say whether the gain is the critic's. No device is
touched between collecting and scoring.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digiq_ray.core.errors import InputError
from digiq_ray.learner.critic import train_critic
from digiq_ray.learner.policy import train_policy
from digiq_ray.learner.stage1 import finetune
from digiq_ray.loops.clusters import Cluster, OnProgress
from digiq_ray.loops.run import Run, StageRecord, is_done
from digiq_ray.loops.stages.data import candidates, collect, embed
from digiq_ray.loops.stages.ranking import rank
from digiq_ray.loops.stages.score import evaluate

Work = Callable[[Run, Cluster, OnProgress], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the recipe: its name (also the command's), what it does, and what that means to a person."""

    name: str
    work: Work
    meaning: str


def _finetune(run: Run, cluster: Cluster, seen: OnProgress) -> dict[str, Any]:
    return cluster.learn([(finetune, (run.root, run.settings))], seen)[0]


def _train_critic(run: Run, cluster: Cluster, seen: OnProgress) -> dict[str, Any]:
    return cluster.learn([(train_critic, (run.root, run.settings))], seen)[0]


def _train_policies(run: Run, cluster: Cluster, seen: OnProgress) -> dict[str, Any]:
    methods = run.settings.policy.trained
    figures = cluster.learn([(train_policy, (run.root, method, run.settings)) for method in methods], seen)
    return {"rows": sum(one["rows"] for one in figures), **dict(zip(methods, figures, strict=True))}


def _rank(run: Run, cluster: Cluster, seen: OnProgress) -> dict[str, Any]:
    return cluster.learn([(rank, (run.root, run.settings))], seen, alone=True)[0]


RECIPE = (
    Stage("collect", collect, "the behaviour policy plays; training touches no device after this"),
    Stage("candidates", candidates, "what else the behaviour policy might have done in each state"),
    Stage("finetune", _finetune, "the VLM learns which actions change the screen"),
    Stage("embed", embed, "frozen features of every state and every candidate"),
    Stage("train-critic", _train_critic, "Q and V by temporal differences, on the features alone"),
    Stage("train-policy", _train_policies, "imitate the candidate with the highest Q; and the controls"),
    Stage("evaluate", evaluate, "every policy on the same held-out tasks"),
    Stage("rank", _rank, "does the critic's favourite make progress, by the simulator's oracle?"),
)

Watch = Callable[[Stage], OnProgress]
OnStage = Callable[[Stage, StageRecord], None]


def offline(run: Run, cluster: Cluster, watch: Watch, on_stage: OnStage) -> dict[str, StageRecord]:
    """Carries out every stage that is not done yet.

    ``watch`` gives the progress callback of a stage that begins; ``on_stage`` is told of each that is done.
    """
    records: dict[str, StageRecord] = {}
    for stage in RECIPE:
        records[stage.name] = carry_out(stage, run, cluster, watch)
        on_stage(stage, records[stage.name])
    run.clear_checkpoints()
    return records


def require_earlier(stage: Stage, root: Path) -> None:
    """Raises ``InputError`` if an earlier stage of the run in ``root`` is not done, naming the first."""
    for earlier in RECIPE[: RECIPE.index(stage)]:
        if not is_done(root, earlier.name):
            raise InputError(f"{root} has no finished stage {earlier.name}: run digiq {earlier.name} first")


def carry_out(stage: Stage, run: Run, cluster: Cluster, watch: Watch) -> StageRecord:
    """One stage, if it is not done.

    Raises:
        InputError: an earlier stage of the run is not done.
    """
    require_earlier(stage, run.root)
    return run.stage(stage.name, lambda: stage.work(run, cluster, watch(stage)))
