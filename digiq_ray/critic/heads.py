"""Q and V heads: small multi-layer perceptrons on normalised features, and the critic that holds several of both."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional

from digiq_ray.core.moments import Moments
from digiq_ray.core.settings import Aggregate, Loss, Normalise
from digiq_ray.critic.features import Features, blocks
from digiq_ray.critic.losses import readout

_ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}


@dataclass(frozen=True, slots=True)
class HeadShape:
    """The hidden layers of a head.

    Attributes:
        widths: Of each hidden layer; 0 is the width of the input.
        activation: ``gelu`` or ``relu``.
        layer_norm: Whether a LayerNorm follows each activation.
        dropout: Share of the input features that training leaves out at random, for all heads alike.
    """

    widths: tuple[int, ...] = (128, 128)
    activation: str = "gelu"
    layer_norm: bool = True
    dropout: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticShape:
    """All that is needed to build a critic.

    Attributes:
        state_dim, action_dim: Lengths of f(s) and f(s, a).
        q, v: Shapes of the heads.
        heads: How many of each there are; 2 are the paper's twins.
        aggregate: How their values become one: ``min``, ``mean``, ``max``, or ``pessimistic`` (mean less deviation).
        loss: What trains them, which decides how an output reads as a value (see ``losses``).
        bins: Outputs of a head where values are histograms.
        low, high: Range of values where the loss bounds them.
        normalise: What becomes of the features: ``standardise``, ``whiten`` (decorrelated too) or ``none``.
    """

    state_dim: int
    action_dim: int
    q: HeadShape = HeadShape()
    v: HeadShape = HeadShape()
    heads: int = 2
    aggregate: Aggregate = "min"
    loss: Loss = "mse"
    bins: int = 51
    low: float = 0.0
    high: float = 1.0
    normalise: Normalise = "standardise"

    def to_json(self) -> dict[str, Any]:
        """As JSON; ``from_json`` of it is equal."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Reads ``to_json``.

        Raises:
            KeyError, TypeError: it is something else.
        """
        heads = {name: HeadShape(**{**data[name], "widths": tuple(data[name]["widths"])}) for name in ("q", "v")}
        return cls(**{**data, **heads})


class Normaliser(nn.Module):
    """Centres features by the training data's mean and scales them, clamped to +-6 deviations.

    Args:
        dim: Length of a feature.
        kind: ``standardise`` scales each by its deviation, ``whiten`` all by the inverse square root of their
            covariance (ZCA), ``none`` leaves them as they are.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, dim: int, kind: Normalise = "standardise") -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.eye(dim) if kind == "whiten" else torch.ones(dim))

    def fit(self, features: Features) -> None:
        """Takes what it needs from ``[n, dim]`` features, a block at a time (twice if it whitens)."""
        if self.kind == "none":
            return
        moments = Moments()
        for count, mean, variance in map(_moments, blocks(features)):  # map holds no block while the next is read
            moments.add(count, mean, variance)
        self.mean.copy_(moments.mean)
        if self.kind == "standardise":
            self.scale.copy_(moments.variance.sqrt().float() + 1e-3)
            return
        products = sum(map(self._products, blocks(features)))
        values, vectors = torch.linalg.eigh(products / len(features))
        floor = 1e-3 * values.max().clamp_min(1e-6)
        self.scale.copy_(vectors @ torch.diag((values.clamp_min(0.0) + floor).rsqrt()) @ vectors.T)

    def _products(self, block: torch.Tensor) -> torch.Tensor:
        centred = (block - self.mean).double()
        return centred.T @ centred

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Normalised features of the same shape."""
        if self.kind == "none":
            return features
        centred = features - self.mean
        scaled = centred @ self.scale if self.kind == "whiten" else centred.div_(self.scale)
        return scaled.clamp_(-6.0, 6.0)


def _moments(block: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Count, mean and variance ``[dim]`` of features ``[n, dim]``, of float32 precision in float64."""
    spread = block.std(0, unbiased=False).double()
    return len(block), block.mean(0).double(), spread * spread


def make_head(dim: int, shape: HeadShape, outputs: int = 1) -> nn.Sequential:
    """``[.., dim]`` features to ``[.., outputs]``: linear, activation and norm for each hidden layer, and linear."""
    layers: list[nn.Module] = []
    for width in shape.widths:
        layers += [nn.Linear(dim, width or dim), _ACTIVATIONS[shape.activation]()]
        dim = width or dim
        layers += [nn.LayerNorm(dim)] if shape.layer_norm else []
    return nn.Sequential(*layers, nn.Linear(dim, outputs))


class Heads(nn.Module):
    """Independent heads on one kind of feature."""

    def __init__(self, dim: int, shape: HeadShape, critic: CriticShape) -> None:
        super().__init__()
        self.readout = readout(critic.loss, bins=critic.bins, low=critic.low, high=critic.high)
        self.normalise = Normaliser(dim, critic.normalise)
        self.dropout = nn.Dropout(shape.dropout)
        made = [make_head(dim, shape, self.readout.outputs) for _ in range(critic.heads)]
        for head in made:
            self.readout.start(head[-1])
        self.heads = nn.ModuleList(made)

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Outputs of all heads, ``[heads, n, outputs]`` for ``[n, dim]`` features; what the loss takes.

        Args:
            features: Of n rows.
            mask: What dropout leaves of them, if that was drawn before (see ``mask``).
        """
        inputs = self.normalise(features)
        inputs = self.dropout(inputs) if mask is None else inputs * mask
        return torch.stack([head(inputs) for head in self.heads])

    def mask(self, rows: int) -> torch.Tensor:
        """What dropout would leave of ones in so many features, ``[rows, dim]``: the same numbers, drawn in advance."""
        ones = torch.ones(rows, len(self.normalise.mean), device=self.normalise.mean.device)
        return functional.dropout(ones, self.dropout.p, self.training)

    def values(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Values of all heads, ``[heads, n]``."""
        return self.readout.values(self(features, mask))


class Critic(nn.Module):
    """Q heads on f(s, a) and V heads on f(s).

    Args:
        shape: Of everything.
        seed: Decides the initial weights.
    """

    def __init__(self, shape: CriticShape, *, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.q_heads = Heads(shape.action_dim, shape.q, shape)
            self.v_heads = Heads(shape.state_dim, shape.v, shape)

    def q(self, features: torch.Tensor) -> torch.Tensor:
        """Q values ``[n]`` of f(s, a)."""
        return aggregated(self.q_heads.values(features), self.shape.aggregate)

    def v(self, features: torch.Tensor) -> torch.Tensor:
        """V values ``[n]`` of f(s)."""
        return aggregated(self.v_heads.values(features), self.shape.aggregate)

    def target(self, *, seed: int | None = None) -> Critic:
        """A frozen critic to bootstrap from.

        Args:
            seed: ``None`` copies this one (it starts equal); else it starts from weights of its own, as the released
                code's does.
        """
        if seed is None:
            return copy.deepcopy(self).eval().requires_grad_(False)
        made = Critic(self.shape, seed=seed)
        for kept, given in zip(made.buffers(), self.buffers(), strict=True):
            kept.copy_(given)
        return made.eval().requires_grad_(False)


def aggregated(values: torch.Tensor, how: Aggregate) -> torch.Tensor:
    """``[heads, n]`` values as one ``[n]``; see ``CriticShape.aggregate``."""
    if how == "pessimistic":
        return values.mean(0) - values.std(0, unbiased=False)
    if how == "mean":
        return values.mean(0)
    return values.amin(0) if how == "min" else values.amax(0)


@torch.no_grad()
def polyak(target: nn.Module, source: nn.Module, tau: float) -> None:
    """Moves the target's parameters the share ``tau`` of the way to the source's; buffers become the source's."""
    for slow, fast in zip(target.parameters(), source.parameters(), strict=True):
        slow.lerp_(fast, tau)
    for kept, given in zip(target.buffers(), source.buffers(), strict=True):
        kept.copy_(given)
