"""Policy training on the stores: what each method imitates, and imitation itself.

All methods start from the behaviour policy and make the same number of updates on the same number of items drawn from
the same states; they differ in *which* action of a state they imitate, and with what weight.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digiq_ray.core.errors import StoreError
from digiq_ray.core.rng import seed_of, uniforms
from digiq_ray.core.settings import PolicySettings, RunSettings
from digiq_ray.learner.baselines import by_advantage, digirl, train_values
from digiq_ray.learner.critic import train_monte_carlo
from digiq_ray.learner.data import EpisodeOutline, StateKey, values_of
from digiq_ray.learner.distributed import joined
from digiq_ray.learner.fingerprints import Fingerprints
from digiq_ray.learner.likelihood import with_logprobs
from digiq_ray.learner.material import Extraction, Material, Targets
from digiq_ray.learner.models import load_critic, load_novelty, trainable_vlm
from digiq_ray.learner.paths import RunPaths
from digiq_ray.learner.sharding import whole_vlm
from digiq_ray.learner.shared import by_first
from digiq_ray.learner.training import OnStep, train
from digiq_ray.learner.versions import PolicyVersions
from digiq_ray.policy.best_of_n import Choice, StateCandidates, best_of_n, draw, random_candidate
from digiq_ray.policy.divergence import ProbeState, candidate_logprobs, divergence
from digiq_ray.policy.imitation import ImitationSettings, ImitationTrainer, Item
from digiq_ray.policy.weights import awr_weights, reinforce_weights
from digiq_ray.vlm.model import Vlm

_PROBED = 64  # states in which the divergence from the behaviour policy is measured


def best_of_n_choices(
    material: Material,
    candidates: Mapping[StateKey, StateCandidates],
    q_values: NDArray[np.float64],
    values: NDArray[np.float64],
    chosen: PolicySettings,
) -> dict[StateKey, Choice]:
    """What best-of-N chooses in every state in which something was done, of the given candidates by Q and V."""
    index = material.index
    return {
        key: best_of_n(
            options,
            q_values[[index.actions[(*key, text)] for text in options.texts]],
            float(values[index.states[key]]),
            margin=chosen.margin,
            min_support=chosen.min_support,
            radius=chosen.support_radius,
            min_probability=chosen.min_probability,
        )
        for key, options in _options(material.episodes, candidates)
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


def filtered_bc_targets(material: Material) -> Targets:
    """The executed actions of successful episodes, where they are valid candidates."""
    return dict(material.executed(one for one in material.episodes if one.success))


def extract(method: str, material: Material, root: Path, settings: RunSettings, on_step: OnStep) -> Extraction:
    """What ``method`` imitates, with figures about the choice; ``mc`` and ``digirl`` train what they choose by first.

    Raises:
        StoreError: no episode has a reward, there is nothing to choose from, or nothing is left to imitate.
    """
    if not any(any(one.rewards) for one in material.episodes):
        raise StoreError(
            f"{method} finds nothing to imitate: none of {len(material.episodes)} episodes succeeded, or has any other "
            "reward; collect more episodes (collect.episodes), with a behaviour policy or tasks of which some succeed"
        )
    found = _extraction(method, material, root, settings, on_step)
    if not found.targets:
        raise StoreError(
            f"{method} finds nothing to imitate: no episode succeeded, or no candidate beats its state's value, "
            "or policy.max_novelty leaves out every state; collect more episodes"
        )
    weight = float(np.mean([found.weight(key) for key in found.targets]))
    return replace(found, figures={**found.figures, "items": len(found.targets), "mean_weight": weight})


def _extraction(method: str, material: Material, root: Path, settings: RunSettings, on_step: OnStep) -> Extraction:
    if method == "filtered_bc":
        return Extraction(filtered_bc_targets(material))
    if method == "digirl":
        return digirl(material, train_values(root, material, settings, on_step), settings.policy)
    if method == "mc":
        about = train_monte_carlo(root, settings, on_step)
        found = _best_of_n(method, material, root, settings, critic="critic_mc")
        return replace(found, figures={**found.figures, "critic": about})
    if method == "awr":
        chosen = settings.policy
        weigh = partial(awr_weights, temperature=chosen.awr_temperature, most=chosen.awr_max_weight)
        return by_advantage(material, *_values(material, root, "critic"), weigh)
    if method == "reinforce":
        return by_advantage(material, *_values(material, root, "critic"), reinforce_weights)
    return _best_of_n(method, material, root, settings, critic="critic")


def _values(material: Material, root: Path, critic: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Q and V of all rows of the features of actions and of states."""
    loaded, views = load_critic(RunPaths(root).model(critic)), material.views
    return values_of(loaded.q, views.actions), values_of(loaded.v, views.states)


def _best_of_n(method: str, material: Material, root: Path, settings: RunSettings, *, critic: str) -> Extraction:
    most = max(int(options.valid.sum()) for _, options in _options(material.episodes, material.candidates))
    if most < 2:
        raise StoreError(
            f"{method} has nothing to choose from: no state has two different candidates that are actions; sample more "
            "and warmer ones (candidates.k, candidates.temperature), and embed them"
        )
    if settings.policy.min_probability:
        material = replace(material, candidates=with_logprobs(material.candidates, material.stores.candidates))
    candidates = _drawn(material.episodes, material.candidates, settings)
    q_values, values = _values(material, root, critic)
    choices = best_of_n_choices(material, candidates, q_values, values, settings.policy)
    novel = _novel(material, root, critic, settings.policy.max_novelty)
    left_out = len(choices.keys() & novel) / max(1, len(choices))
    choices = {key: one for key, one in choices.items() if key not in novel}
    targets = digi_q_targets(choices, candidates)
    kept = [one for one in choices.values() if one.index is not None]
    figures = {
        "states": len(choices),
        "kept": len(kept) / max(1, len(choices)),
        "positive_advantage": sum(one.advantage > 0 for one in choices.values()) / max(1, len(choices)),
        "drawn_once": sum(one.support <= 1 for one in kept) / max(1, len(kept)),
        "too_novel": left_out,
    }
    if method == "random_candidate":
        targets = random_targets(sorted(targets), candidates, settings.seed)
    return Extraction(targets, figures=figures)


def _novel(material: Material, root: Path, critic: str, most: float) -> set[StateKey]:
    """The states that are farther from the critic's training states than the share ``most`` of those."""
    if most == 1.0:
        return set()
    far = values_of(load_novelty(RunPaths(root).model(critic)), material.views.states) > most
    return {key for key, row in material.index.states.items() if far[row]}


def train_policy(root: Path, method: str, settings: RunSettings, on_step: OnStep) -> dict[str, Any]:
    """Trains the policy of ``method`` and publishes a version under that name; ``from_pretrained`` loads it.

    Args:
        root: The run's directory.
        method: ``digi_q``, or one of ``policy.controls``.
        settings: Of the run.
        on_step: Called with (updates done, updates in all), with those of what a method trains beforehand.

    Returns:
        How many items were imitated (``rows``), figures about the choice, how far the policy moved (``kl``, see
        ``policy.divergence``), and the curve of the loss.
    """
    paths, chosen, spread = RunPaths(root), settings.policy, joined()
    before = settings.critic.steps if method in ("digirl", "mc") else 0
    total = before + chosen.steps
    material = Material.open(root)
    found = extract(method, material, root, settings, lambda done, _: on_step(done, total))
    vlm = trainable_vlm(settings)
    probed = probed_states(material, settings.seed)
    items, probes = [], []
    for episode in material.stores.episodes.episodes():
        texts = tuple(step.action_text or "" for step in episode.steps)
        for number, step in enumerate(episode.steps[:-1]):
            key = (episode.episode_id, number)
            if key not in found.targets and key not in probed:
                continue
            screen = vlm.transform.prepare(step.screen)
            prefix = vlm.prefix_ids(screen, episode.task.text, texts[:number])
            if key in found.targets:
                items.append(Item(screen, prefix, found.targets[key], found.weight(key)))
            if key in probed:
                probes.append(ProbeState(screen, prefix, material.candidates[key].texts))
    behaviour = candidate_logprobs(vlm, probes)
    fingerprints = _fingerprints(material, found, vlm, settings)
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
            schedule=chosen.schedule,
            warmup=chosen.warmup,
            tuning=settings.tuning,
        ),
        spread,
    )
    material.stores.keep()
    curves = train(
        trainer,
        name=method,
        checkpoints=paths.checkpoints(method, settings.learner.checkpoints),
        fingerprints=fingerprints,
        logs=paths.logs,
        every=settings.learner.checkpoint_every,
        deadline=settings.learner.checkpoint_seconds,
        on_step=lambda done, _: on_step(before + done, total),
        spread=spread,
    )
    trainer.finish()
    vlm = whole_vlm(vlm, lambda: trainable_vlm(settings))
    versions = PolicyVersions.of(paths, method)
    by_first(spread, lambda: _publish(vlm, versions))
    moved = divergence(candidate_logprobs(vlm, probes), behaviour)
    return {"rows": len(items), **found.figures, "kl": moved, "loss": curves.get("loss", [])}


def _publish(vlm: Vlm, versions: PolicyVersions) -> None:
    versions.publish(vlm.weights_hash, lambda hidden, version: vlm.save(hidden, version=version))


def _fingerprints(material: Material, found: Extraction, vlm: Vlm, settings: RunSettings) -> Fingerprints:
    """What the imitation of ``found`` is of, by a model with its first weights.

    What is imitated stands for how it was chosen: for the critic, and for the settings of extraction.
    """
    targets = json.dumps([[*key, text, found.weight(key)] for key, text in sorted(found.targets.items())])
    chosen = settings.policy.model_dump(mode="json", exclude={"controls"})
    tuning = settings.tuning.model_dump(mode="json", exclude={"checkpointing"})
    return Fingerprints(
        data={
            "episodes": material.stores.hashes["episodes"],
            "targets": hashlib.blake2b(targets.encode(), digest_size=16).hexdigest(),
        },
        features={"model": vlm.weights_hash, "prompt": vlm.template_name, "image": str(vlm.transform.fit)},
        configuration={"seed": settings.seed, "policy": chosen, "tuning": tuning},
    )


def probed_states(material: Material, seed: int) -> set[StateKey]:
    """The states in which the divergence is measured: the same for every method of a run."""
    keys = sorted((one.episode_id, step) for one in material.episodes for step in range(len(one.actions)))
    drawn = np.random.default_rng(seed_of("divergence", seed)).permutation(len(keys))[:_PROBED]
    return {keys[number] for number in drawn}
