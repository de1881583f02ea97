"""Can the labels of stage 1 be trusted? What the recorded steps themselves say about it, without a person looking.

A screen also changes by itself: animations, advertisements, pages that finish loading. A step that does nothing shows
how often; two equal screens with the same action should have the same label.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from digiq_ray.core.actions import Action, ActionType
from digiq_ray.core.episodes import screen_hash

_IDLE = frozenset({ActionType.WAIT, ActionType.COMPLETE, ActionType.IMPOSSIBLE})


@dataclass(frozen=True, slots=True)
class LabelledStep:
    """One step: its screen before (encoded), the action as written and as parsed (``None``: unparsable), its label."""

    screen: bytes
    text: str
    action: Action | None
    changed: bool


def label_quality(steps: Sequence[LabelledStep]) -> dict[str, Any]:
    """How balanced and how stable labels are.

    Returns:
        ``changed`` and ``unchanged``: how many steps have each label. ``idle`` and ``idle_changed``: steps whose action
        touches nothing (waiting, ending, unparsable), and the share of them labelled as a change: noise where screens
        move by themselves, though a page that was loading may also rightly have come while waiting. ``repeated`` and
        ``contradicted``: steps that share screen and action with another, and the share of them whose label is the
        rarer one among their like. Shares are ``None`` where there is nothing to share.
    """
    idle = [step.changed for step in steps if step.action is None or step.action.type in _IDLE]
    alike: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for step in steps:
        alike[screen_hash(step.screen), step.text].append(step.changed)
    repeated = [labels for labels in alike.values() if len(labels) > 1]
    many = sum(map(len, repeated))
    rarer = sum(min(sum(labels), len(labels) - sum(labels)) for labels in repeated)
    changed = sum(step.changed for step in steps)
    return {
        "changed": changed,
        "unchanged": len(steps) - changed,
        "idle": len(idle),
        "idle_changed": sum(idle) / len(idle) if idle else None,
        "repeated": many,
        "contradicted": rarer / many if many else None,
    }
