"""From the stores to what the learner trains on: states in order, their candidates, and where their features are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch.utils.dlpack import from_dlpack

from digiq_ray.core.errors import StoreError
from digiq_ray.critic.dataset import EpisodeFrame
from digiq_ray.critic.features import blocks
from digiq_ray.policy.best_of_n import StateCandidates
from digiq_ray.store.candidates import CandidateStore
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureStore, FeatureView
from digiq_ray.store.schema import row_action
from digiq_ray.store.snapshot import Snapshot

StateKey = tuple[str, int]

_BLOCK_ROWS = 16_384
_BLOCK_EPISODES = 64
_CHECKED_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class EpisodeOutline:
    """An episode without its screens: executed texts ``[T]``, rewards ``[T]``, how it ended."""

    episode_id: str
    task: str
    actions: tuple[str, ...]
    rewards: tuple[float, ...]
    terminal: bool
    success: bool


def outlines(store: EpisodeStore, ids: Iterable[str] | None = None) -> list[EpisodeOutline]:
    """Episodes (those of ``ids``, if given) with at least one action, ascending by id, without reading a screen.

    Raises:
        StoreError: a reward is not a finite number.
    """
    columns = ["episode_id", "step", "task", "action", "reward", "is_last", "is_terminal", "stop_reason"]
    found: list[EpisodeOutline] = []
    actions: list[str] = []
    rewards: list[float] = []
    for row in store.table(columns, ids).to_pylist():
        if not row["is_last"]:
            if not math.isfinite(row["reward"]):
                raise StoreError(
                    f"episode {row['episode_id']}, step {row['step']}: the reward is {row['reward']}, not a finite "
                    "number: the judge that gave it is broken; collect the episode again"
                )
            actions.append(row["action"])
            rewards.append(row["reward"])
            continue
        if actions:
            found.append(
                EpisodeOutline(
                    row["episode_id"],
                    row["task"],
                    tuple(actions),
                    tuple(rewards),
                    row["is_terminal"],
                    row["stop_reason"] == "success",
                )
            )
        actions, rewards = [], []
    return found


def candidates_by_state(store: CandidateStore, ids: Iterable[str] | None = None) -> dict[StateKey, StateCandidates]:
    """Candidates of every state (of the episodes ``ids``, if given), in the order of their texts."""
    columns = ["episode_id", "step", "action", "action_type", "x", "y", "x2", "y2", "typed_text", "multiplicity"]
    grouped: dict[StateKey, tuple[list[str], list[object], list[int]]] = {}
    for row in store.table(columns, ids).to_pylist():
        texts, actions, counts = grouped.setdefault((row["episode_id"], row["step"]), ([], [], []))
        texts.append(row["action"])
        actions.append(row_action(row) if row["action_type"] else None)
        counts.append(row["multiplicity"])
    return {key: StateCandidates(*value) for key, value in grouped.items()}  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class FeatureViews:
    """The features of a run: of states, and of states with actions."""

    states: FeatureView
    actions: FeatureView

    @classmethod
    def open(cls, directory: Path, snapshots: Mapping[str, Snapshot]) -> Self:
        """Opens ``states`` and ``actions`` under ``directory``, at the snapshots of these names.

        Raises:
            FingerprintMismatchError: the two were not made by the same model.
            StoreError: features changed since the snapshot.
        """
        states = FeatureStore(directory / "states", snapshot=snapshots["states"]).open()
        return cls(states, FeatureStore(directory / "actions", snapshot=snapshots["actions"]).open(states.fingerprint))

    def rows(self, episodes: Iterable[EpisodeOutline], candidates: Mapping[StateKey, StateCandidates]) -> FeatureIndex:
        """Where the features of these episodes' states, and of their candidates, are."""
        states = [(one.episode_id, step) for one in episodes for step in range(len(one.actions) + 1)]
        actions = [(*key, text) for key, options in candidates.items() for text in options.texts]
        state_rows = self.states.locate((*key, None) for key in states).tolist()
        action_rows = self.actions.locate(actions).tolist()
        return FeatureIndex(
            {key: row for key, row in zip(states, state_rows, strict=True) if row >= 0},
            {key: row for key, row in zip(actions, action_rows, strict=True) if row >= 0},
        )


@dataclass(frozen=True, slots=True)
class FeatureIndex:
    """Rows of the features of states and of states with actions."""

    states: dict[StateKey, int]
    actions: dict[tuple[str, int, str], int]


class MappedFeatures:
    """The features of a view as float32 tensors, read when they are asked for; see ``critic.features.Features``.

    Rows here and there are read without advice to the system if all features fit into half of the machine's memory:
    whoever looks at all of them first, as normalisation does, has them in the system's cache then.
    """

    def __init__(self, view: FeatureView) -> None:
        self._view = view
        self._cached = 2 * len(view) * view.dim * view.dtype.itemsize <= psutil.virtual_memory().total

    def __len__(self) -> int:
        return len(self._view)

    def __getitem__(self, rows: slice | torch.Tensor, /) -> torch.Tensor:
        if isinstance(rows, slice):
            return tensor(self._view, range(len(self))[rows])
        return _float32(self._view.rows(rows.numpy(), cached=self._cached))

    def require_finite(self) -> None:
        """Raises ``StoreError`` naming the episode and the step of a feature that is not finite. Reads all."""
        start = 0
        for block in blocks(self, _CHECKED_BYTES):
            if not bool(torch.isfinite(torch.stack(torch.aminmax(block))).all()):
                row = start + int((~torch.isfinite(block).all(1)).nonzero()[0])
                key = self._view.key(row)
                action = "" if key.action is None else f", action {key.action[:60]!r}"
                raise StoreError(
                    f"episode {key.episode_id}, step {key.step}{action}: the feature holds a value that is not finite; "
                    "embed again into another directory, with a model that gives none"
                )
            start += len(block)


def tensor(view: FeatureView, rows: range | Sequence[int] | None = None) -> torch.Tensor:
    """Features as float32 ``[n, dim]``: all, or those of ``rows``.

    Float32 rows that follow each other in one shard are not copied: the tensor shares the read-only mapping, and must
    not be changed in place. Other rows are copied, float16 ones are converted.
    """
    if rows is None:
        rows = range(len(view))
    adjoining = isinstance(rows, range) and rows.step == 1 and len(rows)
    found = view.slice(rows[0], rows[-1] + 1) if adjoining else view.rows(np.asarray(rows, dtype=np.int64))
    return _float32(found)


def _float32(found: NDArray[np.floating[Any]]) -> torch.Tensor:
    # DLPack, because torch warns of a read-only array that it is given in another way.
    return from_dlpack(found) if found.dtype == np.float32 else torch.from_numpy(found.astype(np.float32))


def values_of(head: Callable[[torch.Tensor], torch.Tensor], view: FeatureView) -> NDArray[np.float64]:
    """``head`` (``[n, dim]`` to ``[.., n]``) of every feature, without holding more than a block of them in memory."""
    values = np.empty(len(view))
    with torch.inference_mode():
        for start in range(0, len(view), _BLOCK_ROWS):
            rows = range(start, min(start + _BLOCK_ROWS, len(view)))
            found = head(tensor(view, rows)).numpy()
            if found.shape[:-1] != values.shape[:-1]:  # one value for each feature, or one for each head
                values = np.empty((*found.shape[:-1], len(view)))
            values[..., rows.start : rows.stop] = found
    return values


def learnable(
    episodes: Sequence[EpisodeOutline], candidates: Mapping[StateKey, StateCandidates], index: FeatureIndex
) -> tuple[list[EpisodeOutline], dict[StateKey, StateCandidates]]:
    """The episodes that can be learned from, and the candidates that have features.

    A state that the model could not read (its screen was lost, say) has no row in a store. Without it there is no
    target for the state before it, so its whole episode is left out.
    """
    with_features = {
        key: options.only([(*key, text) in index.actions for text in options.texts])
        for key, options in candidates.items()
    }

    def is_whole(one: EpisodeOutline) -> bool:
        name, length = one.episode_id, len(one.actions)
        return all((name, step) in index.states for step in range(length + 1)) and all(
            text in with_features[name, step].texts if (name, step) in with_features else False
            for step, text in enumerate(one.actions)
        )

    return [one for one in episodes if is_whole(one)], with_features


@dataclass(frozen=True, slots=True)
class Block:
    """Some episodes: how many were played, those that can be learned from, their candidates, and where features are."""

    played: int
    episodes: list[EpisodeOutline]
    candidates: dict[StateKey, StateCandidates]
    index: FeatureIndex


def blocks_of(
    episodes: EpisodeStore, candidates: CandidateStore, views: FeatureViews, scratch: Path
) -> Iterator[Block]:
    """All episodes that are there now, ascending by id, 64 at a time; what a block took is free when the next comes.

    Args:
        episodes, candidates, views: What a run has.
        scratch: A directory where there is room for 24 bytes a feature meanwhile.

    Raises:
        StoreError: a reward is not a finite number; or, after the last block, none holds what can be learned from.
    """
    views.states.merge_lookups(scratch)
    views.actions.merge_lookups(scratch)
    ids = sorted(episodes.episode_ids())
    played = whole = 0
    for start in range(0, len(ids), _BLOCK_EPISODES):
        part = ids[start : start + _BLOCK_EPISODES]
        outlined, options = outlines(episodes, part), candidates_by_state(candidates, part)
        index = views.rows(outlined, options)
        block = Block(len(outlined), *learnable(outlined, options, index), index)
        played, whole = played + block.played, whole + len(block.episodes)
        yield block
    if not played:
        raise StoreError(
            f"{episodes.path}: no episode holds an action, so there is nothing to learn from: collect more"
        )
    if not whole:
        raise StoreError("no episode has candidates and features of all its states: run digiq candidates, digiq embed")


def frames(
    episodes: Sequence[EpisodeOutline],
    candidates: Mapping[StateKey, StateCandidates],
    index: FeatureIndex,
    *,
    min_support: int = 1,
) -> Iterator[EpisodeFrame]:
    """The critic's view of each episode.

    Args:
        episodes: Those to learn from.
        candidates, index: Their candidates, and where features are.
        min_support: V averages over candidates that were drawn so often, and over all where none was.

    Raises:
        StoreError: a state or an action has no feature, or a state no candidates.
    """
    for episode in episodes:
        name, length = episode.episode_id, len(episode.actions)
        try:
            options = [candidates[name, step] for step in range(length)]
            yield EpisodeFrame(
                rewards=episode.rewards,
                terminal=episode.terminal,
                states=[index.states[name, step] for step in range(length + 1)],
                actions=[index.actions[name, step, text] for step, text in enumerate(episode.actions)],
                candidates=[
                    [index.actions[name, step, text] for text in one.texts] for step, one in enumerate(options)
                ],
                weights=[list(shares(supported(one.counts, min_support))) for one in options],
            )
        except KeyError as missing:
            raise StoreError(
                f"episode {name} has no candidates or features for {missing}: run digiq candidates and digiq embed"
            ) from missing


def supported(counts: Sequence[int], least: int) -> Sequence[int]:
    """Counts with those below ``least`` as 0; all of them if none reaches it."""
    kept = [count if count >= least else 0 for count in counts]
    return kept if any(kept) else counts


def shares(counts: Sequence[int]) -> NDArray[np.float64]:
    """Counts as probabilities; if nothing was counted, equal ones."""
    array = np.asarray(counts, dtype=np.float64)
    return array / array.sum() if array.sum() else np.full(len(array), 1.0 / len(array))
