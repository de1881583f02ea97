"""Best-of-N: imitate the candidate with the highest Q, where it is better than the state's value (Digi-Q section 4.3).

The argmax over many candidates falls too often on one that was drawn once, where the critic has seen nothing like it.
The *support rule* keeps only candidates drawn at least ``min_support`` times of ``K``, or, where ``min_probability`` is
given, those that the behaviour policy would do with that probability: what counts of draws estimate. Taps close to each
other count as one action. A state whose candidates are all rarer keeps its most frequent, or likeliest, one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from digiq_ray.core.actions import Action
from digiq_ray.core.errors import InputError

Number = TypeVar("Number", np.int64, np.float64)

_ROUNDING = 1e-9  # 0.55 - 0.50 is a little more than 0.05


@dataclass(frozen=True, slots=True)
class StateCandidates:
    """The candidates of one state.

    Attributes:
        texts: Unique.
        actions: As parsed; ``None`` is unparsable.
        counts: How often each was drawn of ``K``.
        logprobs: Natural logarithm of the behaviour policy's probability of each text, ``None`` where it is not known
            (as of an executed action that was not drawn again); empty where none was asked for.
    """

    texts: Sequence[str]
    actions: Sequence[Action | None]
    counts: Sequence[int]
    logprobs: Sequence[float | None] = ()

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Which candidates are actions of the grammar."""
        return np.array([action is not None for action in self.actions], dtype=np.bool_)

    def only(self, kept: Sequence[bool]) -> StateCandidates:
        """Those that ``kept`` says, one for each."""
        left = [index for index, keep in zip(range(len(self.texts)), kept, strict=True) if keep]
        return StateCandidates(
            [self.texts[index] for index in left],
            [self.actions[index] for index in left],
            [self.counts[index] for index in left],
            [self.logprobs[index] for index in left] if self.logprobs else (),
        )

    def probabilities(self) -> NDArray[np.float64]:
        """Of each under the behaviour policy, 0 where it is not known.

        Raises:
            InputError: none is known.
        """
        if all(one is None for one in self.logprobs):
            raise InputError(
                "the candidates of a state have no log-probabilities: sample them again (digiq candidates), or ask for "
                "draws instead (policy.min_support, critic.backup_support)"
            )
        return np.array([0.0 if one is None else np.exp(one) for one in self.logprobs])


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
    return _with_alike(candidates, np.array(candidates.counts, dtype=np.int64), radius)


def likelihood(candidates: StateCandidates, radius: float) -> NDArray[np.float64]:
    """Probability under the behaviour policy of each candidate, or one like it that was drawn; 0 for unparsable ones.

    Raises:
        InputError: no log-probability is known.
    """
    return _with_alike(candidates, candidates.probabilities(), radius)


def _with_alike(candidates: StateCandidates, amounts: NDArray[Number], radius: float) -> NDArray[Number]:
    """The sum of ``amounts`` over the candidates that are like each one."""
    sums = np.zeros_like(amounts)
    for i, action in enumerate(candidates.actions):
        if action is None:
            continue
        for j, other in enumerate(candidates.actions):
            if other is not None and similar(action, other, radius):
                sums[i] += amounts[j]
    return sums


def without_unlikely(candidates: StateCandidates, least: float) -> StateCandidates:
    """Counts of what is less likely than ``least`` as 0; all as they are if nothing is as likely.

    Raises:
        InputError: no log-probability is known.
    """
    likely = candidates.probabilities() >= least
    counts = np.where(likely, candidates.counts, 0)
    return replace(candidates, counts=counts.tolist()) if counts.any() else candidates


def best_of_n(
    candidates: StateCandidates,
    q_values: NDArray[np.float64],
    value: float,
    *,
    margin: float,
    min_support: int,
    radius: float,
    min_probability: float = 0.0,
) -> Choice:
    """The candidate with the highest Q among valid and supported ones, if ``Q - V`` exceeds ``margin``.

    Args:
        candidates: All candidates of the state.
        q_values: Q of each, ``[n]``.
        value: V of the state.
        margin: Least advantage; the paper's is 0.
        min_support: Least number of draws (see the module).
        radius: Distance within which touches count as one action.
        min_probability: Least probability under the behaviour policy, which then decides instead of draws; 0 is none.

    Returns:
        The choice. Its index is ``None`` where no candidate is valid, or the best is not better than ``margin``.

    Raises:
        InputError: ``min_probability`` is asked of candidates without log-probabilities.
    """
    counts = support(candidates, radius)
    if min_probability:
        likely = likelihood(candidates, radius)
        supported, most = likely >= min_probability, likely == likely.max(initial=0.0)
    else:
        supported, most = counts >= min_support, counts == counts.max(initial=0)
    allowed = candidates.valid & supported
    if not allowed.any():
        allowed = candidates.valid & most
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
