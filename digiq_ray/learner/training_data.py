"""The critic's training set on disk: built from the stores in one pass, then mapped, so that memory does not grow.

A pass looks at 64 episodes at a time, and appends their transitions to one raw file a column (37 bytes a transition
and 12 for each of its ``K`` candidates). The directory appears whole or not at all, under a hash of everything that it
was made from: the snapshots of the stores, and the settings that targets depend on. A
training that goes on finds it there; one on other data makes its own, and removes the one before.

What still grows: what the two stores know of each episode (its id, and where its rows lie: about 270 bytes in each
store), and the open mappings of the shards of features (about 7 kB each). ``benchmarks.critic_memory`` measures it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from digiq_ray.core.errors import StoreError
from digiq_ray.core.settings import CriticSettings
from digiq_ray.critic.dataset import CriticData, Transitions, flatten, with_features
from digiq_ray.learner.data import Block, FeatureViews, MappedFeatures, StateKey, blocks_of, frames
from digiq_ray.learner.directories import publish_directory
from digiq_ray.learner.likelihood import with_logprobs
from digiq_ray.learner.pins import PinnedStores
from digiq_ray.policy.best_of_n import StateCandidates, without_unlikely
from digiq_ray.store.candidates import CandidateStore

_VERSION = 1
_TYPES = {
    **dict.fromkeys(("state", "action", "successor", "candidates"), torch.int64),
    **dict.fromkeys(("reward", "discount", "returns", "weights"), torch.float32),
    "won": torch.bool,
}
_WIDE = {"candidates": -1, "weights": 0.0}
_TARGETS = ("gamma", "n_step", "truncation", "backup_support", "backup_probability")
_ABOUT = "about.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a training set holds, beside its columns.

    Attributes:
        transitions, width: ``n`` and ``K``.
        episodes: How many it is made of.
        left_out: Episodes in which something was done but that lack candidates or features.
        least_return, largest_return: Sums of an episode's rewards.
        rewarded: Whether any reward is not 0.
    """

    transitions: int
    width: int
    episodes: int
    left_out: int
    least_return: float
    largest_return: float
    rewarded: bool


@dataclass(frozen=True, slots=True)
class TrainingData:
    """A training set that is mapped from disk.

    Attributes:
        data: What the critic trains on.
        won: Whether the episode of each transition succeeded, ``[n]``.
        about: The rest.
    """

    data: CriticData
    won: torch.Tensor
    about: About


def training_data(root: Path, stores: PinnedStores, views: FeatureViews, chosen: CriticSettings) -> TrainingData:
    """The training set of what the stores hold, built if it is not under ``root`` already.

    Raises:
        StoreError: there is nothing to train on, a reward or a feature is not finite, or what lies there is broken.
        DiskFullError: no space is left.
    """
    made_from = {
        "version": _VERSION,
        "data": stores.hashes,
        **{name: getattr(chosen, name) for name in _TARGETS},
    }
    name = hashlib.blake2b(json.dumps(made_from, sort_keys=True).encode(), digest_size=16).hexdigest()
    directory = root / name
    if not directory.is_dir():
        publish_directory(directory, lambda hidden: _write(hidden, stores, views, chosen))
        for other in root.iterdir():
            if other != directory:
                shutil.rmtree(other)
    return _open(directory, views)


def _open(directory: Path, views: FeatureViews) -> TrainingData:
    try:
        about = About(**json.loads((directory / _ABOUT).read_text()))
        n, columns = about.transitions, {}
        for name, dtype in _TYPES.items():
            shape = (n, about.width) if name in _WIDE else (n,)
            size, file = int(np.prod(shape)), directory / name
            if file.stat().st_size != size * dtype.itemsize:
                raise ValueError(f"{name} has another length than it should have")
            columns[name] = torch.from_file(str(file), shared=False, size=size, dtype=dtype).reshape(shape)
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(f"{directory}: is broken ({error}); remove it, and the same command makes it again") from error
    won = columns.pop("won")
    features = MappedFeatures(views.states), MappedFeatures(views.actions)
    return TrainingData(with_features(Transitions(**columns), *features), won, about)


def _write(directory: Path, stores: PinnedStores, views: FeatureViews, chosen: CriticSettings) -> None:
    """Makes the files of a training set in an empty directory."""
    for view in (views.states, views.actions):
        MappedFeatures(view).require_finite()
    shapes: list[tuple[int, int]] = []
    left_out, whole, returns, rewarded = 0, 0, (math.inf, -math.inf), False
    with ExitStack() as opened:
        files = {name: opened.enter_context(open(directory / name, "wb")) for name in _TYPES}
        candidates = stores.candidates
        for block in blocks_of(stores.episodes, candidates, views, directory):
            left_out, whole = left_out + block.played - len(block.episodes), whole + len(block.episodes)
            if not block.episodes:
                continue
            options = supported(block, candidates, chosen.backup_probability)
            part = flatten(
                list(frames(block.episodes, options, block.index, min_support=chosen.backup_support)),
                gamma=chosen.gamma,
                steps=chosen.n_step,
                truncated_ends=chosen.truncation == "end",
            )
            won = torch.tensor([one.success for one in block.episodes for _ in one.actions])
            for name, file in files.items():
                file.write((won if name == "won" else getattr(part, name)).numpy().data)
            shapes.append((len(part), part.candidates.shape[1]))
            sums = [sum(one.rewards) for one in block.episodes]
            returns = min(returns[0], *sums), max(returns[1], *sums)
            rewarded = rewarded or any(any(one.rewards) for one in block.episodes)
    width = max(width for _, width in shapes)
    for name, padding in _WIDE.items():
        _widen(directory / name, shapes, width, padding)
    about = About(
        transitions=sum(count for count, _ in shapes),
        width=width,
        episodes=whole,
        left_out=left_out,
        least_return=returns[0],
        largest_return=returns[1],
        rewarded=rewarded,
    )
    (directory / _ABOUT).write_text(json.dumps(dataclasses.asdict(about)))


def supported(block: Block, store: CandidateStore, probability: float) -> Mapping[StateKey, StateCandidates]:
    """The candidates of a block; what the behaviour policy does less often than ``probability`` counts as not drawn."""
    if not probability:
        return block.candidates
    known = with_logprobs(block.candidates, store, {one.episode_id for one in block.episodes})
    return {key: without_unlikely(options, probability) for key, options in known.items()}


def _widen(file: Path, shapes: Iterable[tuple[int, int]], width: int, padding: float) -> None:
    """Makes the blocks ``[count, columns]`` in a file one array with ``width`` columns."""
    narrow = file.rename(file.with_name(f"{file.name}.narrow"))
    dtype = torch.empty(0, dtype=_TYPES[file.name]).numpy().dtype
    with open(narrow, "rb") as source, open(file, "wb") as target:
        for count, columns in shapes:
            block = np.fromfile(source, dtype, count * columns).reshape(count, columns)
            target.write(np.pad(block, ((0, 0), (0, width - columns)), constant_values=padding).data)
    narrow.unlink()
