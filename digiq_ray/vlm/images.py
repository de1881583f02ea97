"""From an encoded screenshot to the model's image tensors: one transform, with nothing cropped away.

CLIP's own preparation cuts a tall screenshot down to its middle. Here the whole screen is kept: ``letterbox`` pads it
to a square first, ``stretch`` resizes it whole to what the model takes. Which one was used is part of the fingerprint.
"""

from __future__ import annotations

import enum
import io
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from digiq_ray.core.errors import InputError

MAX_PIXELS = 50_000_000


class Fit(enum.StrEnum):
    """How a screenshot is fitted to the model's input."""

    LETTERBOX = "letterbox"
    STRETCH = "stretch"


def decode(screen: bytes) -> Image.Image:
    """The RGB picture in ``screen``.

    Raises:
        InputError: not an image, truncated, or more than ``MAX_PIXELS`` pixels.
    """
    try:
        image = Image.open(io.BytesIO(screen))
        if image.width * image.height > MAX_PIXELS:
            raise InputError(f"a screenshot of {image.width} x {image.height} pixels is over the limit of {MAX_PIXELS}")
        return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise InputError(f"a screenshot of {len(screen)} bytes is not a whole image: {error}") from error


def letterbox(image: Image.Image, fill: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    """``image`` in the middle of the smallest square that holds it."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), fill)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


class ScreenTransform:
    """Prepares screenshots with a model's own image processor, after ``fit``.

    Processors that end in one normalised picture of ``[3, H, W]`` (CLIP, SigLIP: the LLaVA family) are run up to the
    resized bytes, which is what is kept in memory; normalisation follows a batch at a time. Others run whole.
    """

    def __init__(self, image_processor: Any, fit: Fit) -> None:
        self._processor, self.fit = image_processor, fit
        size = getattr(image_processor, "size", None) or {}
        self._plain = all(hasattr(image_processor, name) for name in ("image_mean", "image_std", "rescale_factor"))
        self._plain = self._plain and ("height" in size or "shortest_edge" in size) and "patch" not in repr(size)
        self._plain = self._plain and not hasattr(image_processor, "patch_size")

    @property
    def description(self) -> str:
        """Everything that decides the pixels: part of a feature's fingerprint."""
        names = ("size", "crop_size", "do_center_crop", "resample", "image_mean", "image_std", "rescale_factor")
        return f"{self.fit}; " + "; ".join(f"{n}={getattr(self._processor, n, None)}" for n in names)

    def prepare(self, screen: bytes) -> dict[str, torch.Tensor]:
        """One screenshot as what ``batch`` takes. uint8 ``[3, H, W]`` for the plain family."""
        image = decode(screen)
        if self.fit is Fit.LETTERBOX:
            image = letterbox(image)
        if not self._plain:
            return dict(self._processor(images=[image], return_tensors="pt"))
        size = self._processor.size
        if self.fit is Fit.STRETCH and "height" in size:
            image = image.resize((size["width"], size["height"]), Image.Resampling.BOX)
            return {"pixel_values": torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())}
        out = self._processor(images=[image], do_rescale=False, do_normalize=False, return_tensors="pt")
        return {"pixel_values": out["pixel_values"][0].round().clamp(0, 255).to(torch.uint8)}

    def batch(self, prepared: list[dict[str, torch.Tensor]], dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """The model's image arguments for a batch of prepared screens."""
        if not self._plain:
            return {
                name: torch.cat([one[name] for one in prepared]).to(dtype)
                if prepared[0][name].is_floating_point()
                else torch.cat([one[name] for one in prepared])
                for name in prepared[0]
            }
        pixels = torch.stack([one["pixel_values"] for one in prepared]).to(torch.float32)
        mean = torch.tensor(self._processor.image_mean).view(1, 3, 1, 1)
        std = torch.tensor(self._processor.image_std).view(1, 3, 1, 1)
        scale = self._processor.rescale_factor
        return {"pixel_values": pixels.mul_(scale).sub_(mean).div_(std).to(dtype)}
