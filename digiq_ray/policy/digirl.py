"""DigiRL's choice of what to imitate (Bai et al., arXiv 2406.11896, section 4), with its thresholds as arguments.

Two value functions, both trained by classification of success: one of instructions says how surprising the result of a
whole episode was, one of states how much a single step changed the prospect. Both filter hard: what passes is imitated
with weight 1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from digiq_ray.policy.weights import finite_advantages

Array = NDArray[np.float64]

_ROUNDING = 1e-9


def step_advantages(value: Array, successor: Array, reward: Array, returns: Array, *, cost: float) -> Array:
    """``clip(V(s') - V(s) + r + G - cost, 0, 1)``, as the released code computes it; a step is imitated above 0.

    Args:
        value: V of each step's state, ``[n]``.
        successor: V of the state after it, ``[n]``.
        reward: r, ``[n]``.
        returns: G, the discounted sum of the rewards from it on, ``[n]``.
        cost: What a step must be worth; the original's is 0.05.

    Raises:
        StoreError: an advantage is not finite.
    """
    return np.clip(finite_advantages(successor - value + reward + returns - cost), 0.0, 1.0)


def surprising(returns: Array, expected: Array, *, share: float) -> NDArray[np.bool_]:
    """Which episodes are among the best ``share`` by ``return - V(instruction)``; those equal to the last one stay too.

    Args:
        returns: Sum of the rewards of each episode, ``[n]``.
        expected: V of its instruction, ``[n]``.
        share: In (0, 1].

    Raises:
        StoreError: a difference is not finite.
    """
    scores = finite_advantages(returns - expected)
    if not len(scores):
        return np.zeros(0, dtype=np.bool_)
    kept = max(1, math.ceil(share * len(scores) - _ROUNDING))
    return np.asarray(scores >= np.sort(scores)[-kept])
