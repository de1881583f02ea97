"""What is in a data set of candidates or of features, in numbers; see ``info`` for episodes.

Candidates are counted from small columns of all segments at once; of features only the keys are read.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from dataclasses import dataclass

import pyarrow.compute as pc

from digiq_ray.store.candidates import CandidateStore
from digiq_ray.store.directory import Directory
from digiq_ray.store.features import FeatureStore
from digiq_ray.store.footers import SUFFIX
from digiq_ray.store.kinds import SHARD_SUFFIX


@dataclass(frozen=True, slots=True)
class CandidateInfo:
    """What is in a CandidateStore.

    Attributes:
        shards, bytes: Number of shards and their size.
        episodes, states: Numbers of episodes and of states that have candidates.
        candidates: Number of unique texts, over all states.
        samples: Number of samples (the sum of the multiplicities).
        valid: Candidates that are actions of the grammar.
        behaviour: Candidates that the behaviour policy carried out.
        action_types, policy_versions: Candidates for each.
    """

    shards: int
    bytes: int
    episodes: int
    states: int
    candidates: int
    samples: int
    valid: int
    behaviour: int
    action_types: dict[str, int]
    policy_versions: dict[str, int]


@dataclass(frozen=True, slots=True)
class FeatureInfo:
    """What is in a FeatureStore.

    Attributes:
        shards, bytes: Number of shards and their size.
        features: Number of features.
        of_states, of_actions: Features of states, and of actions at states.
        dim, dtype: Length and type of each.
        fingerprint: What made them.
    """

    shards: int
    bytes: int
    features: int
    of_states: int
    of_actions: int
    dim: int
    dtype: str
    fingerprint: dict[str, object]


def candidate_info(directory: Directory) -> CandidateInfo:
    """Counts what is in the CandidateStore in a directory; raises ``StoreError`` if a segment is broken."""
    store = CandidateStore(directory.path)
    names = ["episode_id", "step", "action_type", "multiplicity", "valid", "is_behaviour", "policy_version"]
    rows = store.table(names)
    return CandidateInfo(
        shards=len(store.shards()),
        bytes=_bytes(directory, SUFFIX),
        episodes=len(rows["episode_id"].unique()),
        states=rows.group_by(["episode_id", "step"]).aggregate([]).num_rows,
        candidates=rows.num_rows,
        samples=pc.sum(rows["multiplicity"]).as_py() or 0,
        valid=pc.sum(rows["valid"]).as_py() or 0,
        behaviour=pc.sum(rows["is_behaviour"]).as_py() or 0,
        action_types=dict(Counter(rows["action_type"].drop_null().to_pylist())),
        policy_versions=dict(Counter(rows["policy_version"].to_pylist())),
    )


def feature_info(directory: Directory) -> FeatureInfo:
    """Counts what is in the FeatureStore in a directory.

    Raises:
        StoreError: a shard is broken, or its features are not like those of the others.
    """
    view = FeatureStore(directory.path).open()
    of_states = view.keys["action"].null_count
    return FeatureInfo(
        shards=len(directory.names(SHARD_SUFFIX)),
        bytes=_bytes(directory, SHARD_SUFFIX),
        features=len(view),
        of_states=of_states,
        of_actions=len(view) - of_states,
        dim=view.dim,
        dtype=view.dtype.name,
        fingerprint=dataclasses.asdict(view.fingerprint),
    )


def _bytes(directory: Directory, suffix: str) -> int:
    total = 0
    for name in directory.names(suffix):
        with directory.reading(name) as file:
            total += file.seek(0, os.SEEK_END)
    return total
