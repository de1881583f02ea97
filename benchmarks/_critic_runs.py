"""Makes one data set twice for training a critic: as the original's trajectory file, and as the stores of a run.

The trajectories are those of ``_feature_sets``. A run's features are what the original's heads see in each step, so
that both ways train the same heads on the same numbers: see ``released_inputs`` and ``vlm_inputs``.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._critic_original import Inputs
from benchmarks._feature_sets import FINGERPRINT, STEPS, episode_of, trajectories
from benchmarks._feature_ways import stack_frames
from digiq_ray.core.actions import tap
from digiq_ray.learner.paths import RunPaths
from digiq_ray.store.candidates import Candidate, CandidateStore
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureKey, FeatureStore

SHARD_TRAJECTORIES = 10


def write_run(root: Path, count: int, inputs: Inputs) -> None:
    """Episodes, candidates and features of ``count`` trajectories under ``root``."""
    paths, found = RunPaths(root), trajectories(count)
    states, actions = (FeatureStore.create(paths.features / kind) for kind in ("states", "actions"))
    candidates = CandidateStore.create(paths.candidates)
    episodes = []
    while group := list(islice(found, SHARD_TRAJECTORIES)):
        shard = f"trajectories-{len(episodes):06}"
        of_states, of_actions, state_keys, action_keys, sampled = [], [], [], [], []
        for trajectory in stack_frames(group):
            episode = episode_of(len(episodes), trajectory)
            episodes.append(episode)
            for number, step in enumerate(trajectory):
                texts = step["action_list"].split("<split>")
                q, v = _features(step, texts, inputs)
                of_actions.append(q)
                of_states.append(v)
                state_keys.append(FeatureKey(episode.episode_id, number, None))
                action_keys += [FeatureKey(episode.episode_id, number, text) for text in texts]
                sampled += [_candidate(episode.episode_id, number, text, text == step["action"]) for text in texts]
            of_states.append(_features(_after(trajectory[-1]), [""], inputs)[1])
            state_keys.append(FeatureKey(episode.episode_id, STEPS, None))
        candidates.append(shard, sampled)
        states.append(shard, state_keys, np.concatenate(of_states), FINGERPRINT)
        actions.append(shard, action_keys, np.concatenate(of_actions), FINGERPRINT)
    EpisodeStore.create(paths.episodes).append(episodes)


def _features(step: dict[str, Any], texts: list[str], inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """f(s, a) of each text, ``[n, action_dim]``, and f(s), ``[1, state_dim]``."""
    n = len(texts)
    images = torch.from_numpy(step["image_features"]).expand(n, -1)
    q, v = inputs([step["observation"]] * n, images, texts, torch.from_numpy(step["q_rep_out_list"][:n]))
    return q.numpy(), v[:1].numpy()


def _after(step: dict[str, Any]) -> dict[str, Any]:
    """The state in which ``step`` ends."""
    return {**step, "observation": step["next_observation"], "image_features": step["next_image_features"]}


def _candidate(episode: str, step: int, text: str, executed: bool) -> Candidate:
    return Candidate(
        episode_id=episode,
        step=step,
        action_text=text,
        action=tap(0.5, 0.5),
        parse_error=None,
        multiplicity=1,
        logprob=None,
        is_behaviour=executed,
        policy_version="behaviour",
        temperature=1.2,
    )
