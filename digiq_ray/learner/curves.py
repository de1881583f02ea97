"""Curves of a training: each figure as its mean over stretches of steps.

The sums of the stretch that is under way belong to the state of a training: one that was killed in the middle of a
stretch and goes on draws the same curve, to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

Figures = dict[str, list[list[float]]]


@dataclass(slots=True)
class Curves:
    """The points so far, and the stretch under way.

    Attributes:
        stride: Steps for each point; the last point may stand for fewer.
        points: ``{figure: [[step, mean], ...]}``.
        sums: Sum of each figure over the stretch under way.
        count: How many steps of it are done.
    """

    stride: int
    points: Figures = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0

    @classmethod
    def of(cls, steps: int, most: int) -> Self:
        """Empty curves of a training of ``steps`` steps, with ``most`` points each at most."""
        return cls(stride=max(1, -(-steps // most)))

    def add(self, done: int, figures: dict[str, float], *, last: bool) -> dict[str, float]:
        """Takes the figures of one step.

        Args:
            done: Steps done, with this one.
            figures: By name; the same names in each step.
            last: Whether the training ends here.

        Returns:
            The new point of each curve, or nothing if the stretch goes on.
        """
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        if self.count < self.stride and not last:
            return {}
        means = {name: value / self.count for name, value in self.sums.items()}
        for name, value in means.items():
            self.points.setdefault(name, []).append([done, value])
        self.sums, self.count = {}, 0
        return means
