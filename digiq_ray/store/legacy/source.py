"""The stores that an export reads. Only episodes must be there; what else there is, is written too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from digiq_ray.core.errors import StoreError
from digiq_ray.store.candidates import Candidate, CandidateStore
from digiq_ray.store.content import StoreUnreachableError
from digiq_ray.store.directory import open_directory
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureKey, FeatureStore, FeatureView
from digiq_ray.store.legacy.places import Places, legacy_fingerprint

Store = TypeVar("Store")


@dataclass(frozen=True, slots=True)
class Source:
    """Stores of a run or of an import; ``None`` what is not there."""

    episodes: EpisodeStore
    candidates: CandidateStore | None
    states: FeatureView | None
    actions: FeatureView | None

    @classmethod
    def open(cls, places: Places) -> Source:
        """Opens what is there.

        Raises:
            StoreError: there is no episode store, or one of the stores is broken or out of reach.
        """
        return cls(
            EpisodeStore(places.episodes),
            _if_there(places.candidates, CandidateStore),
            _if_there(places.states, _features),
            _if_there(places.actions, _features),
        )

    def most_candidates(self) -> int:
        """Actions of the state with most of them, the executed one and every sample counted."""
        if self.candidates is None:
            return 0
        counts = self.candidates.table(["episode_id", "step", "multiplicity", "is_behaviour"])
        states = counts.group_by(["episode_id", "step"]).aggregate([("multiplicity", "sum"), ("is_behaviour", "any")])
        if not states.num_rows:
            return 0
        drawn = pc.add(states["multiplicity_sum"], pc.cast(states["is_behaviour_any"], "int64"))
        return int(pc.max(drawn).as_py())

    def candidates_of(self, episode_id: str, step: int) -> list[Candidate]:
        """The different candidates of a state, ascending by text; empty if there are none."""
        return [] if self.candidates is None else self.candidates.for_state(episode_id, step)

    def state_features(self, episode_id: str, observations: int) -> NDArray[Any] | None:
        """Features ``[observations, dim]`` of an episode, zeros where there is none; ``None`` without a store.

        Of two frames in one feature it is the last.
        """
        if self.states is None:
            return None
        found = _rows(self.states, [FeatureKey(episode_id, step, None) for step in range(observations)])
        stacked = self.states.fingerprint == legacy_fingerprint(stack=True)
        return found[:, found.shape[1] // 2 :] if stacked else found

    def action_features(self, episode_id: str, step: int, texts: Sequence[str]) -> NDArray[Any] | None:
        """Features ``[len(texts), dim]`` of actions at a state, zeros where there is none; ``None`` without a store."""
        if self.actions is None:
            return None
        return _rows(self.actions, [FeatureKey(episode_id, step, text) for text in texts])


def _rows(view: FeatureView, keys: Sequence[FeatureKey]) -> NDArray[Any]:
    rows = view.locate(keys)
    found = np.zeros((len(keys), view.dim), view.dtype)
    found[rows >= 0] = view.rows(rows[rows >= 0])
    return found


def _features(path: str) -> FeatureView | None:
    store = FeatureStore(path)
    return store.open() if store.shards() else None


def _if_there(path: str, opened: Callable[[str], Store | None]) -> Store | None:
    try:
        open_directory(path)
    except StoreUnreachableError:
        raise
    except StoreError:
        return None
    return opened(path)
