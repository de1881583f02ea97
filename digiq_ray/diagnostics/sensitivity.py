"""Does Q depend on the action? A Q that varies over states only has become a V, and every ranking by it is noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def action_sensitivity(values: NDArray[np.floating], weights: NDArray[np.floating]) -> dict[str, float]:
    """Variance of Q over the candidates of a state against its variance over states.

    Args:
        values: Q of the candidates, ``[states, K]``; entries with weight 0 are ignored.
        weights: Their probabilities, ``[states, K]``, each row summing to 1.

    Returns:
        ``variance_over_actions``, ``variance_over_states``, and their ratio ``action_sensitivity``.
    """
    means = (values * weights).sum(1)
    within = float(((values - means[:, None]) ** 2 * weights).sum(1).mean())
    between = float(means.var())
    return {
        "variance_over_actions": within,
        "variance_over_states": between,
        "action_sensitivity": within / between if between > 0 else 0.0,
    }
