"""How a head's outputs read as values, and the error of them against a target: regression and classification.

``mse`` and ``huber`` regress. ``logistic`` is cross-entropy of one logit, for values between two bounds (with returns
of 0 and 1: classification of success). ``hl_gauss`` is cross-entropy against a histogram of the target, smeared by a
Gaussian (Farebrother et al., "Stop Regressing", arXiv 2403.03950).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from digiq_ray.core.settings import Loss

_SMEAR = 0.75  # deviation of the Gaussian in bins, as in the paper
_HUBER = 0.1  # values lie around 0 to 1: errors above a tenth count linearly


class Readout(Protocol):
    """What outputs ``[heads, n, outputs]`` mean."""

    @property
    def outputs(self) -> int:
        """How many a head has."""
        ...

    def start(self, last: nn.Module) -> None:
        """Sets the last layer of a new head."""
        ...

    def values(self, outputs: torch.Tensor) -> torch.Tensor:
        """Values ``[heads, n]``."""
        ...

    def error(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Sum over the heads of the mean error against targets ``[n]``, or ``[heads, n]`` where each has its own.

        Raises:
            ValueError: the shapes would broadcast into something else (the original's ``(B, 1)`` against ``(B,)``).
        """
        ...


def readout(loss: Loss, *, bins: int, low: float, high: float) -> Readout:
    """What ``loss`` makes of outputs; ``bins``, ``low`` and ``high`` as in ``CriticShape``."""
    if loss == "logistic":
        return Logistic(low, high)
    if loss == "hl_gauss":
        return Histogram(bins, low, high)
    return Regression(huber=loss == "huber")


def _fitting(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The target as ``[heads, n]``."""
    heads, n = outputs.shape[:2]
    if outputs.dim() != 3 or target.shape not in ((n,), (heads, n)):
        raise ValueError(f"outputs {tuple(outputs.shape)} do not fit a target {tuple(target.shape)}")
    return target.expand(heads, n)


@dataclass(frozen=True, slots=True)
class Regression:
    """One output, which is the value."""

    huber: bool = False
    outputs: int = 1

    def start(self, last: nn.Module) -> None:
        """Nothing to set."""

    def values(self, outputs: torch.Tensor) -> torch.Tensor:
        """See ``Readout``."""
        return outputs[..., 0]

    def error(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See ``Readout``."""
        target, values = _fitting(outputs, target), self.values(outputs)
        if self.huber:
            return functional.huber_loss(values, target, delta=_HUBER, reduction="none").mean(1).sum()
        return (values - target).square().mean(1).sum()


@dataclass(frozen=True, slots=True)
class Logistic:
    """One logit; its sigmoid lies between the bounds. Starts at a fifth of the way, since success is rare."""

    low: float
    high: float
    outputs: int = 1

    def start(self, last: nn.Module) -> None:
        """See ``Readout``."""
        assert isinstance(last, nn.Linear)
        nn.init.constant_(last.bias, -math.log(4.0))

    def values(self, outputs: torch.Tensor) -> torch.Tensor:
        """See ``Readout``."""
        return self.low + (self.high - self.low) * torch.sigmoid(outputs[..., 0])

    def error(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See ``Readout``; targets beyond the bounds count as the bound."""
        share = ((_fitting(outputs, target) - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
        return functional.binary_cross_entropy_with_logits(outputs[..., 0], share, reduction="none").mean(1).sum()


class Histogram:
    """Logits of ``bins`` equal parts of the range; the value is the mean of their centres."""

    def __init__(self, bins: int, low: float, high: float) -> None:
        self.outputs = bins
        self.low, self.high = low, high
        self.edges = torch.linspace(low, high, bins + 1)
        self.centres = (self.edges[1:] + self.edges[:-1]) / 2
        self.deviation = _SMEAR * (high - low) / bins

    def start(self, last: nn.Module) -> None:
        """Nothing to set."""

    def values(self, outputs: torch.Tensor) -> torch.Tensor:
        """See ``Readout``."""
        return outputs.softmax(-1) @ self.centres.to(outputs.device)

    def histogram(self, target: torch.Tensor) -> torch.Tensor:
        """Shares of the bins, ``[.., bins]``, of a Gaussian around each target; each row sums to 1."""
        edges = self.edges.to(target.device)
        centre = target.clamp(self.low, self.high)
        below = torch.erf((edges - centre[..., None]) / (self.deviation * math.sqrt(2.0)))
        return (below[..., 1:] - below[..., :-1]) / (below[..., -1:] - below[..., :1])

    def error(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See ``Readout``; targets beyond the bounds count as the bound."""
        shares = self.histogram(_fitting(outputs, target))
        return -(shares * outputs.log_softmax(-1)).sum(-1).mean(1).sum()
