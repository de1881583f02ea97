"""Columns for the batch sampler that are more than an array: features by row or by key, and texts.

A sample's features are rows of a view. Their numbers are in memory (``FeatureRows``), or follow from keys when a batch
first needs them (``KeyedRows``): then the first batch costs no more than its own keys, however many there are, and each
key is looked up once. ``Texts`` stay in Arrow until a batch needs them, where a million take no million objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from digiq_ray.core.errors import InputError, StoreError
from digiq_ray.store.features import FeatureView

_UNKNOWN = -2


@dataclass(frozen=True, slots=True)
class FeatureRows:
    """For each of ``n`` samples one row of ``view``, or several (frames, candidates).

    Attributes:
        view: Where they are read from.
        rows: ``[n]`` or ``[n, k, ...]``; a batch then holds ``[b, dim]`` or ``[b, k, ..., dim]`` in the view's type.

    Raises:
        InputError: a row is not an integer within the view.
    """

    view: FeatureView
    rows: NDArray[np.integer[Any]]

    def __post_init__(self) -> None:
        rows = self.rows
        if rows.dtype.kind not in "iu" or (rows.size and not (rows.min() >= 0 and rows.max() < len(self.view))):
            raise InputError(f"rows of features must be integers in [0, {len(self.view)}): a sample lacks its feature")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, samples: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        """The features of ``samples``, ``[b, ..., dim]``."""
        return self.view.rows(self.rows[samples])


class Texts:
    """A column of texts: for each of ``n`` samples one value of an Arrow column. Thread-safe.

    Args:
        values: ``pa.Array`` or ``pa.ChunkedArray`` of texts.
        rows: ``[n]``, the row of each sample, or -1 for ``None``; if left out, sample ``i`` has row ``i``.
    """

    def __init__(self, values: Any, rows: NDArray[np.integer[Any]] | None = None) -> None:
        self._values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        self._rows = np.arange(len(values)) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, samples: NDArray[np.int64]) -> NDArray[np.object_]:
        """The texts of ``samples``, ``[b]``."""
        rows = self._rows[samples]
        found = np.empty(len(rows), dtype=object)
        found[:] = self._values.take(pa.array(rows, mask=rows < 0)).to_pylist()
        return found


class KeyedRows:
    """The same, by keys: ``f(s)`` of each state, or ``f(s, a)`` with ``actions``. Thread-safe.

    Args:
        view: Where the features are read from.
        episode_ids: ``[n]``; an array of texts, or ``Texts``.
        steps: ``[n]``, or ``[n, k]`` for several steps of the sample's episode (frames).
        actions: ``[n]`` action texts, as the ids, or ``None``.
    """

    def __init__(
        self,
        view: FeatureView,
        *,
        episode_ids: Sequence[str] | NDArray[Any] | Texts,
        steps: NDArray[np.integer[Any]],
        actions: Sequence[str] | NDArray[Any] | Texts | None = None,
    ) -> None:
        if len(episode_ids) != len(steps) or (actions is not None and len(actions) != len(steps)):
            raise InputError(f"keys of {len(steps)} steps need as many episode ids and as many actions, or none")
        self.view = view
        self._episode_ids, self._steps = _by_sample(episode_ids), steps
        self._actions = None if actions is None else _by_sample(actions)
        self._rows = np.full(steps.shape, _UNKNOWN, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, samples: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        """The features of ``samples``, ``[b, dim]`` or ``[b, k, dim]``.

        Raises:
            StoreError: one of them has no feature.
        """
        rows = self._rows[samples]
        if (rows == _UNKNOWN).any():
            rows = self._rows[samples] = self._locate(samples)
        return self.view.rows(rows)

    def _locate(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        steps = self._steps[samples]
        actions = [None] * len(samples) if self._actions is None else self._actions[samples].tolist()
        ids, several = self._episode_ids[samples].tolist(), steps.reshape(len(samples), -1).tolist()
        keys = [(one, step, text) for one, row, text in zip(ids, several, actions, strict=True) for step in row]
        rows = self.view.locate(keys)
        if len(rows) and rows.min() < 0:
            episode_id, step, action = keys[int(rows.argmin())]
            what = "" if action is None else f", action {action[:60]!r}"
            raise StoreError(f"episode {episode_id}, step {step}{what} has no feature: run digiq embed")
        return rows.reshape(steps.shape)


def _by_sample(values: Sequence[str] | NDArray[Any] | Texts) -> NDArray[Any] | Texts:
    return values if isinstance(values, np.ndarray | Texts) else np.array(values, dtype=object)
