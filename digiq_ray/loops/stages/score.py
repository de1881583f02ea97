"""Scoring: every policy on the same held-out tasks, with a fixed denominator."""

from __future__ import annotations

from dataclasses import replace
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
from serve.players import Player, Rerank
from serve.protocols import Reader

BEHAVIOUR = "behaviour"
RERANK = "q_rerank"


def evaluate(run: Run, cluster: Cluster, on_progress: OnProgress) -> dict[str, Any]:
    """Success of the behaviour policy and of every trained one, sampled and (if wanted) greedy."""
    policies = [BEHAVIOUR, "digi_q", *run.settings.policy.controls]
    found: dict[str, Any] = {"rows": 0}
    for number, policy in enumerate(policies):

        def seen(done: int, total: int, before: int = number) -> None:
            on_progress(before * total + done, len(policies) * total)

        figures = score(run, cluster, policy, player(run.settings, run.root, policy), seen)
        found["rows"] += figures.pop("rows")
        found[policy] = figures
    return found


def player(settings: RunSettings, root: Path, policy: str) -> Player:
    """Who plays as a policy of the run in ``root``.

    Re-ranking is the behaviour policy, which proposes as it does to best-of-N, with the run's critic.
    """
    paths, chosen, features = RunPaths(root), settings.policy, settings.features
    if policy != RERANK:
        model = settings.vlm.model if policy == BEHAVIOUR else str(paths.model(policy).resolve())
        return Player(model, settings.evaluate.temperature)
    reader = Reader(str(paths.model("feature_vlm")), features.layer, features.pooling)
    rerank = Rerank(
        settings.candidates.k,
        reader,
        paths.model("critic"),
        chosen.min_support,
        chosen.support_radius,
        chosen.min_probability,
        chosen.max_novelty,
    )
    return Player(settings.vlm.model, settings.candidates.temperature, rerank)


def score(run: Run, cluster: Cluster, policy: str, plays: Player, on_progress: OnProgress) -> dict[str, Any]:
    """Success of one policy; the episodes lie in ``run``, and ``rows`` counts them.

    Re-ranking has no greedy figure: without sampling there is nothing to choose from.
    """
    modes = ["sampled", "greedy"] if run.settings.evaluate.greedy and plays.rerank is None else ["sampled"]
    figures: dict[str, Any] = {}
    rows = 0
    for number, mode in enumerate(modes):

        def seen(done: int, total: int, before: int = number) -> None:
            on_progress(before * total + done, len(modes) * total)

        result, steps = _play(run, cluster, policy, plays, mode, seen)
        rows += steps
        figures |= result if mode == "sampled" else {mode: result}
    return {**figures, "rows": rows}


def _play(
    run: Run, cluster: Cluster, policy: str, plays: Player, mode: str, on_progress: OnProgress
) -> tuple[dict[str, Any], int]:
    settings, path = run.settings, run.paths.evaluation(policy, mode)
    store, tasks = EpisodeStore.create(path), held_out_tasks(settings)
    report = cluster.play(
        make_jobs(tasks, run=f"evaluate/{policy}/{mode}", seed=settings.seed),
        player=plays if mode == "sampled" else replace(plays, temperature=0.0),
        make_environment=environment_factory(settings),
        store=str(path),
        on_progress=on_progress,
    )
    result = policy_result(store, tasks=tasks, relearned=relearned_kinds(settings))
    return {**result, "device_errors": report.stats.device_errors, "losses": report.losses}, store.summary().steps
