"""Policy training on the stores: what each method imitates, and imitation itself.

All methods start from the behaviour policy and make the same number of updates on the same number of items drawn from
the same states; they differ in *which* action of a state they imitate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from digiq_ray.core.errors import StoreError
from digiq_ray.core.rng import seed_of, uniforms
from digiq_ray.core.settings import RunSettings
from digiq_ray.learner.data import (
    EpisodeOutline,
    FeatureIndex,
    StateKey,
    candidates_by_state,
    learnable,
    outlines,
    values_of,
)
from digiq_ray.learner.directories import publish_directory
from digiq_ray.learner.models import load_critic, resolve
from digiq_ray.learner.paths import RunPaths
from digiq_ray.learner.training import OnStep, train
from digiq_ray.policy.best_of_n import Choice, StateCandidates, best_of_n, draw, random_candidate
from digiq_ray.policy.imitation import ImitationSettings, ImitationTrainer, Item
from digiq_ray.store.candidates import CandidateStore
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.vlm.model import Vlm

Targets = dict[StateKey, str]


def best_of_n_choices(
    episodes: list[EpisodeOutline],
    candidates: Mapping[StateKey, StateCandidates],
    index: FeatureIndex,
    root: Path,
    settings: RunSettings,
) -> dict[StateKey, Choice]:
    """What best-of-N chooses in every state in which something was done."""
    chosen, critic = settings.policy, load_critic(RunPaths(root).model("critic"))
    q_values, values = values_of(critic.q, index.action_view), values_of(critic.v, index.state_view)
    return {
        key: best_of_n(
            options,
            q_values[[index.actions[(*key, text)] for text in options.texts]],
            float(values[index.states[key]]),
            margin=chosen.margin,
            min_support=chosen.min_support,
            radius=chosen.support_radius,
        )
        for key, options in _options(episodes, candidates)
    }


def _options(
    episodes: list[EpisodeOutline], candidates: Mapping[StateKey, StateCandidates]
) -> Iterator[tuple[StateKey, StateCandidates]]:
    """Every state in which something was done, with its candidates."""
    for episode in episodes:
        for step in range(len(episode.actions)):
            key = (episode.episode_id, step)
            yield key, candidates[key]


def _drawn(
    episodes: list[EpisodeOutline], candidates: Mapping[StateKey, StateCandidates], settings: RunSettings
) -> dict[StateKey, StateCandidates]:
    """The N candidates of each state, drawn from its K."""
    chosen = settings.policy
    if not chosen.n:
        return dict(candidates)
    executed = {(one.episode_id, step): text for one in episodes for step, text in enumerate(one.actions)}
    return {
        key: draw(
            options,
            chosen.n,
            np.random.default_rng(seed_of("best of n", settings.seed, *key)),
            keep=executed[key] if chosen.keep_executed else None,
        )
        for key, options in _options(episodes, candidates)
    }


def digi_q_targets(choices: Mapping[StateKey, Choice], candidates: Mapping[StateKey, StateCandidates]) -> Targets:
    """The chosen candidate of each state where one is better than the state's value."""
    return {key: candidates[key].texts[one.index] for key, one in choices.items() if one.index is not None}


def random_targets(keys: list[StateKey], candidates: Mapping[StateKey, StateCandidates], seed: int) -> Targets:
    """A random valid candidate in each of the given states that has one: the control without a critic."""
    found = {}
    for key in keys:
        uniform = float(uniforms(seed_of("random candidate", seed, *key), 0))
        index = random_candidate(candidates[key], uniform)
        if index is not None:
            found[key] = candidates[key].texts[index]
    return found


def filtered_bc_targets(episodes: list[EpisodeOutline], candidates: Mapping[StateKey, StateCandidates]) -> Targets:
    """The executed actions of successful episodes, where they are valid candidates."""
    executed = {(one.episode_id, step): text for one in episodes for step, text in enumerate(one.actions)}
    return {
        key: executed[key]
        for key, options in _options([one for one in episodes if one.success], candidates)
        if (executed[key], True) in zip(options.texts, options.valid, strict=True)
    }


def targets_of(method: str, root: Path, settings: RunSettings) -> tuple[Targets, dict[str, Any]]:
    """What ``method`` imitates, with figures about the choice.

    Raises:
        StoreError: nothing is left to imitate.
    """
    paths = RunPaths(root)
    index = FeatureIndex.open(paths.features)
    episodes, candidates = learnable(
        outlines(EpisodeStore(paths.episodes)), candidates_by_state(CandidateStore(paths.candidates)), index
    )
    figures: dict[str, Any] = {}
    if method == "filtered_bc":
        targets = filtered_bc_targets(episodes, candidates)
    else:
        candidates = _drawn(episodes, candidates, settings)
        choices = best_of_n_choices(episodes, candidates, index, root, settings)
        targets = digi_q_targets(choices, candidates)
        kept = [one for one in choices.values() if one.index is not None]
        figures = {
            "states": len(choices),
            "kept": len(kept) / max(1, len(choices)),
            "positive_advantage": sum(one.advantage > 0 for one in choices.values()) / max(1, len(choices)),
            "drawn_once": sum(one.support <= 1 for one in kept) / max(1, len(kept)),
        }
        if method == "random_candidate":
            targets = random_targets(sorted(targets), candidates, settings.seed)
    if not targets:
        raise StoreError(
            f"{method} finds nothing to imitate: no episode succeeded, or no candidate beats its state's value; "
            "collect more episodes"
        )
    return targets, {**figures, "items": len(targets)}


def train_policy(root: Path, method: str, settings: RunSettings, on_step: OnStep) -> dict[str, Any]:
    """Trains the policy of ``method`` and publishes it under that name; ``from_pretrained`` loads it.

    Args:
        root: The run's directory.
        method: ``digi_q``, ``random_candidate`` or ``filtered_bc``.
        settings: Of the run.
        on_step: Called with (updates done, updates in all).

    Returns:
        How many items were imitated (``rows``), figures about the choice, and the curve of the loss.
    """
    paths, chosen = RunPaths(root), settings.policy
    targets, figures = targets_of(method, root, settings)
    vlm = Vlm.load(resolve(settings.vlm.model))
    items = []
    for episode in EpisodeStore(paths.episodes).episodes():
        texts = tuple(step.action_text or "" for step in episode.steps)
        for number, step in enumerate(episode.steps[:-1]):
            target = targets.get((episode.episode_id, number))
            if target is not None:
                screen = vlm.transform.prepare(step.screen)
                items.append(Item(screen, vlm.prefix_ids(screen, episode.task.text, texts[:number]), target))
    trainer = ImitationTrainer(
        vlm,
        items,
        ImitationSettings(
            steps=chosen.steps,
            batch=chosen.batch,
            learning_rate=chosen.learning_rate,
            weight_decay=chosen.weight_decay,
            clip=chosen.clip,
            seed=seed_of("policy", settings.seed),
        ),
    )
    curves = train(
        trainer,
        name=method,
        checkpoints=paths.checkpoints(method),
        logs=paths.logs,
        every=settings.learner.checkpoint_every,
        on_step=on_step,
    )
    vlm.model.eval()
    publish_directory(paths.model(method), lambda hidden: vlm.save(hidden, version=method))
    return {"rows": len(items), **figures, "loss": curves.get("loss", [])}
