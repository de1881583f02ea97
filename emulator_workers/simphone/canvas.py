"""A drawing surface in units of the 96 x 192 screen, at any scale: small for the agent, sharp for a person."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from emulator_workers.simphone.style import RGB
from emulator_workers.simphone.world import HEIGHT, WIDTH

Box = tuple[float, float, float, float]
_LONGEST_TEXT = 100


@functools.lru_cache(maxsize=64)
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@functools.lru_cache(maxsize=4096)
def _text_mask(text: str, size: float) -> tuple[Image.Image, tuple[int, int]]:
    left, top, right, bottom = (int(v) for v in _font(size).getbbox(text))
    mask = Image.new("L", (max(1, right - left), max(1, bottom - top)), 0)
    ImageDraw.Draw(mask).text((-left, -top), text, font=_font(size), fill=255)
    return mask, (left, top)


class Canvas:
    """Draws shapes whose coordinates are in units; one unit is ``scale`` pixels."""

    def __init__(self, scale: int, background: RGB) -> None:
        self.scale = scale
        self.image = Image.new("RGB", (WIDTH * scale, HEIGHT * scale), background)
        self._draw = ImageDraw.Draw(self.image)

    def _box(self, box: Box) -> list[float]:
        s = self.scale
        return [box[0] * s, box[1] * s, box[2] * s - 1, box[3] * s - 1]

    def rect(self, box: Box, fill: RGB | None = None, outline: RGB | None = None, width: float = 1) -> None:
        """A rectangle; the right and bottom edges are exclusive."""
        self._draw.rectangle(self._box(box), fill=fill, outline=outline, width=max(1, round(width * self.scale)))

    def ellipse(self, box: Box, fill: RGB | None = None, outline: RGB | None = None, width: float = 1) -> None:
        """An ellipse inside ``box``."""
        self._draw.ellipse(self._box(box), fill=fill, outline=outline, width=max(1, round(width * self.scale)))

    def arc(self, box: Box, start: float, end: float, fill: RGB, width: float) -> None:
        """An arc inside ``box``; angles in degrees, clockwise from three o'clock."""
        self._draw.arc(self._box(box), start, end, fill=fill, width=max(1, round(width * self.scale)))

    def polygon(self, points: Sequence[tuple[float, float]], fill: RGB, outline: RGB | None = None) -> None:
        """A closed polygon; its outline is one unit wide."""
        scaled = [(x * self.scale, y * self.scale) for x, y in points]
        self._draw.polygon(scaled, fill=fill, outline=outline, width=self.scale)

    def text(self, x: float, y: float, text: str, size: float, fill: RGB) -> None:
        """Text with its top left corner at ``(x, y)``; what cannot be on the screen any more is left out."""
        if text:
            mask, (left, top) = _text_mask(text[:_LONGEST_TEXT], size * self.scale)
            self.image.paste(fill, (round(x * self.scale) + left, round(y * self.scale) + top), mask)
