"""Features that are read a few rows at a time: of a tensor, or of files that nobody holds in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

_BLOCK_BYTES = 64 << 20


class Features(Protocol):
    """``n`` features of one length, float32. A tensor ``[n, dim]`` is one."""

    def __len__(self) -> int:
        """``n``."""
        ...

    def __getitem__(self, rows: slice | torch.Tensor, /) -> torch.Tensor:
        """Those of ``rows``, a range of step 1 or an index ``[m]``, as ``[m, dim]``; not to be changed in place."""
        ...


@dataclass(frozen=True, slots=True)
class Selection:
    """The features of ``rows`` ``[n]`` among others."""

    features: Features
    rows: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | torch.Tensor, /) -> torch.Tensor:
        return self.features[self.rows[rows]]


def parts(features: Features, rows: int) -> Iterator[torch.Tensor]:
    """All features, so many rows at a time."""
    for start in range(0, len(features), rows):
        yield features[start : start + rows]


def blocks(features: Features, most: int = _BLOCK_BYTES) -> Iterator[torch.Tensor]:
    """All features, in blocks of at most so many bytes each (but at least a row)."""
    return parts(features, max(1, most // (4 * features[:1].shape[1])))
