"""What the footer of a Parquet segment says: its episodes, where their rows lie, and what the segment replaces.

Reading it costs one read of the end of the file, whatever the file's size, and never looks at the rows. The footer has
a hash of all bytes before it and, as a seal, a hash of itself (with zeros in the place of that hash), so that a footer
that changed is found on reading, and the seal (``Segment.pin``) names the content of the whole file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from digiq_ray.store.directory import Directory
from digiq_ray.store.schema import KIND_KEY, SHARD_KEY, check_columns, check_kind, check_shard

SUFFIX = ".parquet"
EPISODE_IDS_KEY = b"digiq.episode_ids"
EPISODE_ROWS_KEY = b"digiq.episode_rows"
BODY_KEY = b"digiq.body"
REPLACES_KEY = b"digiq.replaces"
ORIGINS_KEY = b"digiq.origins"
SEAL_KEY = b"digiq.seal"
NO_SEAL = "0" * 32
"""What stands in a footer in the place of its seal until it is sealed."""

_MAGIC = b"PAR1"
_LIKELY_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Segment:
    """What the footer of a segment says.

    Attributes:
        name: File name.
        size: Length of the file in bytes.
        version: Version of its columns.
        episode_ids: Episodes in the segment, ascending.
        offsets: First row of each episode, and the number of rows: ``len(episode_ids) + 1`` numbers.
        groups: First row of each row group, and the number of rows.
        replaces: Segments that readers ignore because this one has their episodes.
        origins: For each episode, the name of the segment that it was written to first.
        body: Length and hash of everything before the footer; ``None`` if an older program wrote the segment.
        pin: Hash that names the whole content; ``None`` if ``body`` is, because then only the whole file would do.
    """

    name: str
    size: int
    version: int
    episode_ids: tuple[str, ...]
    offsets: NDArray[np.int64]
    groups: NDArray[np.int64]
    replaces: tuple[str, ...]
    origins: tuple[str, ...]
    body: tuple[int, str] | None
    pin: str | None


def read_footer(directory: Directory, name: str, schema: Any) -> Segment:
    """Reads the footer of a segment; raises ``StoreError`` if it is broken or holds something else than ``schema``."""
    with directory.reading(name) as file:
        size = file.seek(0, os.SEEK_END)
        tail = _read_tail(file, size)
        parquet = pq.ParquetFile(pa.BufferReader(tail))
        metadata = parquet.metadata.metadata or {}
        version = check_kind(metadata, schema)
        check_columns(parquet.schema_arrow, schema)
        if SHARD_KEY in metadata:
            check_shard(metadata, name.removesuffix(SUFFIX))
        if EPISODE_IDS_KEY not in metadata or EPISODE_ROWS_KEY not in metadata:
            raise ValueError("its footer does not list its episodes")
        ids = _strings(metadata, EPISODE_IDS_KEY)
        offsets = _starts(_integers(metadata, EPISODE_ROWS_KEY))
        groups = _starts([parquet.metadata.row_group(i).num_rows for i in range(parquet.metadata.num_row_groups)])
        if (
            len(offsets) != len(ids) + 1
            or offsets[-1] != parquet.metadata.num_rows
            or (np.diff(offsets) < 1).any()
            or not np.isin(groups, offsets).all()
            or any(a >= b for a, b in pairwise(ids))
        ):
            raise ValueError("its footer contradicts its rows")
        replaces = _strings(metadata, REPLACES_KEY) if REPLACES_KEY in metadata else ()
        sealed = BODY_KEY in metadata or SEAL_KEY in metadata
        if sealed and seal(tail) != tail:
            raise ValueError("its footer is not what was written")
        return Segment(
            name=name,
            size=size,
            version=version,
            episode_ids=ids,
            offsets=offsets,
            groups=groups,
            replaces=replaces,
            origins=_origins(metadata, replaces, len(ids)) if replaces else (name,) * len(ids),
            body=_body(metadata, size - len(tail)) if sealed else None,
            pin=metadata[SEAL_KEY].decode() if sealed else None,
        )


def seal(footer: bytes) -> bytes:
    """A footer, from its metadata to its last magic bytes, with the seal that belongs there.

    Raises:
        ValueError: it has no place for a seal.
    """
    key = footer.rfind(SEAL_KEY)
    start = key + len(SEAL_KEY) + 2  # after the type and the length of the value
    end = start + len(NO_SEAL)
    if key < 0 or end > len(footer):
        raise ValueError("its footer has no seal")
    blank = footer[:start] + NO_SEAL.encode() + footer[end:]
    return footer[:start] + hashlib.blake2b(blank, digest_size=16).hexdigest().encode() + footer[end:]


def read_kind(directory: Directory, name: str) -> str | None:
    """The kind of data set that a Parquet file says it belongs to, if it does; ``StoreError`` if it is broken."""
    with directory.reading(name) as file:
        tail = _read_tail(file, file.seek(0, os.SEEK_END))
        metadata = pq.read_metadata(pa.BufferReader(tail)).metadata or {}
        return metadata[KIND_KEY].decode() if KIND_KEY in metadata else None


def check_body(directory: Directory, segment: Segment) -> None:
    """Reads a whole segment; raises ``StoreError`` if anything before its footer is not what was written.

    Only for segments whose ``body`` is known.
    """
    assert segment.body is not None
    left, wanted = segment.body
    digest = hashlib.blake2b(digest_size=16)
    with directory.reading(segment.name) as file:
        while left and (block := file.read(min(left, _BLOCK_BYTES))):
            digest.update(block)
            left -= len(block)
        if left or digest.hexdigest() != wanted:
            raise ValueError("its content is not what was written")


def _read_tail(file: Any, size: int) -> bytes:
    """The footer with its length and the magic bytes."""
    tail = _read_end(file, size, min(size, _LIKELY_BYTES))
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if tail[-4:] != _MAGIC or length > size:
        raise ValueError("it does not end like a Parquet file: it was cut, or it is something else")
    return tail[-length:] if length <= len(tail) else _read_end(file, size, length)


def _read_end(file: Any, size: int, length: int) -> bytes:
    file.seek(size - length)
    return bytes(file.read(length))


def _body(metadata: Mapping[bytes, bytes], length: int) -> tuple[int, str]:
    value = _json(metadata, BODY_KEY)
    if not (isinstance(value, list) and len(value) == 2 and value[0] == length and isinstance(value[1], str)):
        raise ValueError(f"its {BODY_KEY.decode()} contradicts its length")
    return length, value[1]


def _origins(metadata: Mapping[bytes, bytes], replaces: Sequence[str], count: int) -> tuple[str, ...]:
    places = _integers(metadata, ORIGINS_KEY)
    if len(places) != count or any(place >= len(replaces) for place in places):
        raise ValueError(f"its {ORIGINS_KEY.decode()} contradicts what it replaces")
    return tuple(replaces[place] for place in places)


def _json(metadata: Mapping[bytes, bytes], key: bytes) -> Any:
    try:
        return json.loads(metadata.get(key, b"null"))
    except RecursionError as error:
        raise ValueError(f"its {key.decode()} is no list") from error


def _strings(metadata: Mapping[bytes, bytes], key: bytes) -> tuple[str, ...]:
    values = _json(metadata, key)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"its {key.decode()} is no list of texts")
    return tuple(values)


def _integers(metadata: Mapping[bytes, bytes], key: bytes) -> tuple[int, ...]:
    values = _json(metadata, key)
    if not isinstance(values, list) or not all(type(value) is int and value >= 0 for value in values):
        raise ValueError(f"its {key.decode()} is no list of counts")
    return tuple(values)


def _starts(sizes: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.asarray(sizes, dtype=np.int64))]).astype(np.int64)
