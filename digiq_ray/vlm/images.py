"""From an encoded screenshot to the model's image tensors: one transform, with nothing cropped away.

CLIP's own preparation cuts a tall screenshot down to its middle. Here the whole screen is kept: ``letterbox`` pads it
to a square first, ``stretch`` resizes it whole to what the model takes. Processors that take pictures of any shape
(Qwen-VL, LLaVA-NeXT, Idefics) get it as it is. What was done is part of the fingerprint.
"""

from __future__ import annotations

import enum
import hashlib
import io
import struct
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from digiq_ray.core.errors import InputError

MAX_PIXELS = 50_000_000
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


class Fit(enum.StrEnum):
    """How a screenshot is fitted to the model's input."""

    LETTERBOX = "letterbox"
    STRETCH = "stretch"


def decode(screen: bytes) -> Image.Image:
    """The RGB picture in ``screen``.

    Raises:
        InputError: not a PNG, JPEG, WebP, GIF or BMP image, truncated, or more than ``MAX_PIXELS`` pixels.
    """
    try:
        image = Image.open(io.BytesIO(screen), formats=_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise InputError(f"a screenshot of {image.width} x {image.height} pixels is over the limit of {MAX_PIXELS}")
        return image.convert("RGB")
    except Image.DecompressionBombError as error:
        raise InputError(f"a screenshot is over the limit of {MAX_PIXELS} pixels: {error}") from error
    except UnidentifiedImageError as error:
        raise InputError(f"a screenshot of {len(screen)} bytes is not a whole image of a known format") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise InputError(f"a screenshot of {len(screen)} bytes is not a whole image: {error}") from error


def letterbox(image: Image.Image, fill: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    """``image`` in the middle of the smallest square that holds it."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), fill)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


class ScreenTransform:
    """Prepares screenshots with a model's own image processor.

    Processors that end in one normalised picture ``[3, H, W]`` of a fixed size (CLIP, SigLIP: the LLaVA family) are run
    up to the resized bytes, which is what is kept in memory; normalisation follows a batch at a time. Others run whole.

    Args:
        image_processor: Of the model.
        fit: How a screenshot is brought to a fixed size; without meaning for processors that take any shape.
        arguments: What the model accepts of the processor's output; by default everything.
    """

    def __init__(self, image_processor: Any, fit: Fit, arguments: Collection[str] | None = None) -> None:
        self._processor, self.fit, self._arguments = image_processor, fit, arguments
        self._size = self._fixed_size()

    @property
    def description(self) -> str:
        """Everything that decides the pixels: part of a feature's fingerprint."""
        if self._size is None:
            digest = hashlib.blake2b(self._processor.to_json_string().encode(), digest_size=8).hexdigest()
            return f"as it is; {type(self._processor).__name__} {digest}"
        names = ("size", "crop_size", "do_center_crop", "resample", "image_mean", "image_std", "rescale_factor")
        return f"{self.fit}; " + "; ".join(f"{n}={getattr(self._processor, n, None)}" for n in names)

    def prepare(self, screen: bytes) -> dict[str, torch.Tensor]:
        """One screenshot as what ``batch`` takes: ``pixel_values``, uint8 ``[3, H, W]`` for a fixed size.

        Otherwise the processor's output, and the picture's width and height as ``screen_size``.

        Raises:
            InputError: not an image, or one that the model's processor refuses.
        """
        image = decode(screen)
        if self._size is None:
            return {**self._process(image), "screen_size": torch.tensor(image.size)}
        width, height = self._size
        if self.fit is Fit.STRETCH:
            image = image.resize((width, height), Image.Resampling.BOX)
            return {"pixel_values": torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())}
        size = {"height": height, "width": width}
        out = self._process(letterbox(image), size=size, do_center_crop=False, do_rescale=False, do_normalize=False)
        return {"pixel_values": out["pixel_values"][0].round().clamp(0, 255).to(torch.uint8)}

    def batch(self, prepared: list[dict[str, torch.Tensor]], dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """The model's image arguments for a batch of prepared screens."""
        if self._size is None:
            names = [name for name in prepared[0] if name != "screen_size"]
            joined = {name: _join([one[name] for one in prepared]) for name in names}
            return {name: value.to(dtype) if value.is_floating_point() else value for name, value in joined.items()}
        pixels = torch.stack([one["pixel_values"] for one in prepared]).to(torch.float32)
        mean = torch.tensor(self._processor.image_mean).view(1, 3, 1, 1)
        std = torch.tensor(self._processor.image_std).view(1, 3, 1, 1)
        scale = self._processor.rescale_factor
        return {"pixel_values": pixels.mul_(scale).sub_(mean).div_(std).to(dtype)}

    def _process(self, image: Image.Image, **changes: Any) -> dict[str, torch.Tensor]:
        try:
            out = self._processor(images=[image], return_tensors="pt", **changes)
        except ValueError as error:
            size = f"{image.width} x {image.height}"
            raise InputError(f"the model cannot take a screenshot of {size} pixels: {error}") from error
        return {name: value for name, value in out.items() if self._arguments is None or name in self._arguments}

    def _fixed_size(self) -> tuple[int, int] | None:
        """Width and height of the one picture that the processor makes of any screenshot; ``None`` if it does not."""
        if not all(getattr(self._processor, name, False) for name in ("do_resize", "do_rescale", "do_normalize")):
            return None
        outs = [self._process(Image.new("RGB", size)) for size in ((96, 192), (400, 300))]
        shapes = {tuple(out["pixel_values"].shape) for out in outs}
        shape = shapes.pop()
        if shapes or len(shape) != 4 or shape[:2] != (1, 3) or any(set(out) != {"pixel_values"} for out in outs):
            return None
        return shape[3], shape[2]


def _join(parts: list[torch.Tensor]) -> torch.Tensor:
    """Parts one after the other along the first axis, padded with zeros where their other axes differ."""
    largest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    if all(list(part.shape[1:]) == largest for part in parts):
        return torch.cat(parts)
    joined = parts[0].new_zeros((sum(len(part) for part in parts), *largest))
    row = 0
    for part in parts:
        joined[(slice(row, row + len(part)), *(slice(0, length) for length in part.shape[1:]))] = part
        row += len(part)
    return joined
