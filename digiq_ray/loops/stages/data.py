"""Stages that make data: episodes, candidates, features."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from digiq_ray.loops.clusters import Cluster, OnProgress
from digiq_ray.loops.run import Run
from digiq_ray.loops.stages.devices import environment_factory, train_tasks
from digiq_ray.store.candidates import CandidateStore
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureStore
from emulator_workers.rollout import make_jobs
from serve.bulk import EmbedWork, SampleWork, Shard, make_shards
from serve.players import Player
from serve.protocols import Reader

SHARD_EPISODES = 25


def collect(run: Run, cluster: Cluster, on_progress: OnProgress) -> dict[str, Any]:
    """Episodes of the behaviour policy on the training tasks."""
    settings = run.settings
    EpisodeStore.create(run.paths.episodes)
    report = cluster.play(
        make_jobs(train_tasks(settings), run="collect", seed=settings.seed),
        player=Player(settings.vlm.model, settings.collect.temperature),
        make_environment=environment_factory(settings),
        store=str(run.paths.episodes),
        on_progress=on_progress,
    )
    summary = EpisodeStore(run.paths.episodes).summary()
    return {
        "rows": summary.steps,
        "episodes": summary.episodes,
        "success_rate": summary.success_rate,
        "stop_reasons": summary.stop_reasons,
        "losses": report.losses,
        "device_errors": report.stats.device_errors,
    }


def candidates(run: Run, cluster: Cluster, on_progress: OnProgress) -> dict[str, Any]:
    """K actions of the behaviour policy in each state, deduplicated."""
    settings, paths = run.settings, run.paths
    store = CandidateStore.create(paths.candidates)
    work = SampleWork(
        episodes=paths.episodes,
        candidates=paths.candidates,
        model=settings.vlm.model,
        k=settings.candidates.k,
        temperature=settings.candidates.temperature,
        batch=settings.vlm.batch,
        seed=settings.seed,
        deadline=settings.learner.stall_seconds,
    )
    done = cluster.bulk(work, _shards_left(paths.episodes, store.shards()), on_progress)
    table = store.table(["episode_id", "step", "valid", "multiplicity"])
    states = len(table.group_by(["episode_id", "step"]).aggregate([]))
    drawn = pc.sum(table["multiplicity"]).as_py() or 1
    unparsable = pc.sum(table.filter(pc.invert(table["valid"]))["multiplicity"]).as_py() or 0
    return {
        "rows": len(table),
        "k": settings.candidates.k,
        "unique_per_state": len(table) / max(1, states),
        "unparsable": unparsable / drawn,
        "failures": done.failures,
    }


def embed(run: Run, cluster: Cluster, on_progress: OnProgress) -> dict[str, Any]:
    """Frozen features of all states and their candidates, from the fine-tuned VLM."""
    settings, paths = run.settings, run.paths
    for kind in ("states", "actions"):
        FeatureStore.create(paths.features / kind)
    work = EmbedWork(
        episodes=paths.episodes,
        candidates=paths.candidates,
        features=paths.features,
        reader=Reader(str(paths.model("feature_vlm")), settings.features.layer, settings.features.pooling),
        batch=settings.vlm.batch,
        deadline=settings.learner.stall_seconds,
    )
    left = _shards_left(paths.episodes, FeatureStore(paths.features / "states").shards())
    done = cluster.bulk(work, left, on_progress)
    rows = sum(len(FeatureStore(paths.features / kind).open()) for kind in ("states", "actions"))
    return {"rows": rows, "failures": done.failures}


def _shards_left(episodes: Path, done: Collection[str]) -> list[Shard]:
    shards = make_shards(sorted(EpisodeStore(episodes).episode_ids()), SHARD_EPISODES)
    return [shard for shard in shards if shard.name not in done]
