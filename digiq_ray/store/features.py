"""FeatureStore: frozen VLM features in memory-mapped Arrow shards.

Opening the store maps its shards and reads their headers, whatever their size; a batch touches only the pages of the
rows that it names. Every shard carries the fingerprint of what made it, and shards that differ are refused. Writing a
shard holds it in memory twice; its size is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from digiq_ray.core.errors import StoreError
from digiq_ray.store.directory import StorePath, check_shard_name, create_directory, open_directory
from digiq_ray.store.feature_shard import (
    SUFFIX,
    FeatureKey,
    FeatureValueError,
    MappedShard,
    make_batch,
    map_shard,
    read_fingerprint,
    write_batch,
)
from digiq_ray.store.fingerprint import Fingerprint

__all__ = ["FeatureKey", "FeatureStore", "FeatureValueError", "FeatureView", "Fingerprint"]


class FeatureView:
    """The features that a store held when it was opened, as one array whose rows are read when they are asked for.

    Rows are numbered from 0 through all shards in name order. Thread-safe.
    """

    def __init__(self, shards: Sequence[MappedShard]) -> None:
        self._shards = shards
        self._starts = np.cumsum([0] + [len(shard.features) for shard in shards])

    def __len__(self) -> int:
        """Number of features."""
        return int(self._starts[-1])

    @property
    def dim(self) -> int:
        """Length of each feature."""
        return int(self._shards[0].features.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """float16 or float32."""
        return self._shards[0].features.dtype

    @property
    def fingerprint(self) -> Fingerprint:
        """What made the features."""
        return self._shards[0].fingerprint

    @property
    def keys(self) -> Any:
        """``pa.Table`` of ``episode_id, step, action``, one row for each feature.

        Raises:
            StoreError: the keys of a shard are broken; they are read here, not on opening.
        """
        return pa.concat_tables([shard.keys() for shard in self._shards])

    def verify(self) -> None:
        """Reads everything; raises ``StoreError`` naming a shard that is not what was written."""
        for shard in self._shards:
            shard.verify()

    def rows(self, indices: ArrayLike) -> NDArray[np.floating[Any]]:
        """Features ``[len(indices), dim]`` in the order of ``indices`` (integers in ``[0, len)``, repeats allowed).

        Raises:
            IndexError: an index is out of range or not an integer.
        """
        wanted = np.asarray(indices)
        if wanted.size and wanted.dtype.kind not in "iu":
            raise IndexError(f"feature rows are integers, not {wanted.dtype}")
        wanted = wanted.astype(np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"feature rows must lie in [0, {len(self)}), not [{wanted.min()}, {wanted.max()}]")
        out = np.empty((len(wanted), self.dim), dtype=self.dtype)
        owners = np.searchsorted(self._starts, wanted, side="right") - 1
        for owner in np.unique(owners):
            here = np.flatnonzero(owners == owner)
            out[here] = self._shards[owner].rows(wanted[here] - self._starts[owner])
        return out


class FeatureStore:
    """Features in a directory. Thread-safe; pickles as its path.

    Raises:
        StoreError: the directory is missing; ``FeatureStore.create`` makes it.
    """

    def __init__(self, path: StorePath) -> None:
        self._directory = open_directory(path)

    @classmethod
    def create(cls, path: StorePath) -> Self:
        """Opens the store at ``path``, making its directory if it is missing."""
        return cls(create_directory(path).path)

    @property
    def path(self) -> Path:
        """Where the shards lie."""
        return self._directory.path

    def shards(self) -> set[str]:
        """Names of the shards that are done. Lists the directory only."""
        return {name.removesuffix(SUFFIX) for name in self._directory.names(SUFFIX)}

    def append(
        self, shard: str, keys: Sequence[FeatureKey], features: NDArray[np.floating[Any]], fingerprint: Fingerprint
    ) -> bool:
        """Publishes one shard; ``False`` if it was there already.

        Args:
            shard: Its name.
            keys: ``[n]``; what each feature is of.
            features: ``[n, dim]`` of float16 or float32, stored as such.
            fingerprint: What made them; the same for the whole store.

        Raises:
            FeatureValueError: a feature is NaN, infinite or all zeros.
            FingerprintMismatchError: the store holds features of another fingerprint.
            InputError: shapes, type or the name do not fit.
            DiskFullError: no space is left; nothing of this call stays behind, everything before is whole.
        """
        check_shard_name(shard)
        name = shard + SUFFIX
        present = self._directory.names(SUFFIX)
        for other in [name] if name in present else present[:1]:
            read_fingerprint(self._directory, other).require(fingerprint, where=str(self.path / other))
        if name in present:
            self._directory.sync()
            return False
        batch = make_batch(shard, keys, features, fingerprint)
        return self._directory.publish(name, lambda file: write_batch(file, batch))

    def open(self, expected: Fingerprint | None = None) -> FeatureView:
        """Maps the shards that are there now, in name order; costs the same whatever their size.

        Raises:
            FingerprintMismatchError: a shard's fingerprint is not ``expected``, or not that of the first shard.
            StoreError: there is no shard, one is broken, or one has features of another length or type.
        """
        names = self._directory.names(SUFFIX)
        if not names:
            raise StoreError(f"{self.path}: holds no features; embed them first")
        shards = [map_shard(self._directory, name) for name in names]
        wanted = expected or shards[0].fingerprint
        first = shards[0].features
        for name, shard in zip(names, shards, strict=True):
            shard.fingerprint.require(wanted, where=str(self.path / name))
            if shard.features.shape[1] != first.shape[1] or shard.features.dtype != first.dtype:
                raise StoreError(
                    f"{self.path / name}: holds {shard.features.dtype}[{shard.features.shape[1]}], "
                    f"{names[0]} holds {first.dtype}[{first.shape[1]}]; embed again into another directory"
                )
        return FeatureView(shards)
