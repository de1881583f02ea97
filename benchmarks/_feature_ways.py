"""One way of getting features to a learner, in a process of its own: ``python -m benchmarks._feature_ways WAY PATH N``.

Prints one JSON object. The clock starts when everything is imported, and stops at the first batch; then ``N`` more
batches are drawn. Peak memory is the kernel's high-water mark of this process, shared libraries and mapped pages
included. Every sample is delivered as torch tensors and texts.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 128
GAMMA = 0.95
TRAIN_SHARE = 0.8

Batches = Iterator[dict[str, Any]]


def original(path: Path, batches: int) -> Batches:
    """What the original does before its first update, then its batches.

    ``replay_buffers``, and a ``DataLoader`` without workers over the first, sampling with replacement, whose samples
    are dictionaries of array rows (all 64 candidates among them) that the default collation stacks.
    """
    from torch.utils.data import DataLoader, RandomSampler

    found = replay_buffers(path)
    sampler = RandomSampler(found.train, replacement=True, num_samples=BATCH * (batches + 1))
    yield from DataLoader(found.train, batch_size=BATCH, sampler=sampler)
    assert len(found.validation)


def replay_buffers(path: Path) -> ReplayBuffers:
    """How the original loads a trajectory file.

    ``torch.load`` of the whole file with full unpickling; a deep copy in which the image features of two steps are
    stacked; returns; the first 80 % of the trajectories into the arrays of a replay buffer and the others into those of
    a second. The buffers are as long as the data; the original makes them longer.
    """
    import torch

    loaded = torch.load(path, weights_only=False)
    stacked = stack_frames(loaded)
    del loaded
    for trajectory in stacked:
        _add_returns(trajectory)
    split = int(len(stacked) * TRAIN_SHARE)
    train, validation = (ReplayBuffer(list(chain.from_iterable(part))) for part in (stacked[:split], stacked[split:]))
    return ReplayBuffers(train, validation, stacked)


class ReplayBuffer:
    """Preallocated arrays, filled a transition at a time, read a row at a time."""

    NAMES = (
        "observation",
        "action",
        "action_list",
        "image_features",
        "next_image_features",
        "reward",
        "next_observation",
        "done",
        "mc_return",
        "q_rep_out",
        "q_rep_out_list",
    )

    def __init__(self, transitions: list[dict[str, Any]]) -> None:
        self.arrays = {name: self._array(transitions[0][name], len(transitions)) for name in self.NAMES}
        for index, transition in enumerate(transitions):
            for name, array in self.arrays.items():
                array[index] = transition[name]

    def __len__(self) -> int:
        return len(self.arrays["reward"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: array[index] for name, array in self.arrays.items()}

    @staticmethod
    def _array(value: Any, count: int) -> Any:
        if isinstance(value, str):
            return np.array([""] * count, dtype=object)
        value = np.asarray(value)
        return np.empty((count, *value.shape), dtype=value.dtype)


@dataclass(frozen=True, slots=True)
class ReplayBuffers:
    """What training draws from, what it validates on, and the trajectories, which the original goes on holding."""

    train: ReplayBuffer
    validation: ReplayBuffer
    trajectories: list[list[dict[str, Any]]]


def stack_frames(trajectories: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    stacked = copy.deepcopy(trajectories)
    for source, target in zip(trajectories, stacked, strict=True):
        for step, new in enumerate(target):
            now = source[step]["image_features"]
            new["image_features"] = np.concatenate([source[max(step - 1, 0)]["image_features"], now])
            new["next_image_features"] = np.concatenate([now, source[step]["next_image_features"]])
    return stacked


def _add_returns(trajectory: list[dict[str, Any]]) -> None:
    total = 0.0
    for step in reversed(trajectory):
        total = step["reward"] + GAMMA * total
        step["mc_return"] = total


def ours(path: Path, batches: int) -> Batches:
    """Opens the three stores, reads the columns of the transitions, and samples batches of what the critic needs.

    The same quantities as the original's critic takes from its batches: stacked image features of the state and of its
    successor, the feature of the executed action, reward, end, return, and the texts that observations are made of.
    """
    import torch

    from digiq_ray.store.batch_order import BatchOrder
    from digiq_ray.store.episodes import EpisodeStore
    from digiq_ray.store.features import FeatureStore
    from digiq_ray.store.sampler import BatchSampler
    from digiq_ray.store.sampler_columns import KeyedRows, Texts

    names = ["episode_id", "step", "task", "action", "reward", "is_last"]
    with ThreadPoolExecutor(max_workers=1) as pool:
        reading = pool.submit(EpisodeStore(path / "episodes").table, names)
        states = FeatureStore(path / "states").open()
        actions = FeatureStore(path / "actions").open(states.fingerprint)
        rows = reading.result()
    step, reward, last = (_numbers(rows[name]) for name in ("step", "reward", "is_last"))
    moved = np.flatnonzero(~last)
    returns = _returns(reward[moved], last[moved + 1])
    moved = moved[: int(len(moved) * TRAIN_SHARE)]
    step, texts, ids = step[moved], Texts(rows["action"], moved), Texts(rows["episode_id"], moved)
    columns = {
        "image_features": KeyedRows(states, episode_ids=ids, steps=np.stack([np.maximum(step - 1, 0), step], 1)),
        "next_image_features": KeyedRows(states, episode_ids=ids, steps=np.stack([step, step + 1], 1)),
        "q_rep_out": KeyedRows(actions, episode_ids=ids, steps=step, actions=texts),
        "reward": reward[moved],
        "done": last[moved + 1],
        "mc_return": returns[: len(moved)],
        "task": Texts(rows["task"], moved),
        "action": texts,
        "previous_action": Texts(rows["action"], np.where(step > 0, moved - 1, -1)),
    }
    with BatchSampler(
        columns=columns, order=BatchOrder(samples=len(moved), batch=BATCH, seed=0, drop_last=True)
    ) as found:
        for batch in found:
            yield {
                name: column.tolist() if column.dtype == object else torch.from_numpy(column)
                for name, column in batch.columns.items()
            }


def _numbers(column: Any) -> Any:
    return column.combine_chunks().to_numpy(zero_copy_only=False)


def _returns(rewards: Any, done: Any) -> Any:
    returns: list[float] = []
    for reward, end in zip(rewards[::-1].tolist(), done[::-1].tolist(), strict=True):
        returns.append(reward + (0.0 if end else GAMMA * returns[-1]))
    return np.array(returns[::-1])


WAYS = {"original": original, "ours": ours}


class _WithoutPandas(MetaPathFinder):
    """Makes this process one where pandas is not installed."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)


def imports(way: str) -> None:
    """Everything that ``way`` imports, before the clock starts.

    Without pandas: the project does not need it, and pyarrow imports it (50 MB) only where it happens to be installed.
    """
    sys.meta_path.insert(0, _WithoutPandas())
    import numpy.ma  # noqa: F401 which numpy itself imports when it first looks for unique values
    import torch.utils.data  # noqa: F401

    if way == "ours":
        import digiq_ray.store.episodes
        import digiq_ray.store.sampler  # noqa: F401


def measure(way: str, path: Path, batches: int) -> dict[str, float]:
    """Runs one way in this process."""
    started = time.perf_counter()
    imports(way)
    began = time.perf_counter()
    source = WAYS[way](path, batches)
    first = next(source)
    ready = time.perf_counter()
    assert len(first["q_rep_out"]) == BATCH
    total = 0.0
    for _ in range(batches):
        total += float(next(source)["reward"].sum())
    ended = time.perf_counter()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    source.close()  # type: ignore[attr-defined]
    return {
        "imports_s": began - started,
        "first_batch_s": ready - began,
        "samples_per_second": batches * BATCH / (ended - ready),
        "peak_mb": int(status["VmHWM"].split()[0]) / 1000,
        "anonymous_mb": int(status["RssAnon"].split()[0]) / 1000,
        "reward": total,
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
