"""Does Q depend on the action? A Q that varies over states only has become a V, and every ranking by it is noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from digiq_ray.core.errors import InputError


def action_sensitivity(values: NDArray[np.floating], weights: NDArray[np.floating]) -> dict[str, float]:
    """Variance of Q over the candidates of a state against its variance over states.

    Args:
        values: Q of the candidates, ``[states, K]``; entries with weight 0 are ignored.
        weights: Their probabilities, ``[states, K]``, each row summing to 1.

    Returns:
        ``variance_over_actions``, ``variance_over_states``, and their ratio ``action_sensitivity`` (0 if Q is the same
        in all states, where a ratio says nothing); and ``chance_sensitivity``, the ratio of a Q that is noise, which
        knows neither state nor action. For such a Q the mean over a state's candidates has the share ``h`` (the sum of
        squared weights) of its variance, and ``1 - h`` of it is within the state: a ratio of ``(1 - h) / h``.

    Raises:
        InputError: there is no state, or the shapes differ.
    """
    if values.shape != weights.shape or values.ndim != 2 or not values.size:
        raise InputError(f"values {values.shape} and weights {weights.shape} must have one shape [states, K]")
    values = np.where(weights > 0, values, 0.0).astype(np.float64)
    means = (values * weights).sum(1)
    within = float(((values - means[:, None]) ** 2 * weights).sum(1).mean())
    between = float(means.var())
    share = float((weights.astype(np.float64) ** 2).sum(1).mean())
    return {
        "variance_over_actions": within,
        "variance_over_states": between,
        "action_sensitivity": within / between if between > 0 else 0.0,
        "chance_sensitivity": (1 - share) / share,
    }
