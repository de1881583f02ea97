"""What a policy is to everything that uses one: a batch of states in, a batch of action texts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ActRequest:
    """One state to act in.

    Attributes:
        screen: Encoded image.
        task: The goal's text.
        history: Texts of the actions so far, oldest first.
        seed: Decides the sample: the same request with the same seed gives the same action, in any batch.
    """

    screen: bytes
    task: str
    history: tuple[str, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class ActResult:
    """The sampled action text, its log-probability (natural, at the sampling temperature), and who sampled it."""

    text: str
    logprob: float
    policy_version: str


class Policy(Protocol):
    """Anything that acts. Order and length of the results are those of the requests."""

    def act(self, requests: Sequence[ActRequest]) -> list[ActResult]:
        """Samples one action for each request."""
        ...
