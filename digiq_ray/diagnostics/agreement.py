"""Do the critic's heads rank alike? They see the same data from different starts, so what they differ in is noise."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from digiq_ray.core.errors import InputError

_STATES = 2000  # evenly spread over the data: enough for a mean within a few hundredths
_BLOCK = 128  # states at a time: pairs of candidates take K^2 numbers each


def even_sample(states: int) -> NDArray[np.int64]:
    """Which of so many states ``rank_agreement`` looks at, ascending. Of its own sample it looks at all."""
    return np.unique(np.linspace(0, max(0, states - 1), min(states, _STATES)).astype(np.int64))


def rank_agreement(values: NDArray[np.floating], weights: NDArray[np.floating]) -> float | None:
    """Kendall's rank correlation of two heads' Q over the candidates of a state, mean over states and pairs of heads.

    1 is the same order, 0 is chance, whatever the number of candidates.

    Args:
        values: Q of each head, ``[heads, states, K]``; entries with weight 0 are ignored.
        weights: Probabilities of the candidates, ``[states, K]``; only whether they are 0 counts.

    Returns:
        The mean, over an even sample of the states. ``None`` if nothing can be said: there is one head, or no state
        has two candidates that both heads tell apart.

    Raises:
        InputError: the shapes do not fit.
    """
    if values.ndim != 3 or values.shape[1:] != weights.shape:
        raise InputError(f"values {values.shape} must be [heads, states, K] with weights {weights.shape} [states, K]")
    chosen = even_sample(len(weights))
    total, states = 0.0, 0
    for start in range(0, len(chosen), _BLOCK):
        rows = chosen[start : start + _BLOCK]
        present = weights[rows] > 0
        order = [_order(np.where(present, one[rows], 0.0)) for one in values]
        both = present[:, :, None] & present[:, None, :]
        for one, other in combinations(order, 2):
            same = one * other * both
            pairs = np.abs(same).sum((1, 2))
            told_apart = pairs > 0
            total += float((same.sum((1, 2))[told_apart] / pairs[told_apart]).sum())
            states += int(told_apart.sum())
    return total / states if states else None


def _order(values: NDArray[np.floating]) -> NDArray[np.int64]:
    """Which of each two candidates is higher: 1, -1, or 0 if equal, ``[states, K, K]``."""
    return np.sign(values[:, :, None] - values[:, None, :]).astype(np.int64)
