"""From keys to rows without reading the keys: a sorted hash table that each shard carries in two columns of its own.

``lookup_hash`` holds the hashes of the shard's keys in ascending order, ``lookup_row`` the row that each belongs to. So
finding ``m`` keys among ``n`` costs ``m`` binary searches in mapped memory (20 bytes a row, of which few pages are
touched), no dictionary and no key text. The hash has 128 bits: two keys never share one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_HASH_BYTES = 16
_HASH_TYPE = pa.binary(_HASH_BYTES)
HASH_COLUMN, ROW_COLUMN = "lookup_hash", "lookup_row"


class FeatureKey(NamedTuple):
    """What a feature is of: a state, ``f(s)``, if ``action`` is ``None``, else an action text at it, ``f(s, a)``."""

    episode_id: str
    step: int
    action: str | None


class Lookup(NamedTuple):
    """The table of one shard of ``n`` rows, or of several: hashes ``[n]`` ascending, and the row of each, ``[n]``."""

    hashes: NDArray[np.bytes_]
    rows: NDArray[np.integer[Any]]


def hash_keys(keys: Iterable[tuple[str, int, str | None]]) -> NDArray[np.bytes_]:
    """The hashes ``[n]`` of keys ``(episode_id, step, action)``; the same on every machine, for ever."""
    digests = [hashlib.blake2b(_spell(*key), digest_size=_HASH_BYTES).digest() for key in keys]
    return np.frombuffer(b"".join(digests), dtype=f"S{_HASH_BYTES}")


def make_lookup(hashes: NDArray[np.bytes_]) -> Lookup:
    """The table of a shard whose keys have these hashes, in the order of its rows. Equal keys keep their order."""
    order = np.argsort(hashes, kind="stable").astype(np.int32)
    return Lookup(hashes[order], order)


def find(lookup: Lookup, wanted: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """The first row of each wanted hash, ``[len(wanted)]``, or -1 where the shard has none.

    Raises:
        ValueError: the table names a row that the shard does not have.
    """
    count = len(lookup.hashes)
    if not count:
        return np.full(len(wanted), -1, dtype=np.int64)
    places = np.minimum(np.searchsorted(lookup.hashes, wanted), count - 1)
    rows = np.where(lookup.hashes[places] == wanted, lookup.rows[places].astype(np.int64), -1)
    _require_within(rows, -1, count)
    return rows


def check_rows(lookup: Lookup) -> None:
    """Raises ``ValueError`` if the table of a shard names a row that the shard does not have. Reads all rows of it."""
    _require_within(lookup.rows, 0, len(lookup.hashes))


def _require_within(rows: NDArray[np.integer[Any]], least: int, end: int) -> None:
    if rows.size and (rows.max() >= end or rows.min() < least):
        raise ValueError(f"its {ROW_COLUMN} names a row that it does not have")


def merge(lookups: Sequence[Lookup], starts: Sequence[int]) -> Iterator[Lookup]:
    """One table of several shards, in parts that follow each other; each holds a 256th of the rows.

    Args:
        lookups: Of the shards.
        starts: The first row of each shard among the rows of all. Equal keys keep the order of their rows.
    """
    edges = np.array([bytes([first]) for first in range(256)], dtype=f"S{_HASH_BYTES}")
    cuts = [[*np.searchsorted(one.hashes, edges).tolist(), len(one.hashes)] for one in lookups]
    for part in range(256):
        spans = [slice(cut[part], cut[part + 1]) for cut in cuts]
        hashes = np.concatenate([one.hashes[span] for one, span in zip(lookups, spans, strict=True)])
        rows = [one.rows[span] + start for one, span, start in zip(lookups, spans, starts, strict=True)]
        order = np.argsort(hashes, kind="stable")
        yield Lookup(hashes[order], np.concatenate(rows)[order])


def to_columns(lookup: Lookup) -> tuple[list[Any], list[Any]]:
    """The table as Arrow columns, and their fields."""
    hashes = pa.Array.from_buffers(_HASH_TYPE, len(lookup.rows), [None, pa.py_buffer(lookup.hashes.tobytes())])
    return [hashes, pa.array(lookup.rows, pa.int32())], [
        pa.field(HASH_COLUMN, _HASH_TYPE),
        pa.field(ROW_COLUMN, "int32"),
    ]


def from_batch(batch: Any) -> Lookup | None:
    """The table in a mapped ``pa.RecordBatch``, without reading it; ``None`` if the shard was written without one."""
    names = batch.schema.names
    if HASH_COLUMN not in names or ROW_COLUMN not in names:
        return None
    hashes, rows = batch.column(HASH_COLUMN), batch.column(ROW_COLUMN)
    if hashes.type != _HASH_TYPE or rows.type != pa.int32():
        raise ValueError(f"its {HASH_COLUMN} is {hashes.type}, its {ROW_COLUMN} {rows.type}")
    count = batch.num_rows
    return Lookup(
        np.frombuffer(hashes.buffers()[1] or b"", dtype=f"S{_HASH_BYTES}", count=count),
        np.frombuffer(rows.buffers()[1] or b"", dtype=np.int32, count=count),
    )


def _spell(episode_id: str, step: int, action: str | None) -> bytes:
    """A key as bytes, such that different keys have different bytes: the length says where the id ends."""
    text = f"{len(episode_id)},{episode_id},{step}"
    return (text if action is None else f"{text},{action}").encode("utf-8", "surrogatepass")
