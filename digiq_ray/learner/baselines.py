"""Methods that imitate executed actions by what a critic, or DigiRL's value functions, say about them.

They have the states and the critic of Digi-Q, but not its choice among candidates. As with every method, what is no
action of the grammar is not imitated.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from digiq_ray.core.rng import seed_of
from digiq_ray.core.settings import PolicySettings, RunSettings
from digiq_ray.critic.objectives import n_step
from digiq_ray.critic.values import ValueHeads, ValueTrainer, labelled
from digiq_ray.learner.critic import fingerprints_of, shape_of
from digiq_ray.learner.data import MappedFeatures, frames, tensor, values_of
from digiq_ray.learner.distributed import joined
from digiq_ray.learner.material import Extraction, Material
from digiq_ray.learner.paths import RunPaths
from digiq_ray.learner.training import OnStep, train
from digiq_ray.policy.digirl import step_advantages, surprising

Array = NDArray[np.float64]


def by_advantage(material: Material, q_values: Array, values: Array, weigh: Callable[[Array], Array]) -> Extraction:
    """Executed actions, weighted by their advantage ``Q - V``.

    Args:
        material: What there is to imitate.
        q_values, values: Q and V of all rows of the features of actions and of states.
        weigh: Weights ``[n]`` of advantages ``[n]``; see ``policy.weights``.

    Raises:
        StoreError: an advantage is not finite.
    """
    index, executed = material.index, list(material.executed())
    advantages = np.array(
        [q_values[index.actions[(*key, text)]] - values[index.states[key]] for key, text in executed], dtype=np.float64
    )
    weights = weigh(advantages)
    return Extraction(
        dict(executed) if weights.any() else {},
        {key: float(weight) for (key, _), weight in zip(executed, weights, strict=True)},
        {"states": len(executed), "positive_advantage": float((advantages > 0).mean()) if len(executed) else 0.0},
    )


def train_values(root: Path, material: Material, settings: RunSettings, on_step: OnStep) -> ValueHeads:
    """DigiRL's value functions, trained on the states of the run."""
    paths, chosen, view, spread = RunPaths(root), settings.critic, material.views.states, joined()
    first, states = labelled(list(frames(material.episodes, material.candidates, material.index)))
    seed = seed_of("values", settings.seed)
    values = ValueHeads(shape_of(chosen, view.dim, view.dim), seed=seed)
    material.stores.keep()
    train(
        ValueTrainer(values, MappedFeatures(view), first, states, chosen, seed=seed, spread=spread),
        name="digirl_values",
        checkpoints=paths.checkpoints("digirl_values", settings.learner.checkpoints),
        fingerprints=fingerprints_of(material.stores, view.fingerprint, settings),
        logs=paths.logs,
        every=10 * settings.learner.checkpoint_every,
        deadline=settings.learner.checkpoint_seconds,
        on_step=on_step,
        spread=spread,
    )
    return values.eval().cpu()


def digirl(material: Material, values: ValueHeads, chosen: PolicySettings) -> Extraction:
    """The executed actions that made success likelier, in episodes that ended better than their task promised.

    Raises:
        StoreError: a value is not finite.
    """
    episodes, index = material.episodes, material.index
    of_states = values_of(values.state, material.views.states)
    with torch.inference_mode():
        first = tensor(material.views.states, [index.states[one.episode_id, 0] for one in episodes])
        expected = values.instruction(first).double().numpy()
    kept = surprising(np.array([sum(one.rewards) for one in episodes]), expected, share=chosen.digirl_share)
    rows = [[index.states[one.episode_id, step] for step in range(len(one.actions) + 1)] for one in episodes]
    advantages = step_advantages(
        of_states[[row for one in rows for row in one[:-1]]],
        of_states[[row for one in rows for row in one[1:]]],
        np.array([reward for one in episodes for reward in one.rewards]),
        np.array([one for episode in episodes for one in _returns(episode.rewards, chosen.digirl_gamma)]),
        cost=chosen.digirl_cost,
    )
    keys = [(one.episode_id, step) for one in episodes for step in range(len(one.actions))]
    better = {key for key, advantage in zip(keys, advantages, strict=True) if advantage > 0}
    surprises = [one for one, keep in zip(episodes, kept, strict=True) if keep]
    return Extraction(
        {key: text for key, text in material.executed(surprises) if key in better},
        figures={
            "states": len(keys),
            "episodes_kept": len(surprises) / max(1, len(episodes)),
            "positive_advantage": len(better) / max(1, len(keys)),
        },
    )


def _returns(rewards: tuple[float, ...], gamma: float) -> list[float]:
    return n_step(rewards, terminal=True, gamma=gamma, steps=0).reward
