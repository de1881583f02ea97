"""Episodes with real pictures, for the tests of exports."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from digiq_ray.core.actions import tap
from digiq_ray.core.episodes import Episode, Step, StopReason, episode_id
from digiq_ray.core.tasks import Task
from digiq_ray.store.episodes import EpisodeStore


def picture(grey: int, form: str = "PNG") -> bytes:
    """A grey screen, encoded."""
    encoded = io.BytesIO()
    Image.new("RGB", (18, 32), (grey, grey, grey)).save(encoded, form)
    return encoded.getvalue()


def episode(number: int, greys: Iterable[int | None], *, split: str = "train", form: str = "PNG") -> Episode:
    """An episode with one screen for each grey; ``None`` is a screen that was lost."""
    screens = [b"" if grey is None else picture(grey, form) for grey in greys]
    last = len(screens) - 1
    steps = [
        Step(
            screen=screen,
            action_text=None if index == last else f"tap 0.5 0.{index}",
            action=None if index == last else tap(0.5, index / 10),
            parse_error=None,
            reward=float(index == last - 1),
            behaviour_logprob=None if index == last else -0.5,
            started_at=1000.25 + index,
            ended_at=1000.75 + index,
        )
        for index, screen in enumerate(screens)
    ]
    return Episode(
        episode_id=episode_id("run", f"task {number}", 0),
        task=Task(f"shop/{split}/{number}", f"Find mug {number} für <image>", last, split, goal={"kind": "mug"}),
        steps=tuple(steps),
        stop_reason=StopReason.SUCCESS,
        policy_version="v1",
        device="sim-1",
        judge="oracle",
    )


def make_store(path: Path, episodes: Iterable[Episode]) -> EpisodeStore:
    """An EpisodeStore that holds ``episodes``."""
    store = EpisodeStore.create(path)
    store.append(episodes)
    return store
