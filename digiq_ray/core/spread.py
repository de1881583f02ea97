"""How one training is spread over processes: what each takes of a batch, and what they find out together.

Every process carries out the same training and draws the same batches; it computes the gradient of its part, and the
mean over all processes is that of the whole batch. A trainer is written once, for any number of processes: ``ALONE``
has everything to itself and changes nothing. ``learner.distributed`` has the spread of several.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

from digiq_ray.core.errors import InputError

P = ParamSpec("P")
T = TypeVar("T")


class Run(Protocol):
    """Runs whatever computes with a module. All processes must run the same, in the same order."""

    def __call__(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """``work(*args, **kwargs)``."""
        ...


def _run(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    return work(*args, **kwargs)


class Spread:
    """One process, which is all there are.

    Attributes:
        rank: Number of this process; process 0 writes what is to be kept.
        size: How many processes there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def every(self) -> slice:
        """What this process takes of a batch: every ``size``-th row, so that each has as many of the first ones."""
        return slice(self.rank, None, self.size)

    def stretch(self, rows: int) -> slice:
        """What this process takes of a batch of ``rows`` whose neighbours are better computed together."""
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def weight(self, own: int, whole: int) -> float:
        """What a mean over ``own`` of ``whole`` rows counts, so that the mean over the processes is the mean of all."""
        return self.size * own / whole

    def require(self, rows: int, what: str) -> None:
        """Raises ``InputError`` if a batch of ``rows`` leaves a process without any."""
        if rows < self.size:
            raise InputError(
                f"a batch of {rows} {what} cannot be shared among {self.size} processes: set learner.workers to {rows}"
            )

    def mean(self, figures: dict[str, float]) -> dict[str, float]:
        """The mean of each figure over the processes."""
        return figures

    def replicated(self, module: Any) -> Run:
        """A module that each process has a copy of, moved to its device; gradients become the mean over the processes.

        What is differentiated must be computed by the result, and by one call of it for each update.
        """
        return _run

    def sharded(self, module: Any) -> Run:
        """The same for a module too large to be copied: each process keeps a part of every parameter.

        The parameters of the module are others from here on.
        """
        return _run

    def wait(self) -> None:
        """Returns when all processes are here."""


ALONE = Spread()
