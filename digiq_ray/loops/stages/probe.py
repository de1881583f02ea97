"""Looking at states with everything that was trained: candidates of the behaviour policy, their Q, and V."""

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
from digiq_ray.core.settings import RunSettings
from digiq_ray.learner.models import cached_extractor, cached_vlm, load_critic
from digiq_ray.learner.paths import RunPaths
from digiq_ray.policy.best_of_n import Choice, StateCandidates, best_of_n
from digiq_ray.vlm.sampling import sample


@dataclass(frozen=True, slots=True)
class StateView:
    """One state as the critic sees it: candidates, Q of each, V, and what best-of-N would choose without a margin."""

    candidates: StateCandidates
    q: NDArray[np.float64]
    v: float
    best: Choice


class Probe:
    """The models of a run, ready to look at states."""

    def __init__(self, root: Path, settings: RunSettings) -> None:
        paths = RunPaths(root)
        self._settings = settings
        self._policy = cached_vlm(settings.vlm.model)
        self._critic = load_critic(paths.model("critic"))
        self._extractor = cached_extractor(
            str(paths.model("feature_vlm")), settings.features.layer, settings.features.pooling
        )

    def look(self, states: Sequence[ActRequest], also: Sequence[str | None] | None = None) -> list[StateView]:
        """A view of each state; its seed decides the candidates.

        Args:
            states: The states.
            also: For each state a text that is scored beside the candidates, if it is not one (with count 0).
        """
        size, extra = self._settings.vlm.batch, also or [None] * len(states)
        return [
            view
            for start in range(0, len(states), size)
            for view in self._batch(states[start : start + size], extra[start : start + size])
        ]

    def _batch(self, states: Sequence[ActRequest], also: Sequence[str | None]) -> list[StateView]:
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
        counts = [Counter(text for text, _ in samples) for samples in drawn]
        texts = [sorted({*one, *([] if more is None else [more])}) for one, more in zip(counts, also, strict=True)]
        of_states, of_actions = self._extractor.extract(screens, prefixes, texts)
        with torch.inference_mode():
            values = self._critic.v(of_states).tolist()
            q_values = [self._critic.q(rows).double().numpy() for rows in of_actions]
        views = []
        for names, count, q, v in zip(texts, counts, q_values, values, strict=True):
            options = StateCandidates(names, [action_or_none(name) for name in names], [count[name] for name in names])
            best = best_of_n(
                options,
                q,
                v,
                margin=-np.inf,
                min_support=settings.policy.min_support,
                radius=settings.policy.support_radius,
            )
            views.append(StateView(options, q, v, best))
        return views
