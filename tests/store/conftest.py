"""Fixtures of the store tests: episodes that differ in every field, and the errors of a full disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from digiq_ray.core.actions import Action, swipe, tap, type_text
from digiq_ray.core.episodes import Episode, Step, StopReason, episode_id
from digiq_ray.core.tasks import Task

MakeEpisode = Callable[..., Episode]
_ACTIONS: tuple[Action | None, ...] = (tap(0.25, 0.1234), swipe(0.5, 0.8, 0.5, 0.2), type_text("käse"), None)


@pytest.fixture
def make_episode() -> MakeEpisode:
    def make(
        number: int,
        *,
        actions: int = 3,
        stop_reason: StopReason = StopReason.TIME_LIMIT,
        screen_bytes: int = 100,
        policy_version: str = "v1",
    ) -> Episode:
        steps = []
        for index in range(actions):
            action = _ACTIONS[(number + index) % len(_ACTIONS)]
            steps.append(
                Step(
                    screen=bytes([number % 256, index]) * (screen_bytes // 2),
                    action_text=f"text {number} {index}",
                    action=action,
                    parse_error="unknown action 'text'" if action is None else None,
                    reward=index / 8,
                    behaviour_logprob=None if index == 1 else -0.1 * index,
                    started_at=1000.25 + index,
                    ended_at=1000.75 + index,
                )
            )
        steps.append(Step(b"last" * (screen_bytes // 4), None, None, None, 0.0, None, 2000.0, 2000.5))
        return Episode(
            episode_id=episode_id("run", f"task {number}", 0),
            task=Task(
                task_id=f"general/train/{number % 2}",
                text=f"Find mug {number}",
                horizon=actions,
                split="train",
                kind="shop",
                goal={"kind": "mug", "number": str(number)},
                seed=number,
            ),
            steps=tuple(steps),
            stop_reason=stop_reason,
            policy_version=policy_version,
            device="sim-1",
            judge="oracle",
        )

    return make


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, flushing data to the disk finds no space left."""

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
