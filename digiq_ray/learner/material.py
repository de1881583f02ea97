"""What every method extracts a policy from, and what it extracts: states with an action to imitate, and its weight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from digiq_ray.learner.data import EpisodeOutline, FeatureIndex, StateKey, candidates_by_state, learnable, outlines
from digiq_ray.learner.paths import RunPaths
from digiq_ray.learner.pins import PinnedStores
from digiq_ray.policy.best_of_n import StateCandidates

Targets = dict[StateKey, str]


@dataclass(frozen=True, slots=True)
class Material:
    """The episodes of a run that can be learned from, their candidates, where the features are, and the stores."""

    episodes: list[EpisodeOutline]
    candidates: Mapping[StateKey, StateCandidates]
    index: FeatureIndex
    stores: PinnedStores

    @classmethod
    def open(cls, root: Path) -> Self:
        """That of the run in ``root``.

        Raises:
            StoreError: there is nothing to learn from.
        """
        stores = PinnedStores.open(RunPaths(root))
        index = FeatureIndex.open(stores.paths.features, stores.snapshots)
        found = learnable(outlines(stores.episodes), candidates_by_state(stores.candidates), index)
        return cls(*found, index, stores)

    def executed(self, episodes: Iterable[EpisodeOutline] | None = None) -> Iterator[tuple[StateKey, str]]:
        """States and what was done there, of all episodes or of some, where that is an action of the grammar."""
        for episode in self.episodes if episodes is None else episodes:
            for step, text in enumerate(episode.actions):
                options = self.candidates[episode.episode_id, step]
                if (text, True) in zip(options.texts, options.valid, strict=True):
                    yield (episode.episode_id, step), text


@dataclass(frozen=True, slots=True)
class Extraction:
    """What a method imitates in which states, the weights of those where it is not 1, and figures about the choice."""

    targets: Targets
    weights: Mapping[StateKey, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def weight(self, key: StateKey) -> float:
        """Of what is imitated in a state."""
        return self.weights.get(key, 1.0)
