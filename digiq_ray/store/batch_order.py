"""Which samples make up which batch: a pure function of seed, epoch and number, so that nothing needs to be remembered.

An epoch is one permutation of all samples, made of counter-based random numbers (``core.rng``), the same on every
machine and for every version of numpy. Ranks take turns in it: their batches of one number, put together, are the batch
of that number that a single rank would get with ``world`` times the batch. Where the samples do not divide by
``world``, fewer than ``world`` of them are left out of an epoch, other ones in each. It holds one epoch's indices.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digiq_ray.core.errors import InputError
from digiq_ray.core.rng import seed_of, uniforms


@dataclass(frozen=True, kw_only=True)
class BatchOrder:
    """The order of the samples of one rank.

    Attributes:
        samples: How many there are; they are numbered from 0.
        batch: Samples in a batch of this rank.
        seed: Of the shuffling.
        drop_last: Whether a last batch that is not full is left out of each epoch.
        rank, world: Which of how many equal shares this is.

    Raises:
        InputError: a number is impossible, or an epoch would hold no batch.
    """

    samples: int
    batch: int
    seed: int
    drop_last: bool = False
    rank: int = 0
    world: int = 1
    _kept: list[tuple[int, NDArray[np.int64]]] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.batch < 1 or not 0 <= self.rank < self.world:
            raise InputError(
                f"batches of {self.batch} for rank {self.rank} of {self.world}: "
                "the batch must be at least 1, the rank at least 0 and below the world size"
            )
        if not self.batches:
            raise InputError(
                f"{self.samples} samples do not fill one batch of {self.batch} for each of {self.world} ranks; "
                "collect more, take smaller batches, or keep the last batch"
            )

    @property
    def share(self) -> int:
        """Samples that each rank sees in an epoch."""
        return self.samples // self.world

    @property
    def batches(self) -> int:
        """Batches in an epoch, the same for every rank."""
        return self.share // self.batch if self.drop_last else -(-self.share // self.batch)

    def indices(self, epoch: int, number: int) -> NDArray[np.int64]:
        """The samples of one batch: ``[batch]``, or fewer in the last of an epoch. Thread-safe."""
        assert 0 <= number < self.batches, f"an epoch has {self.batches} batches, there is no {number}"
        return self._epoch(epoch)[number * self.batch : min((number + 1) * self.batch, self.share)]

    def settings(self) -> dict[str, Any]:
        """What decides the batches, as JSON: a position in one order means nothing in another. All ranks share it."""
        names = [one.name for one in dataclasses.fields(self) if one.init and one.name != "rank"]
        return {name: getattr(self, name) for name in names}

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        for kept, indices in self._kept:
            if kept == epoch:
                return indices
        numbers = uniforms(seed_of("batch order", self.seed, epoch), np.arange(self.samples, dtype=np.uint64))
        whole = np.argsort(numbers, kind="stable")
        indices = np.ascontiguousarray(whole[self.rank : self.share * self.world : self.world])
        self._kept[:] = [(epoch, indices)]
        return indices
