"""Does Q depend on the action? A Q that varies over states only has become a V, and every ranking by it is noise."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from digiq_ray.core.errors import InputError
from digiq_ray.core.moments import Moments


@dataclass(slots=True)
class ActionSensitivity:
    """Variance of Q over the candidates of a state against its variance over states, of states that come in blocks."""

    within: Moments = field(default_factory=Moments)
    between: Moments = field(default_factory=Moments)
    share: Moments = field(default_factory=Moments)

    def add(self, values: NDArray[np.floating], weights: NDArray[np.floating]) -> None:
        """Takes a block of states.

        Args:
            values: Q of the candidates, ``[states, K]``; entries with weight 0 are ignored.
            weights: Their probabilities, ``[states, K]``, each row summing to 1.

        Raises:
            InputError: there is no state, or the shapes differ.
        """
        if values.shape != weights.shape or values.ndim != 2 or not values.size:
            raise InputError(f"values {values.shape} and weights {weights.shape} must have one shape [states, K]")
        values = np.where(weights > 0, values, 0.0).astype(np.float64)
        means = (values * weights).sum(1)
        self.within.add(len(means), float(((values - means[:, None]) ** 2 * weights).sum(1).mean()), 0.0)
        self.between.add(len(means), float(means.mean()), float(means.var()))
        self.share.add(len(means), float((weights.astype(np.float64) ** 2).sum(1).mean()), 0.0)

    def figures(self) -> dict[str, float]:
        """``variance_over_actions``, ``variance_over_states``, their ratio, and what the ratio is where Q is noise.

        The ratio, ``action_sensitivity``, is 0 if Q is the same in all states, where it says nothing. The other,
        ``chance_sensitivity``, is of a Q that knows neither state nor action: the mean over a state's candidates then
        has the share ``h`` (the sum of squared weights) of its variance, and ``1 - h`` of it is within the state, a
        ratio of ``(1 - h) / h``.
        """
        within, between, share = float(self.within.mean), float(self.between.variance), float(self.share.mean)
        return {
            "variance_over_actions": within,
            "variance_over_states": between,
            "action_sensitivity": within / between if between > 0 else 0.0,
            "chance_sensitivity": (1 - share) / share,
        }


def action_sensitivity(values: NDArray[np.floating], weights: NDArray[np.floating]) -> dict[str, float]:
    """The figures of ``ActionSensitivity`` of states that are one block.

    Raises:
        InputError: there is no state, or the shapes differ.
    """
    found = ActionSensitivity()
    found.add(values, weights)
    return found.figures()
