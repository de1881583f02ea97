"""Looking at states with everything that was trained: candidates of the behaviour policy, their Q, V and novelty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from digiq_ray.core.actions import action_or_none
from digiq_ray.core.policies import ActRequest
from digiq_ray.core.settings import PolicySettings, RunSettings
from digiq_ray.critic.heads import Critic
from digiq_ray.critic.novelty import Novelty
from digiq_ray.learner.models import cached_extractor, cached_vlm, load_critic, load_novelty
from digiq_ray.learner.paths import RunPaths
from digiq_ray.policy.best_of_n import Choice, StateCandidates, best_of_n
from digiq_ray.vlm.sampling import sample


@dataclass(frozen=True, slots=True)
class StateReading:
    """A state before a critic has seen it: candidates, f(s) ``[state_dim]``, f(s, a) of each ``[n, action_dim]``."""

    candidates: StateCandidates
    state: torch.Tensor
    actions: torch.Tensor


@dataclass(frozen=True, slots=True)
class StateView:
    """One state as the critic sees it.

    Attributes:
        candidates: What was sampled.
        q: Q of each.
        v: V.
        novelty: How unlike the critic's training states it is, see ``critic.novelty``.
        best: What best-of-N would choose without a margin.
    """

    candidates: StateCandidates
    q: NDArray[np.float64]
    v: float
    novelty: float
    best: Choice


class StateReader:
    """The models of a run that need no critic: the behaviour policy and the frozen features."""

    def __init__(self, root: Path, settings: RunSettings) -> None:
        self._settings = settings
        self._policy = cached_vlm(settings.vlm.model)
        self._extractor = cached_extractor(
            str(RunPaths(root).model("feature_vlm")), settings.features.layer, settings.features.pooling
        )

    def read(self, states: Sequence[ActRequest], also: Sequence[str | None] | None = None) -> list[StateReading]:
        """A reading of each state; its seed decides the candidates.

        Args:
            states: The states.
            also: For each state a text that is read beside the candidates, if it is not one (with count 0).
        """
        size, extra = self._settings.vlm.batch, also or [None] * len(states)
        return [
            reading
            for start in range(0, len(states), size)
            for reading in self._batch(states[start : start + size], extra[start : start + size])
        ]

    def _batch(self, states: Sequence[ActRequest], also: Sequence[str | None]) -> list[StateReading]:
        settings = self._settings
        vlm = self._policy
        screens = [vlm.transform.prepare(state.screen) for state in states]
        prefixes = [vlm.prefix_ids(s, one.task, one.history) for s, one in zip(screens, states, strict=True)]
        drawn = sample(
            vlm,
            screens,
            prefixes,
            [state.seed for state in states],
            samples=settings.candidates.k,
            temperature=settings.candidates.temperature,
            max_tokens=settings.vlm.max_tokens,
        )
        options = [_candidates(samples, more) for samples, more in zip(drawn, also, strict=True)]
        of_states, of_actions = self._extractor.extract(screens, prefixes, [one.texts for one in options])
        return [StateReading(*one) for one in zip(options, of_states, of_actions, strict=True)]


def _candidates(samples: Sequence[tuple[str, float]], more: str | None) -> StateCandidates:
    counts, logprobs = Counter(text for text, _ in samples), dict(samples)
    texts = sorted({*counts, *([] if more is None else [more])})
    return StateCandidates(
        texts,
        [action_or_none(text) for text in texts],
        [counts[text] for text in texts],
        [logprobs.get(text) for text in texts],
    )


@torch.inference_mode()
def view(reading: StateReading, critic: Critic, novelty: Novelty, chosen: PolicySettings) -> StateView:
    """What a critic says about a state."""
    state = reading.state[None]
    q, v = critic.q(reading.actions).double().numpy(), float(critic.v(state)[0])
    best = best_of_n(
        reading.candidates,
        q,
        v,
        margin=-np.inf,
        min_support=chosen.min_support,
        radius=chosen.support_radius,
        min_probability=chosen.min_probability,
    )
    return StateView(reading.candidates, q, v, float(novelty(state)[0]), best)


class Probe:
    """The models of a run, ready to look at states."""

    def __init__(self, root: Path, settings: RunSettings) -> None:
        self._reader, self._chosen = StateReader(root, settings), settings.policy
        self._critic = load_critic(RunPaths(root).model("critic"))
        self._novelty = load_novelty(RunPaths(root).model("critic"))

    def look(self, states: Sequence[ActRequest], also: Sequence[str | None] | None = None) -> list[StateView]:
        """A view of each state; see ``StateReader.read``."""
        readings = self._reader.read(states, also)
        return [view(reading, self._critic, self._novelty, self._chosen) for reading in readings]
