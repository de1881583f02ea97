"""Makes a run whose stores hold any number of candidates: what the critic trains on, as the stages would leave it.

Ten steps an episode, every third a success, eight different candidates a state of sixteen draws: about what the recipe
on simulated phones leaves, in shards of its size. Features are random. Nothing is held but one shard.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from digiq_ray.core.actions import format_action, tap
from digiq_ray.core.episodes import Episode, Step, StopReason, episode_id
from digiq_ray.core.tasks import Task
from digiq_ray.learner.paths import RunPaths
from digiq_ray.store.candidates import Candidate, CandidateStore
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureKey, FeatureStore, Fingerprint

STEPS, CANDIDATES, DRAWS, DIM = 10, 8, 16, 32
SHARD_EPISODES = 25
_ACTIONS = [tap(0.1 + 0.1 * number, 0.5) for number in range(CANDIDATES)]
_TEXTS = [format_action(action) for action in _ACTIONS]
_FINGERPRINT = Fingerprint(model="random", layer=-1, pooling="last", prompt="none", image="none")


def write_run(root: Path, rows: int) -> RunPaths:
    """Stores with features of at least ``rows`` candidates under ``root``."""
    paths, rng = RunPaths(root), np.random.default_rng(0)
    episodes, candidates = EpisodeStore.create(paths.episodes), CandidateStore.create(paths.candidates)
    states, actions = (FeatureStore.create(paths.features / kind) for kind in ("states", "actions"))
    count = -(-rows // (STEPS * CANDIDATES))
    names = sorted((episode_id("benchmark", "general", number), number) for number in range(count))
    for shard, start in enumerate(range(0, count, SHARD_EPISODES)):
        part = names[start : start + SHARD_EPISODES]
        episodes.append([_episode(name, number, rng) for name, number in part])
        keys = [(name, step) for name, _ in part for step in range(STEPS + 1)]
        acted = [(name, step) for name, step in keys if step < STEPS]
        candidates.append(f"{shard:06d}", [one for key in acted for one in _candidates(key, rng)])
        for store, features in (
            (actions, [FeatureKey(*key, text) for key in acted for text in _TEXTS]),
            (states, [FeatureKey(*key, None) for key in keys]),
        ):
            values = rng.standard_normal((len(features), DIM), dtype=np.float32)
            store.append(f"{shard:06d}", features, values, _FINGERPRINT)
    return paths


def _episode(name: str, number: int, rng: np.random.Generator) -> Episode:
    success, done = number % 3 == 0, rng.integers(CANDIDATES, size=STEPS)
    steps = [
        Step(b"", _TEXTS[action], _ACTIONS[action], None, float(success and step == STEPS - 1), None, 1.0, 2.0)
        for step, action in enumerate(done)
    ]
    task = Task(task_id=f"general/train/{number}", text=f"open page {number}", horizon=STEPS, split="train")
    stop = StopReason.SUCCESS if success else StopReason.TIME_LIMIT
    return Episode(name, task, (*steps, Step(b"", None, None, None, 0.0, None, 3.0, 3.0)), stop, "base", "none", "none")


def _candidates(key: tuple[str, int], rng: np.random.Generator) -> list[Candidate]:
    counts = 1 + rng.multinomial(DRAWS - CANDIDATES, np.full(CANDIDATES, 1 / CANDIDATES))
    return [
        Candidate(
            episode_id=key[0],
            step=key[1],
            action_text=text,
            action=action,
            parse_error=None,
            multiplicity=int(count),
            logprob=None,
            is_behaviour=False,
            policy_version="base",
            temperature=1.0,
        )
        for text, action, count in zip(_TEXTS, _ACTIONS, counts, strict=True)
    ]
