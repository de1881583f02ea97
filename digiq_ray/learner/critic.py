"""TD training of the critic on the stores, and what its values look like afterwards."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from digiq_ray.core.rng import seed_of
from digiq_ray.core.settings import CriticSettings, RunSettings
from digiq_ray.critic.dataset import build
from digiq_ray.critic.heads import Critic, CriticShape, HeadShape, aggregated
from digiq_ray.critic.novelty import Novelty
from digiq_ray.critic.training import CriticTrainer
from digiq_ray.diagnostics.agreement import rank_agreement
from digiq_ray.diagnostics.bounds import value_bound
from digiq_ray.diagnostics.sensitivity import action_sensitivity
from digiq_ray.learner.data import (
    FeatureIndex,
    candidates_by_state,
    frames,
    learnable,
    outlines,
    tensor,
    values_of,
)
from digiq_ray.learner.events import log_figures
from digiq_ray.learner.fingerprints import Fingerprints
from digiq_ray.learner.likelihood import with_logprobs
from digiq_ray.learner.models import save_critic
from digiq_ray.learner.paths import RunPaths
from digiq_ray.learner.pins import PinnedStores
from digiq_ray.learner.training import OnStep, train
from digiq_ray.policy.best_of_n import without_unlikely


def train_critic(root: Path, settings: RunSettings, on_step: OnStep, *, name: str = "critic") -> dict[str, Any]:
    """Trains Q and V heads and publishes them under ``name``.

    Returns:
        Curves, the final TD error, how far training states lie from their middle, action sensitivity, rank agreement of
        the heads, the largest Q and the largest that the rewards allow, and a sample of Q at executed actions by
        outcome.

    Raises:
        StoreError: there is nothing to train on, or something lacks candidates or features.
    """
    paths, chosen = RunPaths(root), settings.critic
    stores = PinnedStores.open(paths)
    played, index = outlines(stores.episodes), FeatureIndex.open(paths.features, stores.snapshots)
    episodes, candidates = learnable(played, candidates_by_state(stores.candidates), index)
    if chosen.backup_probability:
        candidates = {
            key: without_unlikely(options, chosen.backup_probability)
            for key, options in with_logprobs(candidates, stores.candidates).items()
        }
    data = build(
        list(frames(episodes, candidates, index, min_support=chosen.backup_support)),
        tensor(index.state_view),
        tensor(index.action_view),
        gamma=chosen.gamma,
        steps=chosen.n_step,
        truncated_ends=chosen.truncation == "end",
    )
    seed = seed_of("critic", settings.seed)
    critic = Critic(shape_of(chosen, index.state_view.dim, index.action_view.dim), seed=seed)
    critic.v_heads.normalise.fit(data.state_features)
    critic.q_heads.normalise.fit(data.action_features)
    novelty = Novelty(index.state_view.dim)
    novelty.fit(data.state_features)
    trainer = CriticTrainer(critic, data, chosen, seed=seed)
    stores.keep()
    figures = train(
        trainer,
        name=name,
        checkpoints=paths.checkpoints(name, settings.learner.checkpoints),
        fingerprints=fingerprints_of(stores, index, settings),
        logs=paths.logs,
        every=10 * settings.learner.checkpoint_every,
        deadline=settings.learner.checkpoint_seconds,
        on_step=on_step,
    )
    critic.eval()
    both = values_of(lambda features: _with_heads(critic, features), index.action_view)
    q_all, q_heads, rows = both[0], both[1:], data.candidates.numpy()
    executed = q_all[data.action.numpy()]
    won = np.repeat([episode.success for episode in episodes], [len(episode.actions) for episode in episodes])
    save_critic(critic, novelty, paths.model(name))
    far = _novelty_figures(novelty, data.state_features, settings.policy.max_novelty)
    log_figures(paths.logs, name, far)
    return {
        "rows": len(data),
        "episodes_left_out": len(played) - len(episodes),
        **far,
        **action_sensitivity(q_all[rows], data.weights.numpy()),
        "rank_agreement": rank_agreement(q_heads[:, rows], data.weights.numpy()),
        "q_largest": float(np.abs(q_all[rows[rows >= 0]]).max()),
        # Losses that classify between bounds cannot leave them.
        "value_bound": value_bound(data.reward.numpy(), data.discount.numpy())
        if chosen.loss in ("mse", "huber")
        else None,
        "td_error": figures["td_error"][-1][1] if figures.get("td_error") else 0.0,
        "curve": [
            [step, error, *(figures[name][i][1] for name in ("v_error", "q_mean"))]
            for i, (step, error) in enumerate(figures.get("td_error", []))
        ],
        "target_curve": figures.get("target_change", []),
        "q_success": _thinned(executed[won]),
        "q_failure": _thinned(executed[~won]),
    }


def fingerprints_of(stores: PinnedStores, index: FeatureIndex, settings: RunSettings) -> Fingerprints:
    """What a training on the features of a run is of."""
    return Fingerprints(
        data=stores.hashes,
        features=dataclasses.asdict(index.state_view.fingerprint),
        configuration={"seed": settings.seed, "critic": settings.critic.model_dump(mode="json")},
    )


def train_monte_carlo(root: Path, settings: RunSettings, on_step: OnStep) -> dict[str, float]:
    """Trains the critic of the method ``mc``: as ``train_critic`` but for its targets, which are the returns.

    It is published as ``critic_mc``, with checkpoints of its own.

    Returns:
        Its final error and how well it tells actions apart.
    """
    without = {"objective": "mc", "backup_support": 1, "backup_probability": 0.0}
    monte_carlo = settings.critic.model_copy(update=without)
    figures = train_critic(root, settings.model_copy(update={"critic": monte_carlo}), on_step, name="critic_mc")
    return {name: value for name, value in figures.items() if isinstance(value, float)}


def _novelty_figures(novelty: Novelty, features: torch.Tensor, limit: float) -> dict[str, float]:
    """Distances of the training states, and the share of them that ``policy.max_novelty`` leaves out."""
    knots = novelty.knots
    beyond = sum(int((novelty(part) > limit).sum()) for part in features.split(16_384))
    return {
        "novelty_distance_median": float(knots.median()),
        "novelty_distance_most": float(knots[-1]),
        "novelty_beyond_limit": beyond / len(features),
    }


def _with_heads(critic: Critic, features: torch.Tensor) -> torch.Tensor:
    """Q and the Q of each head, ``[1 + heads, n]``."""
    heads = critic.q_heads.values(features)
    return torch.cat([aggregated(heads, critic.shape.aggregate)[None], heads])


def shape_of(chosen: CriticSettings, state_dim: int, action_dim: int) -> CriticShape:
    """The critic that the settings ask for, on features of these lengths."""

    def head(widths: list[int]) -> HeadShape:
        return HeadShape(tuple(widths), chosen.activation, chosen.layer_norm, chosen.dropout)

    return CriticShape(
        state_dim=state_dim,
        action_dim=action_dim,
        q=head(chosen.q_widths),
        v=head(chosen.v_widths),
        heads=chosen.heads,
        aggregate=chosen.aggregate,
        loss=chosen.loss,
        bins=chosen.bins,
        low=chosen.low,
        high=chosen.high,
        normalise=chosen.normalise,
    )


def _thinned(values: NDArray[np.float64], most: int = 400) -> list[float]:
    return [round(float(value), 4) for value in values[:: max(1, -(-len(values) // most))]]
