"""Which values can there be at all? What a Q beyond them holds is not from the rewards."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def value_bound(rewards: NDArray[np.floating], discounts: NDArray[np.floating]) -> float | None:
    """The largest absolute value that a Q learnt from these transitions can settle at.

    Every target is ``r_i + d_i V`` with ``V`` a mean of Q, so at a fixed point ``|Q| <= max_i |r_i| / (1 - d_i)``.
    That holds for one step or several, and for any mixture of episodes: with one reward of 1 at the end it is 1.

    Args:
        rewards: Of the transitions (summed and discounted where they span several steps), ``[n]``.
        discounts: Of the state behind each, 0 where the episode ended, ``[n]``.

    Returns:
        The bound; ``None`` where there is none: no reward at all, or one that repeats without a discount.
    """
    largest, discounts = np.abs(rewards).astype(np.float64), discounts.astype(np.float64)
    rewarded = largest > 0
    if not rewarded.any() or (discounts[rewarded] >= 1.0).any():
        return None
    return float((largest[rewarded] / (1.0 - discounts[rewarded])).max())
