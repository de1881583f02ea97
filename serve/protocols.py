"""What serving asks of a model, whether vLLM or Transformers runs it.

Two engines, because they hold different weights: the policy, which is updated while it serves, and the frozen
features. Both are asked concurrently and batch by themselves. An answer says which policy version gave it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


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
