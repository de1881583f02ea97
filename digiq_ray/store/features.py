"""FeatureStore: frozen VLM features in memory-mapped Arrow shards.

Opening the store maps its shards and reads their headers, whatever their size; a batch touches only the pages of the
rows that it names, and finding rows by their keys a few pages of each shard. So what costs is the number of shards, not
what they hold: shards of some hundred megabytes are good. Every shard carries the fingerprint of what made it, and
shards that differ are refused. Writing a shard holds it in memory twice; its size is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from digiq_ray.core.errors import StoreError
from digiq_ray.store.directory import StorePath, check_shard_name, create_directory, open_directory
from digiq_ray.store.feature_lookup import FeatureKey, Lookup, check_rows, find, hash_keys, merge
from digiq_ray.store.feature_shard import (
    SUFFIX,
    FeatureValueError,
    MappedShard,
    make_batch,
    map_file,
    read_fingerprint,
    read_header,
    write_batch,
)
from digiq_ray.store.fingerprint import Fingerprint
from digiq_ray.store.snapshot import Snapshot

__all__ = ["FeatureKey", "FeatureStore", "FeatureValueError", "FeatureView", "Fingerprint"]


class FeatureView:
    """The features that a store held when it was opened, as one array whose rows are read when they are asked for.

    Rows are numbered from 0 through all shards in name order. Thread-safe.
    """

    def __init__(self, shards: Sequence[MappedShard]) -> None:
        self._shards = shards
        self._starts = np.cumsum([0] + [len(shard.features) for shard in shards])
        self._lookups: list[tuple[MappedShard, int, Lookup]] | None = None

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
        """``pa.Table`` of ``episode_id, step, action``, one row for each feature. Reads them; ``locate`` does not.

        Raises:
            StoreError: the keys of a shard are broken; they are read here, not on opening.
        """
        return pa.concat_tables([shard.keys() for shard in self._shards])

    def verify(self) -> None:
        """Reads everything; raises ``StoreError`` naming a shard that is not what was written."""
        for shard in self._shards:
            shard.verify()

    def key(self, row: int) -> FeatureKey:
        """What the feature of a row is of. Reads the keys of its shard.

        Raises:
            StoreError: the keys of the shard are broken.
        """
        owner = int(np.searchsorted(self._starts, row, side="right")) - 1
        found = self._shards[owner].keys().slice(row - int(self._starts[owner]), 1).to_pylist()[0]
        return FeatureKey(found["episode_id"], found["step"], found["action"])

    def merge_lookups(self, scratch: Path) -> None:
        """Makes one lookup of all shards, which ``locate`` searches from then on.

        That is worth its price before many calls: each then costs the same however many shards there are. It takes 24
        bytes a row of nameless files in the directory ``scratch``, for as long as this view lives, and holds a 256th of
        that in memory.

        Raises:
            StoreError: the lookup of a shard is broken.
        """
        if not len(self):
            return
        lookups = [shard.lookup() for shard in self._shards]
        for shard, lookup in zip(self._shards, lookups, strict=True):
            with shard.directory.content_errors(shard.name):
                check_rows(lookup)
        with TemporaryFile(dir=scratch) as hashes, TemporaryFile(dir=scratch) as rows:
            for part in merge(lookups, self._starts[:-1].tolist()):
                hashes.write(part.hashes.tobytes())
                rows.write(part.rows.astype(np.int64).tobytes())
            merged = Lookup(np.memmap(hashes, part.hashes.dtype, mode="r"), np.memmap(rows, np.int64, mode="r"))
        self._lookups = [(self._shards[0], 0, merged)]

    def locate(self, keys: Iterable[tuple[str, int, str | None]]) -> NDArray[np.int64]:
        """Rows ``[len(keys)]`` of the features of ``(episode_id, step, action)``, or -1 where there is none.

        Touches a few pages of each shard's lookup, so its cost depends on how many keys are asked for and hardly on
        how many there are. A key that occurs more than once is found where it occurs first.

        Raises:
            StoreError: the lookup of a shard is broken.
        """
        if self._lookups is None:
            starts = self._starts[:-1].tolist()
            self._lookups = [(shard, start, shard.lookup()) for shard, start in zip(self._shards, starts, strict=True)]
        wanted = hash_keys(keys)
        rows = np.full(len(wanted), -1, dtype=np.int64)
        missing = np.argsort(wanted)  # ascending needles walk through a table in its order
        for shard, start, lookup in self._lookups:
            if not len(missing):
                break
            with shard.directory.content_errors(shard.name):
                found = find(lookup, wanted[missing])
            rows[missing] = np.where(found < 0, -1, found + start)
            missing = missing[found < 0]
        return rows

    def snapshot(self) -> Snapshot:
        """Which shards these are, with a hash of each; ``FeatureStore`` opens at it."""
        return Snapshot({shard.name: shard.pin for shard in self._shards})

    def slice(self, start: int, stop: int) -> NDArray[np.floating[Any]]:
        """Features ``[stop - start, dim]`` of a range of rows, read-only.

        If one shard holds the whole range, which ``shard_starts`` tells, the array shares the mapping: nothing is
        copied, and the system begins to read its pages. Otherwise it is a copy.

        Raises:
            IndexError: the range is not within ``[0, len]``.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"feature rows must lie in [0, {len(self)}), not [{start}, {stop})")
        owner = int(np.searchsorted(self._starts[1:-1], start, side="right"))
        first = int(self._starts[owner])
        if stop <= self._starts[owner + 1]:
            return self._shards[owner].slice(start - first, stop - first)
        copy = np.empty((stop - start, self.dim), dtype=self.dtype)
        for shard, first in zip(self._shards, self._starts.tolist(), strict=False):
            local = np.arange(max(start, first), min(stop, first + len(shard.features))) - first
            if len(local):
                place = first + int(local[0]) - start
                shard.take(local, shard.ask(local), out=copy[place : place + len(local)])
        copy.flags.writeable = False
        return copy

    @property
    def shard_starts(self) -> NDArray[np.int64]:
        """First row of each shard, ``[shards]``."""
        return self._starts[:-1].copy()

    def rows(self, indices: ArrayLike, *, cached: bool = False) -> NDArray[np.floating[Any]]:
        """Copies of the features of ``indices``, in their order and shape: ``[*shape of indices, dim]``.

        Args:
            indices: Integers in ``[0, len)``; repeats are allowed.
            cached: Whether the files are in the system's cache, most likely: then nothing is asked for beforehand, and
                pages stay in this process (the system may still take them). Much faster if so, much slower if not.

        Raises:
            IndexError: an index is out of range or not an integer.
        """
        wanted = np.asarray(indices)
        if wanted.size and wanted.dtype.kind not in "iu":
            raise IndexError(f"feature rows are integers, not {wanted.dtype}")
        flat = wanted.astype(np.int64).reshape(-1)
        if flat.size and (flat.min() < 0 or flat.max() >= len(self)):
            raise IndexError(f"feature rows must lie in [0, {len(self)}), not [{flat.min()}, {flat.max()}]")
        order = np.argsort(flat)
        ascending = flat[order]
        cuts = np.searchsorted(ascending, self._starts)
        local = ascending - np.repeat(self._starts[:-1], np.diff(cuts))
        owners = [
            (self._shards[owner], cuts[owner], cuts[owner + 1]) for owner in np.flatnonzero(np.diff(cuts)).tolist()
        ]
        # All are asked for before the first is waited for.
        ranges = [[] if cached else shard.ask(local[begin:end]) for shard, begin, end in owners]
        found = np.empty((len(flat), self.dim), dtype=self.dtype)
        for (shard, begin, end), asked in zip(owners, ranges, strict=True):
            shard.take(local[begin:end], asked, out=found[begin:end])
        out = np.empty_like(found)
        out[order] = found
        return out.reshape(*wanted.shape, self.dim)


class FeatureStore:
    """Features in a directory. Thread-safe; pickles as its path.

    Args:
        path: The directory; ``FeatureStore.create`` makes it.
        snapshot: If given, the store is read-only and consists of exactly these shards, whatever was added since.

    Raises:
        StoreError: the directory is missing.
    """

    def __init__(self, path: StorePath, *, snapshot: Snapshot | None = None) -> None:
        self._directory, self._snapshot = open_directory(path), snapshot

    @classmethod
    def create(cls, path: StorePath) -> Self:
        """Opens the store at ``path``, making its directory if it is missing."""
        return cls(create_directory(path).path)

    @property
    def path(self) -> Any:
        """Where the shards lie: a ``Path``, or the like for ``s3://``."""
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
        if self._snapshot is not None:
            raise StoreError(f"{self.path}: is open at a snapshot, which is read-only; open it without one to append")
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
        """Maps the shards that are there now, in name order; costs a header for each, whatever its size.

        Raises:
            FingerprintMismatchError: a shard's fingerprint is not ``expected``, or not that of the first shard.
            StoreError: there is no shard, one is broken, or one has features of another length or type; or a shard of
                the snapshot is gone or has another content.
        """
        names = self._directory.names(SUFFIX) if self._snapshot is None else sorted(self._snapshot.segments)
        if not names:
            raise StoreError(f"{self.path}: holds no features; embed them first")
        files = [map_file(self._directory, name) for name in names]  # all are asked for before the first is read
        shards = [read_header(self._directory, name, file) for name, file in zip(names, files, strict=True)]
        wanted = expected or shards[0].fingerprint
        first = shards[0].features
        for name, shard in zip(names, shards, strict=True):
            if self._snapshot is not None and shard.pin != self._snapshot.segments[name]:
                raise StoreError(f"{self.path / name}: is not what the snapshot saw; restore it from a copy")
            shard.fingerprint.require(wanted, where=str(self.path / name))
            if shard.features.shape[1] != first.shape[1] or shard.features.dtype != first.dtype:
                raise StoreError(
                    f"{self.path / name}: holds {shard.features.dtype}[{shard.features.shape[1]}], "
                    f"{names[0]} holds {first.dtype}[{first.shape[1]}]; embed again into another directory"
                )
        return FeatureView(shards)
