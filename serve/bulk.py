"""Bulk stages over shards of episodes: sampling candidates, and embedding states with their candidates.

Each function does one shard from store to store and may be repeated: a shard that is there already costs a look into
the store and nothing else. The model is kept between shards of one process; the screens of one shard are held in
memory. What runs them (a loop, Ray tasks) is the caller's choice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from digiq_ray.core.actions import Action, ParseError, parse_action
from digiq_ray.core.episodes import Episode
from digiq_ray.core.rng import seed_of
from digiq_ray.learner.models import cached_extractor, cached_vlm
from digiq_ray.store.candidates import Candidate, CandidateStore
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureKey, FeatureStore
from digiq_ray.store.fingerprint import Fingerprint
from digiq_ray.vlm.sampling import sample


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleWork:
    """What sampling needs to know beside the shard."""

    episodes: Path
    candidates: Path
    model: str
    k: int
    temperature: float
    max_tokens: int
    batch: int
    seed: int


def _histories(episode: Episode) -> list[tuple[str, ...]]:
    texts = tuple(step.action_text or "" for step in episode.steps)
    return [texts[:number] for number in range(len(texts))]


def _parsed(text: str) -> tuple[Action | None, str | None]:
    try:
        return parse_action(text), None
    except ParseError as error:
        return None, str(error)


def sample_shard(work: SampleWork, shard: Shard) -> int:
    """Samples ``k`` actions in each state of the shard in which something was done; returns how many states that were.

    The executed action is among a state's candidates, with multiplicity 0 if it was not drawn again. A shard that is
    there already gives 0.
    """
    store = CandidateStore(work.candidates)
    if shard.name in store.shards():
        return 0
    vlm = cached_vlm(work.model)
    states = [
        (episode, number, step.action_text or "", step.screen, history)
        for episode in EpisodeStore(work.episodes).episodes(shard.episode_ids)
        for number, (step, history) in enumerate(zip(episode.steps[:-1], _histories(episode), strict=False))
    ]
    rows: list[Candidate] = []
    for start in range(0, len(states), work.batch):
        part = states[start : start + work.batch]
        screens = [vlm.transform.prepare(screen) for _, _, _, screen, _ in part]
        prefixes = [
            vlm.prefix_ids(screen, episode.task.text, history)
            for screen, (episode, _, _, _, history) in zip(screens, part, strict=True)
        ]
        seeds = [seed_of("candidates", work.seed, episode.episode_id, number) for episode, number, *_ in part]
        drawn = sample(
            vlm,
            screens,
            prefixes,
            seeds,
            samples=work.k,
            temperature=work.temperature,
            max_tokens=work.max_tokens,
        )
        for (episode, number, executed, _, _), samples in zip(part, drawn, strict=True):
            counts, logprobs = Counter(text for text, _ in samples), dict(samples)
            for text in sorted({*counts, executed}):
                action, problem = _parsed(text)
                rows.append(
                    Candidate(
                        episode_id=episode.episode_id,
                        step=number,
                        action_text=text,
                        action=action,
                        parse_error=problem,
                        multiplicity=counts[text],
                        logprob=logprobs.get(text),
                        is_behaviour=text == executed,
                        policy_version=vlm.version,
                        temperature=work.temperature,
                    )
                )
    store.append(shard.name, rows)
    return len(states)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedWork:
    """What embedding needs to know beside the shard."""

    episodes: Path
    candidates: Path
    features: Path
    model: str
    layer: int
    pooling: str
    batch: int


def embed_shard(work: EmbedWork, shard: Shard) -> int:
    """Features of every state of the shard (the last ones too) and of its candidates; returns how many features.

    A shard that is there already gives 0. The shard of ``states`` is written last: where it is, ``actions`` is too.
    """
    actions_store, states_store = FeatureStore(work.features / "actions"), FeatureStore(work.features / "states")
    if shard.name in states_store.shards():
        return 0
    extractor = cached_extractor(work.model, work.layer, work.pooling)
    vlm = extractor.vlm
    candidates = CandidateStore(work.candidates)
    states = []
    for episode in EpisodeStore(work.episodes).episodes(shard.episode_ids):
        for number, (step, history) in enumerate(zip(episode.steps, _histories(episode), strict=True)):
            last = number == len(episode.steps) - 1
            options = [] if last else candidates.for_state(episode.episode_id, number)
            states.append((episode, number, step.screen, history, [one.action_text for one in options]))
    state_keys, action_keys = [], []
    state_rows, action_rows = [], []
    for start in range(0, len(states), work.batch):
        part = states[start : start + work.batch]
        screens = [vlm.transform.prepare(screen) for _, _, screen, _, _ in part]
        prefixes = [
            vlm.prefix_ids(screen, episode.task.text, history)
            for screen, (episode, _, _, history, _) in zip(screens, part, strict=True)
        ]
        of_states, of_actions = extractor.extract(screens, prefixes, [texts for *_, texts in part])
        state_rows.append(of_states.numpy())
        for (episode, number, _, _, texts), rows in zip(part, of_actions, strict=True):
            state_keys.append(FeatureKey(episode.episode_id, number, None))
            action_keys += [FeatureKey(episode.episode_id, number, text) for text in texts]
            action_rows.append(rows.numpy())
    fingerprint = Fingerprint(
        model=extractor.weights_hash,
        layer=extractor.layer,
        pooling=work.pooling,
        prompt=vlm.template.digest,
        image=vlm.transform.description,
    )
    actions_store.append(shard.name, action_keys, np.concatenate(action_rows), fingerprint)
    states_store.append(shard.name, state_keys, np.concatenate(state_rows), fingerprint)
    return len(state_keys) + len(action_keys)
