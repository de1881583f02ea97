"""What the policy tests share: candidates by their texts, screens of one colour, and a VLM with few words."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import pytest
import torch
from PIL import Image

from digiq_ray.core.actions import Action, ParseError, parse_action
from digiq_ray.policy.best_of_n import StateCandidates
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.tiny import make_vlm

MakeCandidates = Callable[..., StateCandidates]
MakeState = Callable[[Vlm, tuple[int, int, int]], tuple[dict[str, torch.Tensor], list[int]]]


@pytest.fixture(scope="session")
def make_candidates() -> MakeCandidates:
    """Candidates from ``{text: how often it was drawn}``, and perhaps ``{text: probability}`` of some.

    Texts outside the grammar are unparsable.
    """

    def parsed(text: str) -> Action | None:
        try:
            return parse_action(text)
        except ParseError:
            return None

    def make(counts: dict[str, int], probabilities: dict[str, float] | None = None) -> StateCandidates:
        known = {text: math.log(share) for text, share in (probabilities or {}).items()}
        return StateCandidates(
            list(counts),
            [parsed(text) for text in counts],
            list(counts.values()),
            () if probabilities is None else [known.get(text) for text in counts],
        )

    return make


@pytest.fixture
def small_vlm() -> Vlm:
    """A random VLM that learns quickly; each test has its own."""
    return make_vlm(["red", "green", "shop"], hidden=48, layers=2, vision=32, vision_layers=1, seed=3)


@pytest.fixture(scope="session")
def make_state() -> MakeState:
    """Prepared screen and prefix of a state whose screen has one colour."""

    def make(vlm: Vlm, colour: tuple[int, int, int]) -> tuple[dict[str, torch.Tensor], list[int]]:
        encoded = io.BytesIO()
        Image.new("RGB", (96, 192), colour).save(encoded, "PNG")
        screen = vlm.transform.prepare(encoded.getvalue())
        return screen, vlm.prefix_ids(screen, "shop", ())

    return make
