"""The result of one policy on one task set, from the episodes that it left in a store.

The denominator is fixed before any episode is played: every task of the set counts once, by its earliest judged
episode, so neither a retry nor a longer run can improve a result. A device error judges nothing: a task that has only
such episodes is counted as an infrastructure error, apart from ``n``. Reads small columns only, never the screens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from digiq_ray.core.episodes import StopReason
from digiq_ray.core.errors import InputError, StoreError
from digiq_ray.core.tasks import Task, TaskSet
from digiq_ray.evaluation.statistics import wilson
from digiq_ray.store.episodes import EpisodeStore

_COLUMNS = ["episode_id", "task_id", "stop_reason", "policy_version", "is_first", "started_at"]


@dataclass(frozen=True, slots=True)
class _Played:
    """What counts of an episode: how it ended, after how many actions, by which policy, and when it began."""

    episode_id: str
    task_id: str
    stop_reason: str
    policy_version: str
    started_at: float
    actions: int

    @property
    def judged(self) -> bool:
        return self.stop_reason != StopReason.DEVICE_ERROR

    @property
    def rank(self) -> tuple[bool, float, str]:
        """Which episode of a task counts: the least, judged ones first, then the earliest."""
        return not self.judged, self.started_at, self.episode_id


def policy_result(store: EpisodeStore, *, tasks: TaskSet, relearned: frozenset[str]) -> dict[str, Any]:
    """Success of the policy whose episodes ``store`` holds.

    Args:
        store: Episodes of one policy. Those of tasks that are not in ``tasks`` are ignored.
        tasks: The tasks that are scored.
        relearned: Kinds of tasks that need an action which every pre-training stage would have called wrong.

    Returns:
        ``success_rate``, ``successes``, ``n`` and ``ci95`` (Wilson; rate and interval are ``None`` where ``n`` is 0),
        ``infra_errors``, ``tasks`` (name of the set), ``unique_tasks`` (different goals), ``by_kind`` and
        ``relearned`` (the same four fields for each kind, and for all kinds of ``relearned`` together),
        ``stop_reasons``, ``mean_length`` (actions of judged episodes, ``None`` without any) and ``policy_versions``.

    Raises:
        InputError: two tasks have the same id, or there is no task.
        StoreError: tasks have no episode, or the store is broken.
    """
    by_id = {task.task_id: task for task in tasks}
    if not by_id or len(by_id) != len(tasks):
        raise InputError(f"{tasks.name}: {len(tasks)} tasks with {len(by_id)} ids; give each task an id of its own")
    chosen: dict[str, _Played] = {}
    for episode in _played(store):
        if episode.task_id in by_id:
            chosen[episode.task_id] = min(chosen.get(episode.task_id, episode), episode, key=lambda e: e.rank)
    missing = [task_id for task_id in by_id if task_id not in chosen]
    if missing:
        raise StoreError(
            f"{store.path}: {len(missing)} of {len(by_id)} tasks of {tasks.name} have no episode "
            f"(first: {missing[0]}); evaluate again, which plays only those"
        )
    judged = [(by_id[task_id], episode) for task_id, episode in chosen.items() if episode.judged]
    kinds = sorted({task.kind for task in tasks})
    lengths = [episode.actions for _, episode in judged]
    return {
        **_rate(judged),
        "infra_errors": len(chosen) - len(judged),
        "tasks": tasks.name,
        "unique_tasks": tasks.unique_texts,
        "by_kind": {kind: _rate((task, episode) for task, episode in judged if task.kind == kind) for kind in kinds},
        "relearned": _rate((task, episode) for task, episode in judged if task.kind in relearned),
        "stop_reasons": _counts(episode.stop_reason for episode in chosen.values()),
        "mean_length": sum(lengths) / len(lengths) if lengths else None,
        "policy_versions": _counts(episode.policy_version for episode in chosen.values()),
    }


def _played(store: EpisodeStore) -> list[_Played]:
    rows = store.table(_COLUMNS)
    firsts = np.flatnonzero(rows["is_first"].to_numpy())
    lengths = np.diff(np.append(firsts, rows.num_rows)) - 1  # one observation more than actions
    return [
        _Played(actions=int(length), **row)
        for row, length in zip(rows.drop_columns("is_first").take(firsts).to_pylist(), lengths, strict=True)
    ]


def _rate(judged: Iterable[tuple[Task, _Played]]) -> dict[str, Any]:
    results = [episode.stop_reason == StopReason.SUCCESS for _, episode in judged]
    successes, n = sum(results), len(results)
    return {
        "success_rate": successes / n if n else None,
        "successes": successes,
        "n": n,
        "ci95": list(wilson(successes, n)) if n else None,
    }


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))
