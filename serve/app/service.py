"""What the server does, without HTTP: samples, features and values from the two backends and the critic, in time."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from digiq_ray.core.actions import Action, action_or_none
from digiq_ray.core.errors import DeadlineExceededError
from digiq_ray.critic.heads import Critic
from digiq_ray.critic.novelty import Novelty
from digiq_ray.policy.best_of_n import StateCandidates, best_of_n
from serve.app.errors import ApiError
from serve.app.metrics import Metrics
from serve.app.settings import Limits
from serve.protocols import FeatureBackend, Features, Piece, PolicyBackend, Sampling, State

POLICY, FEATURES = "digiq-policy", "digiq-features"


@dataclass(slots=True)
class Sample:
    """One whole sample."""

    pieces: list[Piece] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def logprob(self) -> float:
        """Of the whole."""
        return sum(piece.logprob for piece in self.pieces)

    @property
    def tokens(self) -> int:
        """How many."""
        return sum(piece.tokens for piece in self.pieces)

    @property
    def finish(self) -> str:
        """``stop`` or ``length``."""
        return self.pieces[-1].finish or "length"


@dataclass(frozen=True, slots=True)
class Samples:
    """All samples of a request, in their order."""

    samples: list[Sample]
    policy_version: str
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """A distinct action among samples: how often it was drawn, its log-probability, and what it means (if anything)."""

    text: str
    count: int
    logprob: float
    action: Action | None


@dataclass(frozen=True, slots=True)
class Values:
    """Q of actions ``[n]``, V of the state, and how unlike the critic's training states it is (0 to 1)."""

    q: NDArray[np.float64]
    v: float
    novelty: float


def seed_from(given: int | None) -> int:
    """A seed for the backends: non-negative; at random where none was given."""
    return secrets.randbits(63) if given is None else given % 2**63


def distinct(samples: Sequence[Sample]) -> list[Drawn]:
    """The distinct texts of samples, the most frequent first, then in the order drawn."""
    texts = [sample.text.strip() for sample in samples]
    logprobs = {text: sample.logprob for text, sample in zip(reversed(texts), reversed(samples), strict=True)}
    return [Drawn(text, count, logprobs[text], action_or_none(text)) for text, count in Counter(texts).most_common()]


class Service:
    """Everything behind the routes.

    Args:
        policy: Samples.
        features: Reads features; ``None`` where there are none.
        critic: Q and V; ``None`` where there is none.
        novelty: Of states to the critic; ``None`` where there is no critic.
        lacking: Why there are none.
        limits: Of requests.
        metrics: What is counted.
    """

    def __init__(
        self,
        *,
        policy: PolicyBackend,
        features: FeatureBackend | None,
        critic: Critic | None,
        novelty: Novelty | None,
        lacking: str,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self.policy, self.limits, self.metrics = policy, limits, metrics
        self._features, self._critic, self._novelty, self.lacking = features, critic, novelty, lacking

    @property
    def models(self) -> list[str]:
        """Names of the models that are served."""
        return [POLICY, *([FEATURES] if self._features is not None else [])]

    @property
    def has_critic(self) -> bool:
        """Whether there are Q and V."""
        return self._critic is not None

    def check_model(self, name: str, wanted: str) -> None:
        """Refuses a model that is not served, or that does something else.

        Raises:
            ApiError: 404 or 400; the message names what is served.
        """
        if name not in self.models:
            if name == FEATURES:
                raise ApiError(404, f"there is no model {FEATURES} here: {self.lacking}", code="model_not_found")
            served = ", ".join(self.models)
            raise ApiError(404, f"there is no such model; served are: {served}", param="model", code="model_not_found")
        if name != wanted:
            raise ApiError(400, f"this endpoint is answered by the model {wanted}", param="model")

    async def timely(self, pieces: AsyncIterator[Piece]) -> AsyncGenerator[Piece, None]:
        """``pieces``, all within the deadline of a request.

        Raises:
            DeadlineExceededError: they took longer.
        """
        ends = asyncio.get_running_loop().time() + self.limits.deadline_seconds
        try:
            while True:
                async with asyncio.timeout_at(ends):
                    try:
                        piece = await anext(pieces)
                    except StopAsyncIteration:
                        return
                yield piece
        except TimeoutError as error:
            raise self._late() from error
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()

    async def whole(self, pieces: AsyncIterator[Piece], sampling: Sampling) -> Samples:
        """All samples of a request.

        Raises:
            DeadlineExceededError: they took longer than a request may.
        """
        found = [Sample() for _ in range(sampling.samples)]
        piece = None
        async with aclosing(self.timely(pieces)) as stream:
            async for piece in stream:
                found[piece.sample].pieces.append(piece)
        if piece is None or not all(sample.pieces for sample in found):
            raise AssertionError("the policy left a sample empty")
        self.metrics.tokens(prompt=piece.prompt_tokens, completion=sum(sample.tokens for sample in found))
        return Samples(found, piece.policy_version, piece.prompt_tokens)

    async def features(self, state: State, actions: Sequence[str]) -> Features:
        """Features of a state and its actions.

        Raises:
            ApiError: 404, there are none here.
            DeadlineExceededError: they took longer than a request may.
        """
        if self._features is None:
            raise ApiError(404, self.lacking, code="model_not_found")
        try:
            async with asyncio.timeout(self.limits.deadline_seconds):
                found = await self._features.features(state, actions)
        except TimeoutError as error:
            raise self._late() from error
        self.metrics.tokens(prompt=found.tokens, completion=0)
        return found

    async def values(self, state: State, actions: Sequence[str]) -> Values:
        """Q of actions in a state, V of the state, and its novelty.

        Raises:
            ApiError: 400, there is no critic here; the message says why.
            DeadlineExceededError: they took longer than a request may.
        """
        if self._critic is None or self._novelty is None:
            raise ApiError(400, f"there is no Q here: {self.lacking}", code="no_critic")
        found = await self.features(state, actions)
        with torch.inference_mode():
            q = self._critic.q(torch.from_numpy(found.actions)).double().numpy()
            of_state = torch.from_numpy(found.state[None])
            v, novelty = float(self._critic.v(of_state)[0]), float(self._novelty(of_state)[0])
        return Values(q, v, novelty)

    def best(self, drawn: Sequence[Drawn], values: Values) -> int | None:
        """Which of the candidates is valid and has the highest Q; ``None`` if none is valid."""
        candidates = StateCandidates(
            [one.text for one in drawn], [one.action for one in drawn], [one.count for one in drawn]
        )
        return best_of_n(candidates, values.q, values.v, margin=-np.inf, min_support=1, radius=0.0).index

    async def healthy(self) -> bool:
        """Whether all models answer."""
        return await self.policy.healthy() and (self._features is None or await self._features.healthy())

    async def close(self) -> None:
        """Ends the models."""
        await self.policy.close()
        if self._features is not None:
            await self._features.close()

    def _late(self) -> DeadlineExceededError:
        return DeadlineExceededError(f"the model did not answer in {self.limits.deadline_seconds:g} s")
