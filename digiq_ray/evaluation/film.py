"""Film strips: what a policy saw and did, screen by screen, with the candidates that the critic ranked there.

Turns the views that a loop fills into what the page's template draws: images as data URIs, actions as shapes over
them, candidates sorted by Q with bars of their advantage. All strips of a page together stay within a budget of bytes:
screens that are larger than their share are made smaller, first as JPEG, then with fewer pixels.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from digiq_ray.core.errors import InputError
from digiq_ray.evaluation.wording import finite, number, percent

_BUDGET = 1_800_000  # bytes of all images of a page, before base64 makes four of three
_SMALLER = ((288, 80), (288, 60), (220, 55), (160, 50), (120, 40), (72, 30))  # widths, JPEG qualities
_MOST_CANDIDATES = 6
_UNIT = 100.0  # width of a screen in the overlay's coordinates


@dataclass(frozen=True, slots=True)
class CandidateView:
    """One candidate action of a state.

    Attributes:
        text: The action as the policy wrote it.
        x, y: Where it touches, in [0, 1] from the top left; ``None`` if it is no touch.
        q: Q of the candidate.
        advantage: Q minus V of the state.
        count: How often it was drawn.
        chosen: Whether best-of-N chose it.
    """

    text: str
    x: float | None
    y: float | None
    q: float
    advantage: float
    count: int
    chosen: bool


@dataclass(frozen=True, slots=True)
class FrameView:
    """One observation and what was done there.

    Attributes:
        image_png: Encoded screen (any format that Pillow reads).
        action_text: What the policy wrote; empty on the last observation.
        x, y, x2, y2: Where it touched and, for a swipe, where the finger was lifted, in [0, 1]; ``None`` if no touch.
        q, v: Q of the action and V of the state, if they are known.
        novelty: Share of the critic's training states that are less unusual than this one, if it is known.
        candidates: Candidates of the state, in any order; may be empty.
    """

    image_png: bytes
    action_text: str
    x: float | None = None
    y: float | None = None
    x2: float | None = None
    y2: float | None = None
    q: float | None = None
    v: float | None = None
    novelty: float | None = None
    candidates: Sequence[CandidateView] = ()


@dataclass(frozen=True, slots=True)
class FilmStrip:
    """One episode: a title (whose it is), the goal, how it ended in words and in short, and its frames."""

    title: str
    task: str
    outcome: str
    success: bool
    frames: Sequence[FrameView]


def strip_pages(strips: Sequence[FilmStrip]) -> list[dict[str, Any]]:
    """What the template draws for each strip that has a frame.

    Raises:
        InputError: a screen is not an image.
    """
    shown = [strip for strip in strips if strip.frames]
    share = _BUDGET // max(1, sum(len(strip.frames) for strip in shown))
    return [
        {
            "title": strip.title,
            "task": strip.task,
            "outcome": strip.outcome,
            "success": strip.success,
            "ranked": any(frame.candidates for frame in strip.frames),
            "frames": [_frame(frame, share, _widest_advantage(strip)) for frame in strip.frames],
        }
        for strip in shown
    ]


def data_uri(image: bytes, most_bytes: int) -> tuple[str, float]:
    """An encoded image as a data URI of about ``most_bytes`` bytes at most, and its height over its width.

    Raises:
        InputError: the bytes are not an image.
    """
    try:
        opened = Image.open(io.BytesIO(image))
        ratio = opened.height / opened.width
        mime = opened.get_format_mimetype() or "image/png"
        small = image
        for width, quality in _SMALLER if len(image) > most_bytes else ():
            mime, small = "image/jpeg", _jpeg(opened, width, quality)
            if len(small) <= most_bytes:
                break
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"a screen of a film strip is not an image ({error}): verify the store it is from") from error
    return f"data:{mime};base64,{base64.b64encode(small).decode()}", ratio


def _jpeg(image: Image.Image, width: int, quality: int) -> bytes:
    smaller = image.convert("RGB")
    smaller.thumbnail((width, width * 4))
    written = io.BytesIO()
    smaller.save(written, "JPEG", quality=quality, optimize=True)
    return written.getvalue()


def _frame(frame: FrameView, most_bytes: int, widest: float) -> dict[str, Any]:
    uri, ratio = data_uri(frame.image_png, most_bytes)
    height = _UNIT * ratio
    ranked = sorted(frame.candidates, key=lambda candidate: -candidate.q)
    kept = ranked[:_MOST_CANDIDATES]
    kept += [candidate for candidate in ranked[_MOST_CANDIDATES:] if candidate.chosen]
    return {
        "uri": uri,
        "height": round(height, 2),
        "action": frame.action_text,
        "ring": _point(frame.x, frame.y, height) if frame.x2 is None else None,
        "arrow": _arrow(frame, height),
        "touch": frame.x is not None,
        "dots": [
            {"at": point, "radius": round(1.6 + 0.9 * math.sqrt(candidate.count), 2), "good": candidate.advantage > 0}
            for candidate in ranked
            if (point := _point(candidate.x, candidate.y, height)) is not None
        ],
        "q": None if finite(frame.q) is None else number(frame.q),
        "v": None if finite(frame.v) is None else number(frame.v),
        "novelty": None if finite(frame.novelty) is None else percent(frame.novelty),
        "candidates": [_candidate(candidate, widest) for candidate in kept],
        "left_out": len(ranked) - len(kept),
    }


def _candidate(candidate: CandidateView, widest: float) -> dict[str, Any]:
    advantage = finite(candidate.advantage) or 0.0
    return {
        "text": candidate.text,
        "q": number(finite(candidate.q)),
        "advantage": ("+" if advantage >= 0.005 else "") + number(advantage),
        "good": advantage > 0,
        "length": round(50 * min(1.0, abs(advantage) / widest), 1),
        "count": candidate.count,
        "chosen": candidate.chosen,
    }


def _widest_advantage(strip: FilmStrip) -> float:
    found = [abs(finite(c.advantage) or 0.0) for frame in strip.frames for c in frame.candidates]
    return max(found, default=0.0) or 1.0


def _point(x: float | None, y: float | None, height: float) -> tuple[float, float] | None:
    return None if x is None or y is None else (round(x * _UNIT, 2), round(y * height, 2))


def _arrow(frame: FrameView, height: float) -> dict[str, Any] | None:
    """A line and the three corners of its head, in the overlay's coordinates."""
    start, end = _point(frame.x, frame.y, height), _point(frame.x2, frame.y2, height)
    if start is None or end is None:
        return None
    length = math.dist(start, end) or 1.0
    along = ((end[0] - start[0]) / length, (end[1] - start[1]) / length)
    neck = (end[0] - 9 * along[0], end[1] - 9 * along[1])
    corners = [
        end,
        (neck[0] - 5.5 * along[1], neck[1] + 5.5 * along[0]),
        (neck[0] + 5.5 * along[1], neck[1] - 5.5 * along[0]),
    ]
    return {"start": start, "neck": neck, "head": " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)}
