"""Weights of executed actions by their advantage ``A = Q(s, a) - V(s)``: advantage-weighted regression and REINFORCE.

Both imitate what was done, with the loss ``-w log p(a | s)`` of ``imitation``; only ``w`` differs.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from digiq_ray.core.errors import StoreError

Array = NDArray[np.float64]

_ROUNDING = 1e-12


def finite_advantages(advantages: Array) -> Array:
    """The same numbers.

    Raises:
        StoreError: one is not finite.
    """
    broken = int((~np.isfinite(advantages)).sum())
    if broken:
        raise StoreError(f"{broken} of {len(advantages)} advantages are not finite: train the critic again")
    return advantages


def awr_weights(advantages: Array, *, temperature: float, most: float) -> Array:
    """Weights of advantage-weighted regression (Peng et al., arXiv 1910.00177, equation 10): ``min(exp(A/b - c), m)``.

    The paper's normaliser ``Z(s)`` is a constant ``c`` here, chosen such that the mean weight is 1 *with* the bound
    ``m``: the learning rate then means the same at every temperature. Only differences to larger advantages are
    exponentiated, so that nothing overflows.

    Args:
        advantages: A of each item, ``[n]``.
        temperature: b; the smaller, the more the best items count.
        most: m, at least 1; largest weight.

    Returns:
        ``[n]`` weights in [0, m] with mean 1, larger where the advantage is.

    Raises:
        StoreError: an advantage is not finite.
    """
    n = len(finite_advantages(advantages))
    order = np.argsort(-advantages, kind="stable")
    ordered = advantages[order]
    with np.errstate(over="ignore"):  # a step that is infinitely far down is one to 0
        down = np.exp(np.diff(ordered) / temperature)
    # Sums of exp((A_j - A_k) / b) over the items j from k on, each between 1 and n.
    tails = np.ones(n)
    for k in range(n - 2, -1, -1):
        tails[k] = 1.0 + down[k] * tails[k + 1]
    # With the k best items at the bound the others share what is left: the least k where the next one stays within it.
    weights, left, k = np.full(n, most), float(n), 0
    while k < n and left > most * tails[k] * (1.0 + _ROUNDING):
        left, k = left - most, k + 1
    if k < n:
        with np.errstate(over="ignore"):
            weights[order[k:]] = left / tails[k] * np.exp((ordered[k:] - ordered[k]) / temperature)
    return np.minimum(weights, most)


def reinforce_weights(advantages: Array) -> Array:
    """Weights of the policy gradient with the critic as its baseline: ``A / rms(A)``, negative where A is.

    The gradient of ``-w log p`` is then REINFORCE's (Williams, 1992), ``-A grad log p``, up to a constant that makes
    the learning rate mean the same for every critic. There is no other centring: V is the baseline. It is the policy
    gradient at the behaviour policy, taken on its data without importance weights, as in Digi-Q's Table 3.

    What keeps it stable: no weight exceeds ``sqrt(n)``; the gradient's norm is bounded (``policy.clip``); and an action
    of negative weight that is already improbable is pushed no further (``imitation.weighted_loss``).

    Args:
        advantages: A of each item, ``[n]``.

    Returns:
        ``[n]`` weights whose mean square is 1, or all 0 where every advantage is.

    Raises:
        StoreError: an advantage is not finite.
    """
    largest = float(np.abs(finite_advantages(advantages)).max(initial=0.0))
    if not largest:
        return np.zeros(len(advantages))
    scaled = advantages / largest
    return scaled / math.sqrt(float(np.square(scaled).mean()))
