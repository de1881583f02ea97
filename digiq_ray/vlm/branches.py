"""Samples that grow from prefixes which were run once: a batch of branches, one token longer at each step.

Where the model allows it (``packing.can_pack``) the branches of a prefix share its row and its cache: a step reads the
keys and values of a long prompt with an image once for all of its samples, and copies none. Elsewhere each branch has
a copy of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import torch

from digiq_ray.vlm.batching import Prefix, run_suffix
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.packing import additive, can_pack


class Branches(Protocol):
    """``n`` branches."""

    last: torch.Tensor
    """Hidden states ``[n, D]`` of their last tokens."""

    def step(self, tokens: torch.Tensor) -> None:
        """Each grows by one of ``tokens`` ``[n]``."""
        ...

    def keep(self, chosen: Sequence[int]) -> None:
        """Only these are left, in this order."""
        ...


def branches(vlm: Vlm, prefix: Prefix, owners: Sequence[int]) -> Branches:
    """Branch ``i`` grows from row ``owners[i]`` of ``prefix``, which must not be used for anything else any more."""
    shared = len(set(owners)) < len(owners) and can_pack(vlm)
    return SharedRows(vlm, prefix, owners) if shared else OwnRows(vlm, prefix, owners)


class OwnRows:
    """A row of the batch for each branch."""

    def __init__(self, vlm: Vlm, prefix: Prefix, owners: Sequence[int]) -> None:
        self._vlm, self._state = vlm, prefix
        if list(owners) != list(range(len(prefix.last))):
            self._state = prefix.select(torch.tensor(owners, device=vlm.model.device))
        self.last = self._state.last

    def step(self, tokens: torch.Tensor) -> None:
        """See ``Branches``."""
        ids = tokens[:, None].to(self._vlm.model.device)
        self.last = run_suffix(self._vlm, self._state, ids, torch.ones_like(ids))[:, -1]

    def keep(self, chosen: Sequence[int]) -> None:
        """See ``Branches``."""
        rows = torch.tensor(chosen, device=self._vlm.model.device)
        self._state, self.last = self._state.select(rows), self.last[rows]


class SharedRows:
    """A row of the batch for each prefix: behind it, at each step, one token for each of its branches.

    All tokens of a step take the same position; each sees the prefix and the tokens of its own branch. Where a prefix
    has fewer branches than another, padding takes their place.
    """

    def __init__(self, vlm: Vlm, prefix: Prefix, owners: Sequence[int]) -> None:
        self._vlm, self._cache, self._steps = vlm, prefix.cache, 0
        self._present, self._position = prefix.mask.bool(), prefix.next_position
        self.last = prefix.last[torch.tensor(owners, device=vlm.model.device)]
        self._owners, self._places, self._width = _placed(owners, vlm.model.device)

    def step(self, tokens: torch.Tensor) -> None:
        """See ``Branches``."""
        vlm, (rows, length), width = self._vlm, self._present.shape, self._width
        self._steps += 1
        ids = torch.full((rows, width), vlm.pad_id, device=vlm.model.device)
        ids[self._owners, self._places] = tokens.to(ids.device)
        own = torch.eye(width, dtype=torch.bool, device=ids.device).repeat(1, self._steps)
        seen = torch.cat([self._present[:, None].expand(rows, width, length), own.expand(rows, -1, -1)], -1)
        where = self._position[:, None].expand(rows, width)
        out = vlm.model.model(
            input_ids=ids,
            attention_mask=additive(seen, vlm.model.dtype),
            position_ids=where.expand(3, -1, -1) if vlm.has_image_positions else where,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._position = self._position + 1
        self.last = out.last_hidden_state[self._owners, self._places]

    def keep(self, chosen: Sequence[int]) -> None:
        """See ``Branches``."""
        device = self._vlm.model.device
        which = torch.tensor(chosen, device=device)
        rows, owners = self._owners[which].unique(return_inverse=True)
        left, length = self._places[which], self._present.shape[1]
        self._owners, self._places, width = _placed(owners.tolist(), device)
        tokens = torch.zeros(len(rows), self._steps, width, dtype=torch.long, device=device)
        blocks = length + self._width * torch.arange(self._steps, device=device)
        tokens[self._owners, :, self._places] = blocks + left[:, None]
        prefix = torch.arange(length, device=device).expand(len(rows), -1)
        columns = torch.cat([prefix, tokens.flatten(1)], 1)[:, None, :, None]
        for layer in self._cache.layers:
            layer.keys = layer.keys[rows].take_along_dim(columns, 2)
            layer.values = layer.values[rows].take_along_dim(columns, 2)
        self._present, self._position, self._width = self._present[rows], self._position[rows], width
        self.last = self.last[which]


def _placed(owners: Sequence[int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, int]:
    """The row of each branch, its place among those of the row, and how many places a row needs."""
    taken: Counter[int] = Counter()
    places = []
    for owner in owners:
        places.append(taken[owner])
        taken[owner] += 1
    return torch.tensor(owners, device=device), torch.tensor(places, device=device), max(taken.values())
