"""Comparing the episodes of one policy on two transports, and playing the actions of one again on another.

Both sides played the same jobs, so episodes are matched by their ids. They are compared step by step, up to the first
action that differs: what follows it is another history. Screens are compared as pixels, not as files.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from digiq_ray.core.actions import ActionType, format_action, press
from digiq_ray.core.episodes import Episode, StopReason
from digiq_ray.core.errors import StoreError
from digiq_ray.core.policies import ActRequest, ActResult
from digiq_ray.core.rng import seed_of
from digiq_ray.evaluation.statistics import Interval, intervals_apart
from emulator_workers.jobs import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What two transports made of the same jobs.

    Attributes:
        episodes: Pairs of episodes.
        actions: Actions that were equal, up to the first in each episode that is not.
        parted: Episodes whose actions are not all equal, or of which one ended earlier.
        cut: Those of them that a device error cut short.
        parted_alike: Those whose actions part although all screens until then were equal, and no device failed.
        outcomes: Episodes that ended for another reason.
        screens: Pairs of screens compared.
        different: Pairs that differ in any pixel.
        first: The first of these, in words.
    """

    episodes: int = 0
    actions: int = 0
    parted: int = 0
    cut: int = 0
    parted_alike: int = 0
    outcomes: int = 0
    screens: int = 0
    different: int = 0
    first: str = ""

    def plus(self, other: Comparison) -> Comparison:
        """The counts of both."""
        counts = ("episodes", "actions", "parted", "cut", "parted_alike", "outcomes", "screens", "different")
        sums = {name: getattr(self, name) + getattr(other, name) for name in counts}
        return Comparison(**sums, first=self.first or other.first)

    @property
    def exact(self) -> bool:
        """Whether nothing differs at all."""
        return not (self.parted or self.outcomes or self.different)


def compare(ones: Iterable[Episode], others: Iterable[Episode]) -> Comparison:
    """Compares two lists of episodes, both ascending by id.

    Raises:
        StoreError: they are not of the same jobs.
    """
    total = Comparison()
    for one, other in zip(ones, others, strict=True):
        if one.episode_id != other.episode_id:
            raise StoreError(f"episode {one.episode_id} is compared with {other.episode_id}: play the same jobs")
        total = total.plus(_compare(one, other))
    return total


def _compare(one: Episode, other: Episode) -> Comparison:
    # The last step has no action, so that an episode which ends earlier differs from the other in an action.
    equal = [a.action_text == b.action_text for a, b in zip(one.steps, other.steps, strict=False)]
    common = equal.index(False) if False in equal else len(equal) - 1
    differing = [
        difference
        for step, (a, b) in enumerate(zip(one.steps[: common + 1], other.steps[: common + 1], strict=True))
        if (difference := _difference(a.screen, b.screen, f"{one.task.task_id} ({one.task.text}), step {step}"))
    ]
    parted = False in equal
    cut = parted and StopReason.DEVICE_ERROR in (one.stop_reason, other.stop_reason)
    return Comparison(
        episodes=1,
        actions=common,
        parted=int(parted),
        cut=int(cut),
        parted_alike=int(parted and not cut and not differing),
        outcomes=int(one.stop_reason != other.stop_reason),
        screens=common + 1,
        different=len(differing),
        first=differing[0] if differing else "",
    )


def _difference(one: bytes, other: bytes, where: str) -> str:
    """In which way two screens differ; empty if in none."""
    a, b = pixels(one), pixels(other)
    if a.shape != b.shape:
        return f"{where}: {a.shape[1]}x{a.shape[0]} against {b.shape[1]}x{b.shape[0]} pixels"
    count = int((a != b).any(axis=-1).sum())
    return f"{where}: {count} of {a.shape[0] * a.shape[1]} pixels" if count else ""


def pixels(screen: bytes) -> NDArray[np.uint8]:
    """The colours of an encoded screen, ``[height, width, 3]``."""
    with Image.open(io.BytesIO(screen)) as image:
        return np.asarray(image.convert("RGB"))


def all_overlap(intervals: Sequence[Interval]) -> bool:
    """Whether each two of the intervals have a point in common."""
    return not any(intervals_apart(one, other) for one, other in combinations(intervals, 2))


class RecordedActions:
    """A ``Policy`` that writes again what was written in recorded episodes; what is not recorded ends the episode.

    A request is recognised by its seed, which belongs to one step of one job.

    Args:
        jobs: The jobs that are played again.
        episodes: What was recorded of them, by id.
    """

    def __init__(self, jobs: Iterable[Job], episodes: Mapping[str, Episode]) -> None:
        self._texts = {
            seed_of(job.seed, number): step.action_text
            for job in jobs
            for number, step in enumerate(episodes[job.episode_id].steps)
            if step.action_text is not None
        }

    def act(self, requests: Sequence[ActRequest]) -> list[ActResult]:
        """The recorded actions."""
        over = format_action(press(ActionType.COMPLETE))
        return [ActResult(self._texts.get(request.seed, over), 0.0, "recorded") for request in requests]
