"""Bulk stages over shards of episodes: sampling candidates, and embedding states with their candidates.

A shard goes from store to store in one piece of work that may be repeated: where the shard is already, it costs a look
into the store and nothing else. The model is an engine's, wherever that runs; the screens of one shard are held in
memory. A state that the model cannot read gets no row, and is reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from digiq_ray.core.actions import Action, ParseError, parse_action
from digiq_ray.core.episodes import Episode
from digiq_ray.core.policies import ActRequest
from digiq_ray.core.rng import seed_of
from digiq_ray.store.candidates import Candidate, CandidateStore
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureKey, FeatureStore
from serve.protocols import Drawn, Engine, Failure, Features, Reader, State

_UNUSABLE = "the model gave zeros, NaN or infinity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Episodes that are worked on together; the name is the same whenever the stage is repeated."""

    name: str
    episode_ids: tuple[str, ...]


def make_shards(ids: Sequence[str], size: int) -> list[Shard]:
    """Sorted ids in groups of ``size``. A shard's name says its place and, as a hash, which episodes are in it."""
    ordered = sorted(ids)
    groups = [tuple(ordered[start : start + size]) for start in range(0, len(ordered), size)]
    return [
        Shard(name=f"{number:06d}-{seed_of(*group):016x}", episode_ids=group) for number, group in enumerate(groups)
    ]


@dataclass(slots=True)
class Done:
    """What was done for a shard, or for several.

    Attributes:
        states: How many states were worked on.
        failures: Why some were left out: how often each reason was given.
    """

    states: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, other: Done) -> None:
        """Adds what was done for others."""
        self.states += other.states
        self.failures += other.failures


class Work(Protocol):
    """What a bulk stage does to a shard."""

    def __call__(self, shard: Shard, engine: Engine) -> Done:
        """Does it; nothing if it was done before."""
        ...


@dataclass(frozen=True, slots=True)
class _Place:
    """A state of an episode: its screen and history, and where it is."""

    episode: Episode
    step: int
    state: State

    @classmethod
    def of(cls, episodes: EpisodeStore, shard: Shard, *, last: bool) -> list[_Place]:
        """All states of a shard, the episodes' last ones only if asked for."""
        found = []
        for episode in episodes.episodes(shard.episode_ids):
            texts = tuple(step.action_text or "" for step in episode.steps)
            for number, step in enumerate(episode.steps if last else episode.steps[:-1]):
                found.append(cls(episode, number, State(step.screen, episode.task.text, texts[:number])))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleWork:
    """Samples ``k`` actions in each state of a shard in which something was done.

    The executed action is among a state's candidates, with multiplicity 0 if it was not drawn again. What one state is
    given does not depend on the shard or the batch that it is in.

    Attributes:
        episodes, candidates: The stores.
        model: The behaviour policy.
        k, temperature: Of sampling.
        batch: States in one call of the engine.
        seed: Decides the samples, together with episode and step.
        deadline: Seconds for one call of the engine.
    """

    episodes: Path
    candidates: Path
    model: str
    k: int
    temperature: float
    batch: int
    seed: int
    deadline: float

    def __call__(self, shard: Shard, engine: Engine) -> Done:
        """See ``Work``."""
        store, done = CandidateStore(self.candidates), Done()
        if shard.name in store.shards():
            return done
        rows: list[Candidate] = []
        for part in _parts(_Place.of(EpisodeStore(self.episodes), shard, last=False), self.batch):
            requests = [
                ActRequest(one.state.screen, one.state.task, one.state.history, self._seed(one)) for one in part
            ]
            found = engine.sample(
                self.model, requests, samples=self.k, temperature=self.temperature, deadline=self.deadline
            )
            for place, drawn in zip(part, found.states, strict=True):
                if isinstance(drawn, Failure):
                    done.failures[drawn.reason] += 1
                else:
                    rows += self._rows(place, drawn, found.policy_version)
            done.states += len(part)
        store.append(shard.name, rows)
        return done

    def _seed(self, place: _Place) -> int:
        return seed_of("candidates", self.seed, place.episode.episode_id, place.step)

    def _rows(self, place: _Place, drawn: Drawn, policy_version: str) -> Iterator[Candidate]:
        executed = place.episode.steps[place.step].action_text or ""
        counts, logprobs = Counter(text for text, _ in drawn), dict(drawn)
        for text in sorted({*counts, executed}):
            action, problem = _parsed(text)
            yield Candidate(
                episode_id=place.episode.episode_id,
                step=place.step,
                action_text=text,
                action=action,
                parse_error=problem,
                multiplicity=counts[text],
                logprob=logprobs.get(text),
                is_behaviour=text == executed,
                policy_version=policy_version,
                temperature=self.temperature,
            )


def _parsed(text: str) -> tuple[Action | None, str | None]:
    try:
        return parse_action(text), None
    except ParseError as error:
        return None, str(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedWork:
    """Features of every state of a shard (the last ones too) and of each of its candidates, once.

    The shard of ``states`` is written last: where it is, ``actions`` is too.

    Attributes:
        episodes, candidates, features: The stores.
        reader: What features are read from.
        batch: States in one call of the engine.
        deadline: Seconds for one call of the engine.
    """

    episodes: Path
    candidates: Path
    features: Path
    reader: Reader
    batch: int
    deadline: float

    def __call__(self, shard: Shard, engine: Engine) -> Done:
        """See ``Work``."""
        actions_store, states_store = FeatureStore(self.features / "actions"), FeatureStore(self.features / "states")
        done, candidates = Done(), CandidateStore(self.candidates)
        if shard.name in states_store.shards():
            return done
        state_keys, state_rows, action_keys, action_rows = [], [], [], []
        for part in _parts(_Place.of(EpisodeStore(self.episodes), shard, last=True), self.batch):
            names = [(place.episode.episode_id, place.step) for place in part]
            texts = [[one.action_text for one in candidates.for_state(*name)] for name in names]
            found = engine.embed(self.reader, [place.state for place in part], texts, deadline=self.deadline)
            for name, options, features in zip(names, texts, found.states, strict=True):
                if isinstance(features, Failure) or not _usable(features):
                    done.failures[features.reason if isinstance(features, Failure) else _UNUSABLE] += 1
                    continue
                state_keys.append(FeatureKey(*name, None))
                state_rows.append(features.state)
                action_keys += [FeatureKey(*name, text) for text in options]
                action_rows.append(features.actions)
            done.states += len(part)
        if state_keys:
            actions_store.append(shard.name, action_keys, np.concatenate(action_rows), found.fingerprint)
            states_store.append(shard.name, state_keys, np.stack(state_rows), found.fingerprint)
        return done


def _usable(features: Features) -> bool:
    return all(np.isfinite(row).all() and row.any() for row in (features.state, *features.actions))


def _parts(places: Sequence[_Place], size: int) -> Iterator[Sequence[_Place]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]
