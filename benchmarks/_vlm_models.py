"""Random models of the LLaVA-1.5 shape, and prompts for them: their speed is that of trained ones of their size."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from digiq_ray.core.policies import ActRequest
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.tiny import make_vlm

WORDS = ("open", "the", "settings", "mail", "and", "buy", "a", "red", "mug", "at", "shop", *map(str, range(64)))


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model; the image is 336 pixels wide in patches of 14, which makes LLaVA-1.5's 576 tokens."""

    vision: int
    vision_layers: int
    hidden: int
    layers: int
    head: int


SHAPES = {
    "mid": Shape(vision=256, vision_layers=4, hidden=512, layers=8, head=64),
    "2b": Shape(vision=1024, vision_layers=24, hidden=2048, layers=32, head=64),
    "7b": Shape(vision=1024, vision_layers=24, hidden=4096, layers=32, head=128),
}


def random_vlm(shape: Shape) -> Vlm:
    """A random model."""
    return make_vlm(
        WORDS,
        image=336,
        patch=14,
        vision=shape.vision,
        vision_layers=shape.vision_layers,
        hidden=shape.hidden,
        layers=shape.layers,
        head=shape.head,
        room=1024,
    )


def parameters(vlm: Vlm) -> int:
    """How many a model has."""
    return sum(weight.numel() for weight in vlm.model.parameters())


def save_random(shape: Shape, directory: Path, dtype: torch.dtype) -> int:
    """Saves a random model; returns how many parameters it has."""
    vlm = random_vlm(shape)
    vlm.model.to(dtype)
    vlm.save(directory)
    return parameters(vlm)


def requests(count: int, start: int) -> list[ActRequest]:
    """States that differ in screen, task and history from those of any other ``start``: nothing is cached for them."""
    made = []
    for number in range(start, start + count):
        rng = np.random.default_rng(number)
        encoded = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (768, 384, 3), dtype=np.uint8)).save(encoded, "PNG")
        task = " ".join(rng.choice(WORDS, 12))
        made.append(ActRequest(encoded.getvalue(), task, ("tap 0.50 0.20",), seed=number))
    return made


def actions(count: int, seed: int) -> list[str]:
    """Different action texts."""

    def texts() -> Iterator[str]:
        for place in np.random.default_rng(seed).permutation(51 * 51)[:count]:
            yield f"tap {place // 51 / 50:.2f} {place % 51 / 50:.2f}"

    return list(texts())
