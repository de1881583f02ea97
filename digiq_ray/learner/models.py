"""Models that stages hand to each other: published whole under their name, and loaded from there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from digiq_ray.core.errors import StoreError
from digiq_ray.core.settings import RunSettings
from digiq_ray.critic.heads import Critic, CriticShape
from digiq_ray.critic.novelty import Novelty
from digiq_ray.learner.directories import publish_directory
from digiq_ray.vlm.features import FeatureExtractor, Pooling
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.tiny import SHIPPED
from digiq_ray.vlm.tuning import held_in


def resolve(model: str) -> Path | str:
    """``tiny`` is the model that ships with the package; anything else is a path or a Hugging Face id."""
    return SHIPPED if model == "tiny" else model


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def trainable_vlm(settings: RunSettings) -> Vlm:
    """The behaviour policy's VLM, to be trained: on a GPU if this process has one, in the precision of its training."""
    device = _device()
    return Vlm.load(resolve(settings.vlm.model), device=device, dtype=held_in(settings.tuning, device))


@lru_cache(maxsize=2)
def cached_vlm(model: str) -> Vlm:
    """A VLM that is only read, on a GPU if this process has one, kept between the tasks of one process."""
    return Vlm.load(resolve(model), device=_device())


@lru_cache(maxsize=1)
def cached_extractor(model: str, layer: int, pooling: str) -> FeatureExtractor:
    """A feature extractor, kept between the tasks of one process."""
    return FeatureExtractor(Vlm.load(resolve(model), device=_device()), layer=layer, pooling=Pooling(pooling))


def save_critic(critic: Critic, novelty: Novelty, directory: Path) -> None:
    """Publishes a critic as safetensors, with its shape and the novelty of states to it beside it."""

    def write(hidden: Path) -> None:
        save_file(critic.state_dict(), hidden / "critic.safetensors")
        save_file(novelty.state_dict(), hidden / "novelty.safetensors")
        (hidden / "critic.json").write_text(json.dumps(critic.shape.to_json()))

    publish_directory(directory, write)


def load_critic(directory: Path) -> Critic:
    """The critic in ``directory``.

    Raises:
        StoreError: there is none, or it is broken.
    """
    with _readable("critic", directory):
        critic = Critic(_shape(directory))
        critic.load_state_dict(load_file(directory / "critic.safetensors"))
    return critic.eval()


def load_novelty(directory: Path) -> Novelty:
    """How far states are from those that the critic in ``directory`` was trained on.

    Raises:
        StoreError: that was not published, or is broken.
    """
    with _readable("novelty of states", directory):
        novelty = Novelty(_shape(directory).state_dim)
        novelty.load_state_dict(load_file(directory / "novelty.safetensors"))
    return novelty.eval()


def _shape(directory: Path) -> CriticShape:
    return CriticShape.from_json(json.loads((directory / "critic.json").read_text()))


@contextmanager
def _readable(what: str, directory: Path) -> Iterator[None]:
    """Whatever goes wrong in reading a part of a critic is a ``StoreError`` that says so."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:120]
        raise StoreError(f"there is no readable {what} in {directory} ({reason}); run digiq train-critic") from error
