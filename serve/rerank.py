"""Acting by the best of several samples: the policy proposes, the critic decides, and nothing is trained for it.

In a state that is too unlike those that the critic was trained on, the policy's first sample stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch

from digiq_ray.core.actions import action_or_none
from digiq_ray.core.errors import InputError
from digiq_ray.core.policies import ActRequest, ActResult
from digiq_ray.critic.heads import Critic
from digiq_ray.critic.novelty import Novelty
from digiq_ray.learner.models import load_critic, load_novelty
from digiq_ray.policy.best_of_n import StateCandidates, best_of_n
from serve.players import Rerank
from serve.protocols import Drawn, Engine, Failure, Features, State

Answer = TypeVar("Answer", Drawn, Features)


class RerankPolicy:
    """A ``Policy`` that takes the valid candidate with the highest Q.

    Where none is valid, or the state is too novel to the critic, it takes the first sample.

    Args:
        engine: Of this process, or an actor.
        model: What proposes: ``tiny``, a path or an id.
        temperature: Of the proposals.
        rerank: How they are judged.
        deadline: Most seconds for an answer, with loading the models.
    """

    def __init__(self, engine: Engine, *, model: str, temperature: float, rerank: Rerank, deadline: float) -> None:
        self._engine, self._model, self._temperature = engine, model, temperature
        self._rerank, self._deadline = rerank, deadline

    @cached_property
    def _critic(self) -> Critic:
        return load_critic(self._rerank.critic)

    @cached_property
    def _novelty(self) -> Novelty:
        return load_novelty(self._rerank.critic)

    def _is_too_novel(self, features: Features) -> bool:
        most = self._rerank.max_novelty
        if most == 1.0:
            return False
        with torch.inference_mode():
            return float(self._novelty(torch.from_numpy(features.state[None]))[0]) > most

    def act(self, requests: Sequence[ActRequest]) -> list[ActResult]:
        """The best of the samples for each request.

        Raises:
            InputError: a screen is no image that the models can read.
            StoreError: there is no readable critic.
            DigiQError: see ``Engine``.
        """
        found = self._engine.sample(
            self._model,
            requests,
            samples=self._rerank.samples,
            temperature=self._temperature,
            deadline=self._deadline,
        )
        drawn = [_answered(one) for one in found.states]
        texts = [sorted({text for text, _ in one}) for one in drawn]
        states = [State(one.screen, one.task, one.history) for one in requests]
        embedded = self._engine.embed(self._rerank.reader, states, texts, deadline=self._deadline)
        return [
            ActResult(*self._best(options, samples, _answered(features)), found.policy_version)
            for options, samples, features in zip(texts, drawn, embedded.states, strict=True)
        ]

    def _best(self, texts: Sequence[str], samples: Drawn, features: Features) -> tuple[str, float]:
        """Text and log-probability of the chosen sample."""
        if self._is_too_novel(features):
            return samples[0]
        counts, logprobs = Counter(text for text, _ in samples), dict(samples)
        candidates = StateCandidates(
            texts,
            [action_or_none(text) for text in texts],
            [counts[text] for text in texts],
            [logprobs[text] for text in texts],
        )
        with torch.inference_mode():
            q_values = self._critic.q(torch.from_numpy(features.actions)).double().numpy()
        chosen = best_of_n(
            candidates,
            q_values,
            0.0,
            margin=-np.inf,
            min_support=self._rerank.min_support,
            radius=self._rerank.radius,
            min_probability=self._rerank.min_probability,
        )
        if chosen.index is None:
            return samples[0]
        return texts[chosen.index], logprobs[texts[chosen.index]]


def _answered(one: Answer | Failure) -> Answer:
    if isinstance(one, Failure):
        raise InputError(one.reason)
    return one
