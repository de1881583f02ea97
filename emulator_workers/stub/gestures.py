"""What a sequence of W3C actions does to a phone: touches, swipes, texts and keys, in the order of their sources.

A finger that goes down and up without a move in between is a tap, however long it rests; one that is moved is a swipe
from its first to its last point. Durations are left out: the simulated phone knows no time within a touch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ENTER_KEYS = ("\ue006", "\ue007", "\n")
_SPECIAL = ("\ue000", "\uf8ff")


class BadActionsError(ValueError):
    """What was sent is no sequence of actions."""


class OutOfBoundsError(ValueError):
    """A finger goes where there is no screen."""


@dataclass(frozen=True, slots=True)
class Tap:
    """A touch, in pixels."""

    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Swipe:
    """A finger that is moved, in pixels."""

    x: int
    y: int
    x2: int
    y2: int


@dataclass(frozen=True, slots=True)
class Text:
    """Keys that write something."""

    text: str


@dataclass(frozen=True, slots=True)
class Enter:
    """The enter key."""


Gesture = Tap | Swipe | Text | Enter


def gestures(sources: Sequence[Mapping[str, Any]], width: int, height: int) -> list[Gesture]:
    """The gestures of all sources, one source after the other.

    Args:
        sources: The value of ``actions`` in a W3C request.
        width, height: Of the screen in pixels.

    Raises:
        BadActionsError: they are no actions.
        OutOfBoundsError: a finger leaves the screen.
    """
    found: list[Gesture] = []
    try:
        for source in sources:
            if source["type"] == "pointer":
                found += _strokes(source["actions"], width, height)
            elif source["type"] == "key":
                found += _keys(source["actions"])
    except (KeyError, TypeError, AttributeError) as error:
        raise BadActionsError(f"no W3C actions: {error!r}") from error
    return found


def _strokes(actions: Sequence[Mapping[str, Any]], width: int, height: int) -> Iterator[Gesture]:
    at, down = (0, 0), None
    moved = False
    for action in actions:
        match action["type"]:
            case "pointerMove":
                at = _target(action, at)
                if not (0 <= at[0] < width and 0 <= at[1] < height):
                    raise OutOfBoundsError(f"{at} is not on the screen of {width} x {height} pixels")
                moved = down is not None
            case "pointerDown":
                down, moved = at, False
            case "pointerUp" if down is not None:
                yield Swipe(*down, *at) if moved else Tap(*down)
                down = None


def _target(action: Mapping[str, Any], at: tuple[int, int]) -> tuple[int, int]:
    x, y = int(action["x"]), int(action["y"])
    match action.get("origin", "viewport"):
        case "viewport":
            return x, y
        case "pointer":
            return at[0] + x, at[1] + y
        case origin:
            raise BadActionsError(f"a move from {origin!r} is not known here: give viewport coordinates")


def _keys(actions: Sequence[Mapping[str, Any]]) -> Iterator[Gesture]:
    text = ""
    for value in (action["value"] for action in actions if action["type"] == "keyDown"):
        if value in ENTER_KEYS:
            if text:
                yield Text(text)
            text = ""
            yield Enter()
        elif not _SPECIAL[0] <= value <= _SPECIAL[1]:
            text += value
    if text:
        yield Text(text)
