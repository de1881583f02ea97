"""What every method extracts a policy from, and what it extracts: states with an action to imitate, and its weight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from digiq_ray.learner.data import EpisodeOutline, FeatureIndex, FeatureViews, StateKey, blocks_of
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
    views: FeatureViews
    stores: PinnedStores

    @classmethod
    def open(cls, root: Path) -> Self:
        """That of the run in ``root``.

        Raises:
            StoreError: there is nothing to learn from.
        """
        stores = PinnedStores.open(RunPaths(root))
        views = FeatureViews.open(stores.paths.features, stores.snapshots)
        episodes: list[EpisodeOutline] = []
        candidates: dict[StateKey, StateCandidates] = {}
        index = FeatureIndex({}, {})
        for block in blocks_of(stores.episodes, stores.candidates, views, root):
            episodes += block.episodes
            candidates |= block.candidates
            index.states.update(block.index.states)
            index.actions.update(block.index.actions)
        return cls(episodes, candidates, index, views, stores)

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
