"""What a trained critic says about the data that it was trained on, a block of transitions at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from digiq_ray.critic.dataset import CriticData
from digiq_ray.critic.features import Features, blocks
from digiq_ray.critic.heads import Critic, aggregated
from digiq_ray.critic.novelty import Novelty
from digiq_ray.diagnostics.agreement import even_sample, rank_agreement
from digiq_ray.diagnostics.sensitivity import ActionSensitivity
from digiq_ray.learner.training_data import TrainingData

_BLOCK_BYTES = 4 << 20
_SHOWN = 400

Array = NDArray[np.float64]


def figures_of(critic: Critic, found: TrainingData) -> dict[str, Any]:
    """Action sensitivity, rank agreement of the heads, the largest absolute Q, and a sample of Q at executed actions.

    A block is as large as its widest layer takes 4 MiB.
    """
    data, shape = found.data, critic.shape
    widest = max(shape.action_dim, *shape.q.widths)
    sensitivity, largest = ActionSensitivity(), 0.0
    size = max(1, _BLOCK_BYTES // (4 * widest * data.candidates.shape[1]))
    for start in range(0, len(data), size):
        rows = torch.arange(start, min(start + size, len(data)))
        q = _q_of_candidates(critic, data, rows)[0]
        sensitivity.add(q, data.weights[rows].numpy())
        largest = max(largest, float(np.abs(q).max()))
    some = torch.from_numpy(even_sample(len(data)))
    heads = [_q_of_candidates(critic, data, rows)[1:] for rows in some.split(size)]
    return {
        **sensitivity.figures(),
        "rank_agreement": rank_agreement(np.concatenate(heads, 1), data.weights[some].numpy()),
        "q_largest": largest,
        "q_success": _shown(critic, data, found.won),
        "q_failure": _shown(critic, data, ~found.won),
    }


def novelty_figures(novelty: Novelty, features: Features, limit: float) -> dict[str, float]:
    """Distances of the training states, and the share of them that ``policy.max_novelty`` leaves out."""
    beyond = sum(int((novelty(part) > limit).sum()) for part in blocks(features, _BLOCK_BYTES))
    return {
        "novelty_distance_median": float(novelty.knots.median()),
        "novelty_distance_most": float(novelty.knots[-1]),
        "novelty_beyond_limit": beyond / len(features),
    }


def extremes(data: CriticData, block: int = 65_536) -> tuple[Array, Array]:
    """For each discount that occurs the largest absolute reward, and the discounts: what ``value_bound`` looks at."""
    found: dict[float, float] = {}
    for rewards, discounts in zip(data.reward.split(block), data.discount.split(block), strict=True):
        for discount in discounts.unique().tolist():
            largest = float(rewards[discounts == discount].abs().max())
            found[discount] = max(found.get(discount, 0.0), largest)
    return np.array(list(found.values())), np.array(list(found))


@torch.inference_mode()
def _q_of_candidates(critic: Critic, data: CriticData, rows: torch.Tensor) -> Array:
    """Q, and the Q of each head, of the candidates of transitions ``[n]``: ``[1 + heads, n, K]``, 0 for padding."""
    candidates = data.candidates[rows]
    present = candidates >= 0
    heads = critic.q_heads.values(data.action_features[candidates[present]])
    values = np.zeros((1 + len(heads), *present.shape))
    values[:, present.numpy()] = torch.cat([aggregated(heads, critic.shape.aggregate)[None], heads]).numpy()
    return values


@torch.inference_mode()
def _shown(critic: Critic, data: CriticData, chosen: torch.Tensor) -> list[float]:
    """Q of executed actions, of at most 400 of the ``chosen`` transitions, evenly."""
    rows = chosen.nonzero()[:, 0]
    rows = rows[:: max(1, -(-len(rows) // _SHOWN))]
    return [round(float(q), 4) for q in critic.q(data.action_features[data.action[rows]])] if len(rows) else []
