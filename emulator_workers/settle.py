"""Waiting until a screen has settled, instead of sleeping: frames are taken until the picture stands still.

``Settling`` is the logic alone: it is shown pictures with their times and says how long to wait for the next, or how
the wait ended. ``settle`` feeds it from a device. Regions where the picture moves by itself (the clock of the status
bar, spinners, a cursor) are left out; they are configured, or learned from frames between which nobody acted. What
bounds the wait is ``deadline_seconds`` for a picture that goes on moving, ``change_seconds`` for one that has not
changed since before the action, and ``blank_seconds`` for an empty one; the frame is then taken as it is, with a tag.
"""

from __future__ import annotations

import enum
import io
import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from digiq_ray.core.errors import InputError
from emulator_workers.devices.base import Frame

Picture = NDArray[np.int16]
"""Colours (0 to 255), height x width x 3, reduced so that a frame costs a few milliseconds."""

_LARGEST_SIDE = 320
_CHANGED_LEVELS = 12
_WHITE, _BLACK = 240, 12
_LAST_STRETCH = 1.5  # so much longer the pause before the last frame may be, rather than one more frame just before it


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle in shares of the screen's width and height, origin top left.

    Raises:
        InputError: it is empty or not on the screen.
    """

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        if not (0 <= self.left < self.right <= 1 and 0 <= self.top < self.bottom <= 1):
            raise InputError(f"a region is left, top, right, bottom in [0, 1] with left < right, not {self}")


class Tag(enum.StrEnum):
    """How a wait ended that did not end with a settled screen."""

    UNSETTLED = "unsettled"
    FROZEN = "frozen"
    BLANK = "blank"


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleSettings:
    """When a screen counts as settled.

    Attributes:
        stable_seconds: It has not changed for so long.
        poll_seconds: Least time between two frames; a slower device is asked as fast as it answers.
        deadline_seconds: Longest wait for a screen that moves.
        change_seconds: Longest wait for a first change after an action; 0 takes a screen as it is.
        blank_seconds: Longest wait for a screen that is white or black all over.
        blank_share: Share of pixels that makes a screen white or black.
        tolerance: Share of pixels that may differ between two frames that count as the same.
        ignore: Regions that are left out.
    """

    stable_seconds: float = 0.2
    poll_seconds: float = 0.05
    deadline_seconds: float = 5.0
    change_seconds: float = 0.6
    blank_seconds: float = 5.0
    blank_share: float = 0.99
    tolerance: float = 0.0005
    ignore: tuple[Region, ...] = ()


@dataclass(frozen=True, slots=True)
class Settled:
    """The frame that a wait ended with, how it ended (``None``: settled), and how many frames were looked at."""

    frame: Frame
    tag: Tag | None
    looks: int


def picture_of(image: bytes) -> Picture:
    """The reduced picture of an encoded image; raises what Pillow raises for a broken one."""
    with Image.open(io.BytesIO(image)) as opened:
        shown = opened.convert("RGB")
    factor = max(1, max(shown.size) // _LARGEST_SIDE)
    return np.asarray(shown.reduce(factor) if factor > 1 else shown, dtype=np.int16)


def differs(before: Picture, after: Picture) -> NDArray[np.bool_]:
    """Which pixels of two pictures of one size differ visibly (height x width)."""
    found: NDArray[np.bool_] = (np.abs(before - after) > _CHANGED_LEVELS).any(axis=-1)
    return found


def kept(shape: tuple[int, ...], ignore: Sequence[Region]) -> NDArray[np.bool_]:
    """Which pixels of a picture of ``shape`` (height, width, ...) are compared: those outside the regions."""
    height, width = shape[:2]
    mask = np.ones((height, width), dtype=np.bool_)
    for region in ignore:
        rows = slice(int(region.top * height), int(np.ceil(region.bottom * height)))
        mask[rows, int(region.left * width) : int(np.ceil(region.right * width))] = False
    return mask


def changed_share(before: Picture, after: Picture, ignore: Sequence[Region] = ()) -> float:
    """Share of the compared pixels that differ visibly; 1 for pictures of different sizes, 0 if none is compared."""
    if before.shape != after.shape:
        return 1.0
    mask = kept(before.shape, ignore)
    return float(differs(before, after)[mask].mean()) if mask.any() else 0.0


def is_blank(picture: Picture, settings: SettleSettings) -> bool:
    """Whether the picture, its ignored regions left out, is white or black all over."""
    shown = picture[kept(picture.shape, settings.ignore)]
    if not shown.size:
        return False
    share = max(float((shown > _WHITE).all(axis=-1).mean()), float((shown < _BLACK).all(axis=-1).mean()))
    return share >= settings.blank_share


def learn_regions(pictures: Sequence[Picture], *, columns: int = 16, rows: int = 32) -> tuple[Region, ...]:
    """Where pictures differ between which nobody acted, as runs of cells of a grid.

    Raises:
        InputError: there are fewer than two pictures, or they differ in size.
    """
    if len(pictures) < 2 or len({picture.shape for picture in pictures}) > 1:
        raise InputError("learning what moves by itself takes two or more frames of one size")
    height, width = (int(side) for side in np.shape(pictures[0])[:2])
    moved = np.zeros((height, width), dtype=np.bool_)
    for before, after in itertools.pairwise(pictures):
        moved |= differs(before, after)
    cells = sorted({(y * rows // height, x * columns // width) for y, x in map(tuple, np.argwhere(moved).tolist())})
    regions: list[Region] = []
    for row, group in itertools.groupby(cells, key=lambda cell: cell[0]):
        found = [column for _, column in group]
        for _, run in itertools.groupby(enumerate(found), key=lambda pair: pair[1] - pair[0]):
            span = [column for _, column in run]
            regions.append(Region(span[0] / columns, row / rows, (span[-1] + 1) / columns, (row + 1) / rows))
    return tuple(regions)


class Settling:
    """The logic of one wait, without a clock of its own.

    Args:
        settings: When a screen counts as settled.
        before: The picture before the action, if a change is expected.
        began: When the wait began, in the seconds of every later ``at``.
    """

    def __init__(self, settings: SettleSettings, before: Picture | None, began: float) -> None:
        self._settings, self._before, self._began = settings, before, began
        self._last: Picture | None = None
        self._since = began
        self._changed = before is None
        self.tag: Tag | None = None

    def look(self, picture: Picture, at: float, frame_seconds: float = 0.0) -> float | None:
        """Takes in a picture that was seen at ``at``; seconds until the next is asked for; ``None``: the wait is over.

        ``tag`` then says how the wait ended. A frame takes ``frame_seconds`` at least: the one that may end the wait is
        asked for so much sooner, so that it comes when the screen has been stable for long enough, not after.
        """
        settings, waited = self._settings, at - self._began
        if self._last is None or changed_share(self._last, picture, settings.ignore) > settings.tolerance:
            self._since = at
        self._last = picture
        if not self._changed and self._before is not None:
            self._changed = changed_share(self._before, picture, settings.ignore) > 0
        stable_at = self._since + settings.stable_seconds
        if is_blank(picture, settings):
            return self._until(Tag.BLANK, waited, settings.blank_seconds)
        if not self._changed and waited < settings.change_seconds:
            return self._until(Tag.FROZEN, waited, settings.change_seconds)
        if at >= stable_at:
            self.tag = None if self._changed else Tag.FROZEN
            return None
        wait = self._until(Tag.UNSETTLED, waited, settings.deadline_seconds)
        if wait is None:
            return None
        last = max(0.0, stable_at - at - frame_seconds)
        return last if last <= _LAST_STRETCH * wait else wait

    def _until(self, tag: Tag, waited: float, limit: float) -> float | None:
        left = limit - waited
        self.tag = tag if left <= 0 else None
        return None if left <= 0 else min(self._settings.poll_seconds, left)


def settle(
    take: Callable[[], Frame],
    settings: SettleSettings,
    *,
    before: bytes | None = None,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], object] | None = None,
) -> Settled:
    """Takes frames until the screen has settled.

    Args:
        take: Gives a checked frame; what it raises ends the wait.
        settings: When a screen counts as settled.
        before: The encoded screen before an action that should change something.
        clock: Seconds that only go up.
        wait: Waits so many seconds; may return sooner.
    """
    pause = wait if wait is not None else threading.Event().wait
    state = Settling(settings, picture_of(before) if before is not None else None, clock())
    picture, shown, looks, quickest = None, b"", 0, math.inf
    while True:
        asked = clock()
        frame, looks = take(), looks + 1
        quickest = min(quickest, clock() - asked)
        if picture is None or frame.image != shown:
            picture, shown = picture_of(frame.image), frame.image
        left = state.look(picture, clock(), quickest)
        if left is None:
            return Settled(frame, state.tag, looks)
        if left > 0:
            pause(left)
