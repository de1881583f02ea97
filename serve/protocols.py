"""What serving and the loops ask of a model, whether vLLM or Transformers runs it.

Serving asks two backends, because they hold different weights: the policy, which is updated while it serves, and the
frozen features. Both are asked concurrently and batch by themselves. An answer says which policy version gave it. The
loops ask an ``Engine``, which takes many states in one call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from digiq_ray.core.policies import ActRequest
from digiq_ray.store.fingerprint import Fingerprint


@dataclass(frozen=True, slots=True)
class State:
    """What an agent sees.

    Attributes:
        screen: Encoded image.
        task: The goal's text.
        history: Texts of the actions so far, oldest first.
    """

    screen: bytes
    task: str
    history: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How texts are drawn.

    Attributes:
        samples: How many.
        temperature: 0 takes the likeliest token each time.
        max_tokens: Most tokens of a text, with the one that ends it.
        seed: Decides the samples within one backend, version and machine.
    """

    samples: int = 1
    temperature: float = 1.0
    max_tokens: int = 64
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one sample's text, as it is generated.

    Attributes:
        sample: Which sample.
        text: What was added.
        logprob: Natural log-probability of the added tokens at the sampling temperature.
        tokens: How many were added.
        finish: ``stop`` (the model ended it) or ``length`` on the last piece, else ``None``.
        policy_version: Of the weights that wrote it.
        prompt_tokens: Length of the prompt, image included.
    """

    sample: int
    text: str
    logprob: float
    tokens: int
    finish: str | None
    policy_version: str
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Features:
    """Frozen features.

    Attributes:
        state: Of the state, ``[state_dim]``.
        actions: Of the state with each action, ``[n, action_dim]``.
        tokens: How many the model read for them, the image's included and the shared ones once.
    """

    state: NDArray[np.float32]
    actions: NDArray[np.float32]
    tokens: int


class PolicyBackend(Protocol):
    """A policy that samples."""

    @property
    def version(self) -> str:
        """Of the weights that the next request is answered with."""
        ...

    def act(self, state: State, sampling: Sampling) -> AsyncIterator[Piece]:
        """Samples actions in a state, with the model's own prompt."""
        ...

    def chat(self, text: str, screens: Sequence[bytes], sampling: Sampling) -> AsyncIterator[Piece]:
        """Answers a user's message: at most one image, then the text."""
        ...

    async def publish(self, version: str, checkpoint: str) -> None:
        """Replaces the weights by a saved model's; requests under way end on the version that they began with."""
        ...

    async def healthy(self) -> bool:
        """Whether the model answers; never raises."""
        ...

    async def close(self) -> None:
        """Ends the model and what it started."""
        ...


class FeatureBackend(Protocol):
    """Frozen features."""

    async def features(self, state: State, actions: Sequence[str]) -> Features:
        """Features of a state, and of it with each action."""
        ...

    async def healthy(self) -> bool:
        """Whether the model answers; never raises."""
        ...

    async def close(self) -> None:
        """Ends the model and what it started."""
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """What cannot be answered for one state (its screen is no image, say), in one line."""

    reason: str


Drawn = list[tuple[str, float]]
"""Sampled action texts of one state, with their log-probabilities at the sampling temperature."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Actions sampled in several states.

    Attributes:
        policy_version: Of the weights that wrote them.
        states: For each state, what was drawn.
    """

    policy_version: str
    states: list[Drawn | Failure]


@dataclass(frozen=True, slots=True)
class Reader:
    """What features are read from.

    Attributes:
        model: ``tiny``, a path or a Hugging Face id.
        layer, pooling: See ``vlm.features.FeatureExtractor``.
    """

    model: str
    layer: int
    pooling: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """Features of several states.

    Attributes:
        fingerprint: Of what read them.
        states: For each state, its features.
    """

    fingerprint: Fingerprint
    states: list[Features | Failure]


class Engine(Protocol):
    """Models for the loops: many states in one call, from threads that wait.

    Each call names its model, so an engine that was started again cannot answer with another one. It may be called
    again: what a seed decides does not depend on which states share a call.

    Every call raises:
        ModelError: the model cannot be loaded.
        WorkerLostError: the engine died, and died again each time that it was started.
        DeadlineExceededError: it did not answer within ``deadline`` seconds.
    """

    def sample(
        self, model: str, requests: Sequence[ActRequest], *, samples: int, temperature: float, deadline: float
    ) -> Samples:
        """``samples`` actions for each request; temperature 0 takes the likeliest token each time."""
        ...

    def embed(
        self, reader: Reader, states: Sequence[State], actions: Sequence[Sequence[str]], *, deadline: float
    ) -> Embedded:
        """Features of each state, and of it with each of its actions."""
        ...

    def close(self) -> None:
        """Ends the models and what they started."""
        ...
