"""One immutable Parquet segment: how it is written, and what its footer says.

Rows are sorted by episode, and row groups are cut between episodes, so that one episode is read without the others.
The footer lists the episodes and how many rows each has: knowing what a segment holds costs its footer only. Every
page carries a checksum that is checked on reading, and the footer has a hash of everything before it and of itself.
Writing holds one row group in memory. Any Parquet reader can read a segment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from digiq_ray.store.directory import Directory
from digiq_ray.store.footers import (
    BODY_KEY,
    EPISODE_IDS_KEY,
    EPISODE_ROWS_KEY,
    NO_SEAL,
    ORIGINS_KEY,
    REPLACES_KEY,
    SEAL_KEY,
    Segment,
    seal,
)
from digiq_ray.store.schema import KIND_KEY, SHARD_KEY, with_later_columns
from digiq_ray.store.screens import HASH, SCREEN, new_screen_bytes, resolve_screens, share_screens

# A row group closes at the first episode that reaches one of these: what reading one episode may cost.
_GROUP_ROWS = 4096
_GROUP_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Replaced:
    """What a segment that compaction writes takes the place of.

    Attributes:
        names: The segments that readers ignore from then on, ascending.
        origins: For each episode id, the segment of ``names`` that it was written to first.
    """

    names: Sequence[str]
    origins: Mapping[str, str]


def write_segment(
    file: BinaryIO,
    tables: Iterable[tuple[str, Any]],
    schema: Any,
    *,
    shard: str | None = None,
    replaced: Replaced | None = None,
) -> None:
    """Writes a segment of ``(episode id, its rows as a pa.Table of schema)``, ascending by episode id."""
    plain = [name for name in schema.names if name != SCREEN]
    hashed = _HashedFile(file)
    writer = pq.ParquetWriter(
        hashed,
        schema,
        compression={name: "none" if name == SCREEN else "zstd" for name in schema.names},
        use_dictionary=plain,
        write_statistics=plain,
        write_page_checksum=True,
    )
    ids: list[str] = []
    rows: list[int] = []
    with writer:
        for group in _groups(tables, shared=SCREEN in schema.names):
            ids += [episode_id for episode_id, _ in group]
            rows += [table.num_rows for _, table in group]
            whole = pa.concat_tables([table for _, table in group])
            writer.write_table(share_screens(whole) if SCREEN in schema.names else whole)
        footer = {
            EPISODE_IDS_KEY: json.dumps(ids),
            EPISODE_ROWS_KEY: json.dumps(rows),
            BODY_KEY: json.dumps([hashed.tell(), hashed.digest.hexdigest()]),
        }
        if shard is not None:
            footer[SHARD_KEY] = shard
        if replaced is not None:
            places = {name: place for place, name in enumerate(replaced.names)}
            footer[REPLACES_KEY] = json.dumps(list(replaced.names))
            footer[ORIGINS_KEY] = json.dumps([places[replaced.origins[episode_id]] for episode_id in ids])
        writer.add_key_value_metadata(footer | {SEAL_KEY: NO_SEAL})  # last, where it is looked for
        hashed.keep_from_here()
    file.write(seal(hashed.kept))


def read_rows(directory: Directory, name: str, columns: Sequence[str] | None = None) -> Any:
    """All rows of a segment as a ``pa.Table``, in their order, each with the bytes of its screen."""
    with directory.reading(name) as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=True)
        return _complete(parquet.read(columns=_stored(columns)), _kind(parquet.metadata), columns)


def read_metadata(directory: Directory, name: str) -> Any:
    """Where everything lies in a segment, for ``read_group``: a ``pq.FileMetaData``, some kilobytes a row group."""
    with directory.reading(name) as file:
        return pq.ParquetFile(file).metadata


def read_group(directory: Directory, name: str, group: int, metadata: Any) -> Any:
    """One row group of a segment as a ``pa.Table``, as the file has it: with each screen once."""
    with directory.reading(name) as file:
        parquet = pq.ParquetFile(file, metadata=metadata, page_checksum_verification=True, pre_buffer=True)
        return with_later_columns(parquet.read_row_group(group), _kind(metadata))


def read_group_rows(directory: Directory, name: str, group: int, metadata: Any, columns: Sequence[str]) -> Any:
    """Some columns of one row group of a segment as a ``pa.Table``, each row with the bytes of its screen."""
    with directory.reading(name) as file:
        parquet = pq.ParquetFile(file, metadata=metadata, page_checksum_verification=True, pre_buffer=True)
        return _complete(parquet.read_row_group(group, columns=_stored(columns)), _kind(metadata), columns)


def episode_tables(directory: Directory, segment: Segment) -> Iterator[tuple[str, Any]]:
    """Each episode of a segment in turn: ``(episode id, its rows as a pa.Table)``. Holds one row group in memory.

    Raises:
        StoreError: the segment is broken or gone.
    """
    metadata = read_metadata(directory, segment.name)
    position = 0
    for number, (first, end) in enumerate(zip(segment.groups, segment.groups[1:], strict=False)):
        group = read_group(directory, segment.name, number, metadata)
        while position < len(segment.episode_ids) and segment.offsets[position] < end:
            start, stop = int(segment.offsets[position]), int(segment.offsets[position + 1])
            with directory.content_errors(segment.name):
                yield segment.episode_ids[position], group_rows(group, start - int(first), stop - start)
            position += 1


def group_rows(group: Any, start: int, length: int) -> Any:
    """Rows of a row group, each with the bytes of its screen; raises ``ValueError`` if those are nowhere."""
    return resolve_screens(group, start, length) if SCREEN in group.column_names else group.slice(start, length)


def _stored(columns: Sequence[str] | None) -> list[str] | None:
    """The columns that must be read for ``columns``: a screen may lie under its hash in another row."""
    return None if columns is None else list({*columns, HASH} if SCREEN in columns else columns)


def _complete(table: Any, kind: str, columns: Sequence[str] | None) -> Any:
    table = with_later_columns(table, kind)
    resolved = resolve_screens(table) if SCREEN in table.column_names else table
    return resolved if columns is None else resolved.select(list(columns))


def _kind(metadata: Any) -> str:
    return (metadata.metadata or {}).get(KIND_KEY, b"").decode()


def _groups(tables: Iterable[tuple[str, Any]], *, shared: bool) -> Iterator[list[tuple[str, Any]]]:
    group: list[tuple[str, Any]] = []
    rows = size = 0
    seen: set[str] = set()
    for episode_id, table in tables:
        group.append((episode_id, table))
        rows += table.num_rows
        size += new_screen_bytes(table, seen) + table.drop_columns([SCREEN]).nbytes if shared else table.nbytes
        if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield group
            group, rows, size = [], 0, 0
            seen.clear()
    if group:
        yield group


class _HashedFile:
    """A file that is written from its beginning; knows the hash and the number of the bytes so far.

    From ``keep_from_here`` on, what is written is kept instead.
    """

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._kept: list[bytes] | None = None
        self._size = 0
        self.digest = hashlib.blake2b(digest_size=16)

    @property
    def kept(self) -> bytes:
        """What was kept."""
        return b"".join(self._kept or ())

    def keep_from_here(self) -> None:
        self._kept = []

    def write(self, data: bytes) -> int:
        self._size += len(data)
        if self._kept is not None:
            self._kept.append(bytes(data))
            return len(data)
        self.digest.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        self._file.flush()

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False
