"""Scoring: every policy on the same held-out tasks, with a fixed denominator."""

from __future__ import annotations

from typing import Any

from digiq_ray.evaluation.summary import policy_result
from digiq_ray.loops.clusters import Cluster, OnProgress
from digiq_ray.loops.run import Run
from digiq_ray.loops.stages.devices import environment_factory, held_out_tasks, relearned_kinds
from digiq_ray.store.episodes import EpisodeStore
from emulator_workers.rollout import make_jobs


def evaluate(run: Run, cluster: Cluster, on_progress: OnProgress) -> dict[str, Any]:
    """Success of the behaviour policy and of every trained one, sampled and (if wanted) greedy."""
    policies = ["behaviour", "digi_q", *run.settings.policy.controls]
    modes = ["sampled", "greedy"] if run.settings.evaluate.greedy else ["sampled"]
    rounds = [(policy, mode) for policy in policies for mode in modes]
    found: dict[str, Any] = {"rows": 0}
    for number, (policy, mode) in enumerate(rounds):

        def seen(done: int, total: int, before: int = number) -> None:
            on_progress(before * total + done, len(rounds) * total)

        result, rows = _evaluate_one(run, cluster, policy, mode, seen)
        found["rows"] += rows
        if mode == "sampled":
            found[policy] = result
        else:
            found[policy]["greedy"] = result
    return found


def _evaluate_one(
    run: Run, cluster: Cluster, policy: str, mode: str, on_progress: OnProgress
) -> tuple[dict[str, Any], int]:
    settings, path = run.settings, run.paths.evaluation(policy, mode)
    store, tasks = EpisodeStore.create(path), held_out_tasks(settings)
    cluster.play(
        make_jobs(tasks, run=f"evaluate/{policy}/{mode}", seed=settings.seed),
        model=settings.vlm.model if policy == "behaviour" else str(run.paths.model(policy)),
        temperature=settings.evaluate.temperature if mode == "sampled" else 0.0,
        make_environment=environment_factory(settings),
        store=str(path),
        on_progress=on_progress,
    )
    return policy_result(store, tasks=tasks, relearned=relearned_kinds(settings)), store.summary().steps
