"""Names of the original's screenshots: ``{where}/{time}_{number}.png``, number 0 being the screen after the reset.

Its collector writes into a step the screen after the action (the first ends ``_1``); a later stage rewrites that to the
screen before it (the first ends ``_0``). Which of the two a trajectory has is seen from its first step.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from digiq_ray.store.legacy.step import LegacyStep

PLACEHOLDER = "<path_to_images>"

_NAME = re.compile(r"(?P<stem>.*?(?P<time>[^/\\]*))_(?P<number>\d{1,6})(?P<suffix>\.\w{1,8})")
_OFFSETS = {"1": "after", "0": "before"}


def convention(image: str | None) -> str:
    """``after`` or ``before`` the action, from the path in a first step; ``unknown`` if there is none or another."""
    match = _NAME.fullmatch(image or "")
    return _OFFSETS.get(match["number"], "unknown") if match else "unknown"


def started_at(image: str | None) -> float:
    """When the episode began, from the path in its first step (Unix seconds); 0 if it does not say."""
    match = _NAME.fullmatch(image or "")
    try:
        value = float(match["time"]) if match else 0.0
    except ValueError:
        return 0.0
    return value if math.isfinite(value) and value >= 0 else 0.0


def observation_paths(steps: Sequence[LegacyStep]) -> list[str | None]:
    """Path of the screen of each observation, ``len(steps) + 1``; ``None`` where no path says it."""
    if convention(steps[0].image) == "after":
        return [_shifted(steps[0].image, -1), *(step.image for step in steps)]
    last = steps[-1]
    return [*(step.image for step in steps), last.next_image or _shifted(last.image, 1)]


def _shifted(image: str | None, by: int) -> str | None:
    match = _NAME.fullmatch(image or "")
    return f"{match['stem']}_{int(match['number']) + by}{match['suffix']}" if match else None
