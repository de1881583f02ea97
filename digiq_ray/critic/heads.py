"""Q and V heads: small multi-layer perceptrons on standardised features, and the critic that holds twins of both."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from digiq_ray.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class HeadShape:
    """Width and depth of a head's hidden layers."""

    width: int = 256
    depth: int = 2


class Standardise(nn.Module):
    """Centres and scales each feature by the training data's mean and deviation, clamped to +-6 deviations."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def fit(self, features: torch.Tensor) -> None:
        """Takes mean and deviation from ``[n, dim]`` features."""
        self.mean.copy_(features.mean(0))
        self.scale.copy_(features.std(0, unbiased=False) + 1e-3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Standardised features of the same shape."""
        return ((features - self.mean) / self.scale).clamp(-6.0, 6.0)


def make_head(dim: int, shape: HeadShape) -> nn.Sequential:
    """``[.., dim]`` features to ``[.., 1]`` values: linear, GELU and LayerNorm for each hidden layer."""
    layers: list[nn.Module] = []
    for _ in range(shape.depth):
        layers += [nn.Linear(dim, shape.width), nn.GELU(), nn.LayerNorm(shape.width)]
        dim = shape.width
    return nn.Sequential(*layers, nn.Linear(dim, 1))


class Twins(nn.Module):
    """Two independent heads on one kind of feature."""

    def __init__(self, dim: int, shape: HeadShape) -> None:
        super().__init__()
        self.standardise = Standardise(dim)
        self.heads = nn.ModuleList(make_head(dim, shape) for _ in range(2))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Values of both heads, ``[2, n]`` for ``[n, dim]`` features."""
        inputs = self.standardise(features)
        return torch.stack([head(inputs)[..., 0] for head in self.heads])


class Critic(nn.Module):
    """Twin Q heads on f(s, a) and twin V heads on f(s).

    Args:
        state_dim, action_dim: Lengths of f(s) and f(s, a).
        shape: Shape of all heads.
        aggregate: How the twins become one value, in targets and for all who use the critic: ``min`` or ``mean``.
        seed: Decides the initial weights.

    Raises:
        ConfigError: ``aggregate`` is neither.
    """

    def __init__(
        self, *, state_dim: int, action_dim: int, shape: HeadShape | None = None, aggregate: str = "min", seed: int = 0
    ) -> None:
        super().__init__()
        if aggregate not in ("min", "mean"):
            raise ConfigError(f"critic.aggregate={aggregate!r}: it must be min or mean")
        self.aggregate = aggregate
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.q_heads = Twins(action_dim, shape or HeadShape())
            self.v_heads = Twins(state_dim, shape or HeadShape())

    def _one(self, values: torch.Tensor) -> torch.Tensor:
        return values.amin(0) if self.aggregate == "min" else values.mean(0)

    def q(self, features: torch.Tensor) -> torch.Tensor:
        """Q values ``[n]`` of f(s, a)."""
        return self._one(self.q_heads(features))

    def v(self, features: torch.Tensor) -> torch.Tensor:
        """V values ``[n]`` of f(s)."""
        return self._one(self.v_heads(features))

    def target(self) -> Critic:
        """A frozen copy: the target critic starts equal to the critic."""
        return copy.deepcopy(self).requires_grad_(False)


@torch.no_grad()
def polyak(target: nn.Module, source: nn.Module, tau: float) -> None:
    """Moves the target's parameters the share ``tau`` of the way to the source's; buffers become the source's."""
    for slow, fast in zip(target.parameters(), source.parameters(), strict=True):
        slow.lerp_(fast, tau)
    for kept, given in zip(target.buffers(), source.buffers(), strict=True):
        kept.copy_(given)
