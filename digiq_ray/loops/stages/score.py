"""Scoring: every policy on the same held-out tasks, with a fixed denominator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from digiq_ray.core.settings import RunSettings
from digiq_ray.evaluation.summary import policy_result
from digiq_ray.learner.paths import RunPaths
from digiq_ray.loops.clusters import Cluster, OnProgress
from digiq_ray.loops.run import Run
from digiq_ray.loops.stages.devices import environment_factory, held_out_tasks, relearned_kinds
from digiq_ray.store.episodes import EpisodeStore
from emulator_workers.rollout import make_jobs

BEHAVIOUR = "behaviour"


def evaluate(run: Run, cluster: Cluster, on_progress: OnProgress) -> dict[str, Any]:
    """Success of the behaviour policy and of every trained one, sampled and (if wanted) greedy."""
    policies = [BEHAVIOUR, "digi_q", *run.settings.policy.controls]
    found: dict[str, Any] = {"rows": 0}
    for number, policy in enumerate(policies):

        def seen(done: int, total: int, before: int = number) -> None:
            on_progress(before * total + done, len(policies) * total)

        figures = score(run, cluster, policy, policy_model(run.settings, run.root, policy), seen)
        found["rows"] += figures.pop("rows")
        found[policy] = figures
    return found


def policy_model(settings: RunSettings, root: Path, policy: str) -> str:
    """The model of a policy of the run in ``root``."""
    return settings.vlm.model if policy == BEHAVIOUR else str(RunPaths(root).model(policy))


def score(run: Run, cluster: Cluster, policy: str, model: str, on_progress: OnProgress) -> dict[str, Any]:
    """Success of one policy, whose weights are in ``model``; the episodes lie in ``run``, and ``rows`` counts them."""
    modes = ["sampled", "greedy"] if run.settings.evaluate.greedy else ["sampled"]
    figures: dict[str, Any] = {}
    rows = 0
    for number, mode in enumerate(modes):

        def seen(done: int, total: int, before: int = number) -> None:
            on_progress(before * total + done, len(modes) * total)

        result, steps = _play(run, cluster, policy, model, mode, seen)
        rows += steps
        figures |= result if mode == "sampled" else {mode: result}
    return {**figures, "rows": rows}


def _play(
    run: Run, cluster: Cluster, policy: str, model: str, mode: str, on_progress: OnProgress
) -> tuple[dict[str, Any], int]:
    settings, path = run.settings, run.paths.evaluation(policy, mode)
    store, tasks = EpisodeStore.create(path), held_out_tasks(settings)
    report = cluster.play(
        make_jobs(tasks, run=f"evaluate/{policy}/{mode}", seed=settings.seed),
        model=model,
        temperature=settings.evaluate.temperature if mode == "sampled" else 0.0,
        make_environment=environment_factory(settings),
        store=str(path),
        on_progress=on_progress,
    )
    result = policy_result(store, tasks=tasks, relearned=relearned_kinds(settings))
    return {**result, "device_errors": report.stats.device_errors, "losses": report.losses}, store.summary().steps
