"""One simulated phone as a web page sees it: events in, frames out, in the order in which they arrive.

Each event is one call of the state machine and each frame lets one frame of time pass, exactly as in
``SimulatedDevice``, so that the same actions lead to the same screens.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from emulator_workers.simphone.phone import SimPhone
from emulator_workers.simphone.screens import render


class BadEvent(ValueError):
    """What the page sent is no event."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A frame as PNG, and whether text can be typed while it is shown."""

    png: bytes
    takes_text: bool


class PhoneSession:
    """A phone behind a lock. ``phone`` may be replaced between two episodes.

    Args:
        scale: Pixels per unit of the 96 x 192 screen.
    """

    def __init__(self, scale: int = 1) -> None:
        self.scale = scale
        self._lock = threading.Lock()
        self._phone: SimPhone | None = None

    def show(self, phone: SimPhone | None) -> None:
        """Puts another phone behind the page; ``None`` switches it off."""
        with self._lock:
            self._phone = phone

    @property
    def phone(self) -> SimPhone | None:
        """The state machine, for judges and diagnosis."""
        return self._phone

    def event(self, event: Mapping[str, object]) -> bool:
        """Does what the page's user did; returns whether text can be typed now.

        Raises:
            BadEvent: it is no event.
        """
        with self._lock:
            if self._phone is not None:
                _apply(self._phone, event)
            return self._takes_text()

    def home(self) -> None:
        """The home key: the page was loaded."""
        with self._lock:
            if self._phone is not None:
                self._phone.press_home()

    def frame(self) -> Picture:
        """The next frame; black while there is no phone."""
        with self._lock:
            if self._phone is None:
                return Picture(_BLACK, False)
            self._phone.advance()
            encoded = io.BytesIO()
            render(self._phone, self.scale).save(encoded, "PNG", compress_level=1)
            return Picture(encoded.getvalue(), self._takes_text())

    def _takes_text(self) -> bool:
        """Whether the phone would take text, asked of a copy."""
        return self._phone is not None and self._phone.clone().type_text("")


def _apply(phone: SimPhone, event: Mapping[str, object]) -> None:
    match event:
        case {"kind": "tap", "at": [int() | float() as x, int() | float() as y]}:
            phone.tap(x, y)
        case {
            "kind": "swipe",
            "at": [int() | float() as x, int() | float() as y],
            "to": [int() | float() as x2, int() | float() as y2],
        }:
            phone.swipe(x, y, x2, y2)
        case {"kind": "type", "text": str(text)}:
            phone.type_text(text)
        case {"kind": "enter"}:
            phone.press_enter()
        case {"kind": "back"}:
            phone.press_back()
        case _:
            raise BadEvent(f"no event: {str(event)[:100]!r}")


def _black() -> bytes:
    from PIL import Image

    encoded = io.BytesIO()
    Image.new("RGB", (96, 192)).save(encoded, "PNG")
    return encoded.getvalue()


_BLACK = _black()
