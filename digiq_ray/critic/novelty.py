"""How far is a state from those that the critic was trained on? Where it is far, Q and V are guesses.

The distance is Mahalanobis' in the space of the state features, with a covariance shrunk towards a multiple of the
identity (Chen et al. 2010, arXiv 0907.4698: exact enough for fewer states than dimensions). It is told as the share of
the training states that lie nearer, so that a threshold means the same for every model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from digiq_ray.critic.features import Features, parts

KNOTS = 1001
_BLOCK_ROWS = 16_384
_LEAST_VARIANCE = 1e-12


class Novelty(nn.Module):
    """Novelty of states, from 0 (in the middle of the training states) to 1 (farther away than all of them).

    Args:
        dim: Length of f(s).
    """

    mean: torch.Tensor
    whitener: torch.Tensor
    knots: torch.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("whitener", torch.eye(dim))
        self.register_buffer("knots", torch.zeros(KNOTS))

    @torch.no_grad()
    def fit(self, features: Features) -> None:
        """Takes ``n`` features of the training states, a block of them in memory at a time, and 20 bytes for each."""
        n, dim = len(features), len(self.mean)
        total = torch.zeros(dim, dtype=torch.float64)
        for part in parts(features, _BLOCK_ROWS):
            total += part.double().sum(0)
        mean = total / n
        scatter = torch.zeros(dim, dim, dtype=torch.float64)
        for part in parts(features, _BLOCK_ROWS):
            centred = part.double() - mean
            scatter += centred.T @ centred
        values, vectors = torch.linalg.eigh(shrunk(scatter / n, n))
        self.mean.copy_(mean)
        self.whitener.copy_(vectors * values.clamp_min(_LEAST_VARIANCE).rsqrt())
        distances = torch.cat([self.distance(part) for part in parts(features, _BLOCK_ROWS)]).sort().values
        self.knots.copy_(distances[torch.linspace(0, n - 1, KNOTS).round().long()])

    def distance(self, features: torch.Tensor) -> torch.Tensor:
        """Mahalanobis distances ``[n]`` of ``[n, dim]`` features."""
        return ((features - self.mean) @ self.whitener).norm(dim=-1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Shares ``[n]`` of the training states that lie nearer than each of ``[n, dim]`` features, to 0.001."""
        return torch.searchsorted(self.knots, self.distance(features)) / len(self.knots)


def shares_beyond(novelty: Sequence[float], limit: float) -> dict[str, float]:
    """How novel some states are.

    Returns:
        ``median``; the shares above 0.9 and 0.99 (``beyond_90``, ``beyond_99``; of training states 0.1 and 0.01) and
        above ``limit`` (``beyond_limit``); and the share that is farther away than all of them (``beyond_all``).
    """
    values = np.asarray(novelty, dtype=np.float64)
    found = {"beyond_90": values > 0.9, "beyond_99": values > 0.99, "beyond_limit": values > limit}
    return {
        "median": float(np.median(values)),
        **{name: float(far.mean()) for name, far in found.items()},
        "beyond_all": float((values == 1.0).mean()),
    }


def shrunk(covariance: torch.Tensor, n: int) -> torch.Tensor:
    """The covariance ``[d, d]`` of ``n`` samples, shrunk as the oracle of a Gaussian would, approximately (OAS).

    Chen et al. 2010, equation 23: exact in expectation for any ``n`` and ``d``; one sample gives the identity alone.
    """
    dim = len(covariance)
    square, trace = (covariance**2).sum(), covariance.trace()
    across = (n + 1 - 2 / dim) * (square - trace**2 / dim)
    share = (((1 - 2 / dim) * square + trace**2) / across).clamp(max=1.0) if across > 0 else 1.0
    return (1 - share) * covariance + share * trace / dim * torch.eye(dim, dtype=covariance.dtype)
