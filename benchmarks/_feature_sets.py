"""Makes one data set twice: as the original's trajectory file, and as our stores. Nothing is held but one shard.

Shapes are those of the released Digi-Q files: 64 candidates a step with 4,096 float32 each, image features of 1,408
before and after the action, ten steps a trajectory, action texts of AutoUI. Values are random, different in each step,
and the same in both forms.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from digiq_ray.core.actions import tap
from digiq_ray.core.episodes import Episode, Step, StopReason, episode_id
from digiq_ray.core.tasks import Task
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureKey, FeatureStore, Fingerprint

CANDIDATES, ACTION_DIM, STATE_DIM, STEPS = 64, 4096, 1408, 10
STEP_BYTES = 4 * ((CANDIDATES + 1) * ACTION_DIM + 2 * STATE_DIM)
SHARD_TRAJECTORIES = 50
"""A shard of candidates has 520 MB, the size that data sets on the Hugging Face Hub come in."""

FINGERPRINT = Fingerprint(model="random", layer=-1, pooling="last", prompt="none", image="none")
Trajectory = list[dict[str, Any]]


def trajectories(count: int) -> Iterator[Trajectory]:
    """Trajectories as the original holds them in memory, always the same ones."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((CANDIDATES, ACTION_DIM), dtype=np.float32)
    for number in range(count):
        task = f"Go to the shop, search for item {number}, and select the first entry"
        images = rng.standard_normal((STEPS + 1, STATE_DIM), dtype=np.float32)
        texts = [_texts(rng) for _ in range(STEPS)]
        success = number % 3 == 0
        yield [
            {
                "observation": f"Previous Actions: {texts[t - 1][0] if t else ''} Goal: {task}</s>",
                "next_observation": f"Previous Actions: {texts[t][0]} Goal: {task}</s>",
                "image_features": images[t],
                "next_image_features": images[t + 1],
                "task": task,
                "reward": int(success and t == STEPS - 1),
                "done": t == STEPS - 1,
                "action": texts[t][0],
                "trajectory_reward": int(success),
                "mc_return": 0.0,
                "action_list": "<split>".join(texts[t]),
                **_candidate_features(base, rng),
            }
            for t in range(STEPS)
        ]


def write_pickle(path: Path, found: Iterator[Trajectory]) -> None:
    """Writes what ``torch.save(list(found), path)`` would, with its default pickle protocol, one at a time."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(zipfile.ZipInfo("archive/data.pkl"), "w", force_zip64=True) as member:
            member.write(pickle.PROTO + b"\x02" + pickle.EMPTY_LIST)
            for trajectory in found:
                whole = pickle.dumps(trajectory, protocol=2)
                member.write(memoryview(whole)[2:-1])  # without its own header and end
                member.write(pickle.APPEND)
            member.write(pickle.STOP)
        for name, content in (("version", b"3\n"), ("byteorder", b"little")):
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)


def write_stores(root: Path, found: Iterator[Trajectory]) -> None:
    """Writes the same as an EpisodeStore and two FeatureStores under ``root``."""
    states, actions = FeatureStore.create(root / "states"), FeatureStore.create(root / "actions")
    episodes: list[Episode] = []
    while group := list(islice(found, SHARD_TRAJECTORIES)):
        first = len(episodes)
        episodes += [episode_of(first + offset, trajectory) for offset, trajectory in enumerate(group)]
        shard = f"trajectories-{first:06}"
        state_keys: list[FeatureKey] = []
        action_keys: list[FeatureKey] = []
        for episode, trajectory in zip(episodes[first:], group, strict=True):
            state_keys += [FeatureKey(episode.episode_id, t, None) for t in range(STEPS + 1)]
            for t, step in enumerate(trajectory):
                action_keys += [
                    FeatureKey(episode.episode_id, t, text) for text in step["action_list"].split("<split>")
                ]
        states.append(shard, state_keys, np.concatenate([_images(one) for one in group]), FINGERPRINT)
        candidates = np.concatenate([step["q_rep_out_list"] for one in group for step in one])
        actions.append(shard, action_keys, candidates, FINGERPRINT)
    EpisodeStore.create(root / "episodes").append(episodes)


def _texts(rng: np.random.Generator) -> list[str]:
    points = rng.random((CANDIDATES, 2))
    return [
        f'Action Plan: [DUAL_POINT,TYPE] ; Action Decision: "action_type": "DUAL_POINT", "touch_point": '
        f'"[{y:.4f}, {x:.4f}]", "lift_point": "[{y:.4f}, {x:.4f}]", "typed_text": "{index}"'
        for index, (y, x) in enumerate(points.tolist())
    ]


def _candidate_features(base: Any, rng: np.random.Generator) -> dict[str, Any]:
    scales = rng.uniform(0.5, 2.0, (CANDIDATES, 1)).astype(np.float32)
    features = base * scales
    return {"q_rep_out": features[0].copy(), "q_rep_out_list": features}


def _images(trajectory: Trajectory) -> Any:
    return np.stack([step["image_features"] for step in trajectory] + [trajectory[-1]["next_image_features"]])


def episode_of(number: int, trajectory: Trajectory) -> Episode:
    """The same episode in our form, without screens."""
    success = bool(trajectory[-1]["reward"])
    steps = [
        Step(b"", step["action"], tap(0.5, 0.5), None, float(step["reward"]), None, 0.0, 0.0) for step in trajectory
    ]
    return Episode(
        episode_id=episode_id("benchmark", str(number), 0),
        task=Task(f"shop/train/{number}", trajectory[0]["task"], STEPS, "train"),
        steps=(*steps, Step(b"", None, None, None, 0.0, None, 0.0, 0.0)),
        stop_reason=StopReason.SUCCESS if success else StopReason.TIME_LIMIT,
        policy_version="behaviour",
        device="none",
        judge="none",
    )
