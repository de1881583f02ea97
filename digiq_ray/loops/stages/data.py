"""Stages that make data: episodes, candidates, features."""

from __future__ import annotations

import functools
from typing import Any

import pyarrow.compute as pc

from digiq_ray.loops.clusters import Cluster, OnProgress
from digiq_ray.loops.run import Run
from digiq_ray.loops.stages.devices import environment_factory, train_tasks
from digiq_ray.store.candidates import CandidateStore
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureStore
from emulator_workers.rollout import make_jobs
from serve.bulk import EmbedWork, SampleWork, embed_shard, make_shards, sample_shard

SHARD_EPISODES = 25


def collect(run: Run, cluster: Cluster, on_progress: OnProgress) -> dict[str, Any]:
    """Episodes of the behaviour policy on the training tasks."""
    settings = run.settings
    EpisodeStore.create(run.paths.episodes)
    report = cluster.play(
        make_jobs(train_tasks(settings), run="collect", seed=settings.seed),
        model=settings.vlm.model,
        temperature=settings.collect.temperature,
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
        max_tokens=settings.vlm.max_tokens,
        batch=settings.vlm.batch,
        seed=settings.seed,
    )
    shards = make_shards(sorted(EpisodeStore(paths.episodes).episode_ids()), SHARD_EPISODES)
    done = store.shards()
    left = [shard for shard in shards if shard.name not in done]
    cluster.map(functools.partial(sample_shard, work), left, on_progress)
    table = store.table(["episode_id", "step", "valid", "multiplicity"])
    states = len(table.group_by(["episode_id", "step"]).aggregate([]))
    drawn = pc.sum(table["multiplicity"]).as_py() or 1
    unparsable = pc.sum(table.filter(pc.invert(table["valid"]))["multiplicity"]).as_py() or 0
    return {
        "rows": len(table),
        "k": settings.candidates.k,
        "unique_per_state": len(table) / max(1, states),
        "unparsable": unparsable / drawn,
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
        model=str(paths.model("feature_vlm")),
        layer=settings.features.layer,
        pooling=settings.features.pooling,
        batch=settings.vlm.batch,
    )
    done = FeatureStore(paths.features / "states").shards()
    shards = make_shards(sorted(EpisodeStore(paths.episodes).episode_ids()), SHARD_EPISODES)
    cluster.map(functools.partial(embed_shard, work), [s for s in shards if s.name not in done], on_progress)
    rows = sum(len(FeatureStore(paths.features / kind).open()) for kind in ("states", "actions"))
    return {"rows": rows}
