"""Best-of-N: imitate the candidate with the highest Q, where it is better than the state's value (Digi-Q section 4.3).

The argmax over many candidates falls too often on one that was drawn once, where the critic has seen nothing like it.
The *support rule* keeps only candidates drawn at least ``min_support`` times of ``K``; taps close to each other count
as one action. A state whose candidates are all rarer keeps its most frequent one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from digiq_ray.core.actions import Action

_ROUNDING = 1e-9  # 0.55 - 0.50 is a little more than 0.05


@dataclass(frozen=True, slots=True)
class StateCandidates:
    """The candidates of one state: texts, parsed actions (``None`` = unparsable), how often each was drawn of ``K``."""

    texts: Sequence[str]
    actions: Sequence[Action | None]
    counts: Sequence[int]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Which candidates are actions of the grammar."""
        return np.array([action is not None for action in self.actions], dtype=np.bool_)

    def only(self, kept: Sequence[bool]) -> StateCandidates:
        """Those that ``kept`` says, one for each."""
        rows = zip(self.texts, self.actions, self.counts, kept, strict=True)
        left = [(text, action, count) for text, action, count, keep in rows if keep]
        return StateCandidates([row[0] for row in left], [row[1] for row in left], [row[2] for row in left])


def draw(
    candidates: StateCandidates, n: int, generator: np.random.Generator, *, keep: str | None = None
) -> StateCandidates:
    """``n`` of the samples, drawn without replacement: what best-of-N chooses from.

    Args:
        candidates: All samples of a state.
        n: How many; with as many or fewer samples, or 0, all stay.
        generator: Decides which.
        keep: Text of a candidate that takes one of the places for certain, if it is one.
    """
    counts = np.array(candidates.counts, dtype=np.int64)
    if n and counts.sum() > n:
        certain = [text == keep for text in candidates.texts]
        free = counts - np.array(certain) * (counts > 0)
        counts = generator.multivariate_hypergeometric(free, n - any(certain)) + np.array(certain)
    chosen = replace(candidates, counts=counts.tolist())
    return chosen.only([count > 0 or text == keep for count, text in zip(counts, candidates.texts, strict=True)])


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen candidate of one state: its index, or ``None`` where nothing is worth imitating, and why it won."""

    index: int | None
    advantage: float
    support: int


def similar(first: Action, second: Action, radius: float) -> bool:
    """Whether two actions count as the same: equal, or touches of one type whose points lie within ``radius``.

    ``radius`` is a share of the screen, and holds for x and for y.
    """
    if first == second:
        return True
    if first.type is not second.type or first.x is None or first.y is None or second.x is None or second.y is None:
        return False
    radius += _ROUNDING
    close = abs(first.x - second.x) <= radius and abs(first.y - second.y) <= radius
    if first.x2 is None or first.y2 is None or second.x2 is None or second.y2 is None:
        return close
    return close and abs(first.x2 - second.x2) <= radius and abs(first.y2 - second.y2) <= radius


def support(candidates: StateCandidates, radius: float) -> NDArray[np.int64]:
    """How often each candidate, or one like it, was drawn; 0 for unparsable ones."""
    counts = np.zeros(len(candidates.texts), dtype=np.int64)
    for i, action in enumerate(candidates.actions):
        if action is None:
            continue
        for j, other in enumerate(candidates.actions):
            if other is not None and similar(action, other, radius):
                counts[i] += candidates.counts[j]
    return counts


def best_of_n(
    candidates: StateCandidates,
    q_values: NDArray[np.float64],
    value: float,
    *,
    margin: float,
    min_support: int,
    radius: float,
) -> Choice:
    """The candidate with the highest Q among valid and supported ones, if ``Q - V`` exceeds ``margin``.

    Args:
        candidates: All candidates of the state.
        q_values: Q of each, ``[n]``.
        value: V of the state.
        margin: Least advantage; the paper's is 0.
        min_support: Least number of draws (see the module).
        radius: Distance within which touches count as one action.

    Returns:
        The choice. Its index is ``None`` where no candidate is valid, or the best is not better than ``margin``.
    """
    counts = support(candidates, radius)
    allowed = candidates.valid & (counts >= min_support)
    if not allowed.any():
        allowed = candidates.valid & (counts == counts.max(initial=0))
    if not allowed.any():
        return Choice(None, 0.0, 0)
    index = int(np.where(allowed, q_values, -np.inf).argmax())
    advantage = float(q_values[index] - value)
    return Choice(index if advantage > margin else None, advantage, int(counts[index]))


def random_candidate(candidates: StateCandidates, uniform: float) -> int | None:
    """A valid candidate drawn with the probability that the behaviour policy gave it: the control without a critic.

    Where only unparsable ones were sampled, each valid candidate (the executed action) is as likely as another, so that
    the control has an item wherever best-of-N has one.

    Args:
        candidates: All candidates of the state.
        uniform: A uniform number in [0, 1).

    Returns:
        Its index, or ``None`` if no candidate is valid.
    """
    valid = candidates.valid
    if not valid.any():
        return None
    weights = np.array(candidates.counts, dtype=np.float64) * valid
    if not weights.any():
        weights = valid.astype(np.float64)
    return int(np.searchsorted(np.cumsum(weights) / weights.sum(), uniform, side="right"))
