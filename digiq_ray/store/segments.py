"""One immutable Parquet segment: how it is written, and what its footer says.

Rows are sorted by episode, and row groups are cut between episodes, so that one episode is read without the others.
The footer lists the episodes and how many rows each has: knowing what a segment holds costs its footer only. Every
page carries a checksum that is checked on reading. Any Parquet reader can read a segment.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from digiq_ray.store.directory import Directory
from digiq_ray.store.schema import SHARD_KEY, check_columns, check_kind, check_shard

EPISODE_IDS_KEY = b"digiq.episode_ids"
EPISODE_ROWS_KEY = b"digiq.episode_rows"
SUFFIX = ".parquet"

# A row group closes at the first episode that reaches one of these: what reading one episode may cost.
_GROUP_ROWS = 256
_GROUP_BYTES = 1 << 20
_INCOMPRESSIBLE = "screen"


@dataclass(frozen=True, slots=True)
class Segment:
    """What the footer of a segment says.

    Attributes:
        name: File name.
        episode_ids: Episodes in the segment, ascending.
        offsets: First row of each episode, and the number of rows: ``len(episode_ids) + 1`` numbers.
        groups: First row of each row group, and the number of rows.
    """

    name: str
    episode_ids: tuple[str, ...]
    offsets: NDArray[np.int64]
    groups: NDArray[np.int64]


def write_segment(file: BinaryIO, tables: Sequence[tuple[str, Any]], schema: Any, shard: str | None = None) -> None:
    """Writes a segment of ``(episode id, its rows as a pa.Table of schema)``, ascending by episode id."""
    plain = [name for name in schema.names if name != _INCOMPRESSIBLE]
    writer = pq.ParquetWriter(
        file,
        schema,
        compression={name: "none" if name == _INCOMPRESSIBLE else "zstd" for name in schema.names},
        use_dictionary=plain,
        write_statistics=plain,
        write_page_checksum=True,
    )
    with writer:
        group: list[Any] = []
        rows = size = 0
        for _, table in tables:
            group.append(table)
            rows += table.num_rows
            size += table.nbytes
            if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
                writer.write_table(pa.concat_tables(group))
                group, rows, size = [], 0, 0
        if group:
            writer.write_table(pa.concat_tables(group))
        footer = {
            EPISODE_IDS_KEY: json.dumps([episode_id for episode_id, _ in tables]),
            EPISODE_ROWS_KEY: json.dumps([table.num_rows for _, table in tables]),
        }
        writer.add_key_value_metadata(footer if shard is None else footer | {SHARD_KEY: shard.encode()})


def read_footer(directory: Directory, name: str, schema: Any) -> Segment:
    """Reads the footer of a segment; raises ``StoreError`` if it is broken or holds something else than ``schema``."""
    with directory.reading(name) as file:
        parquet = pq.ParquetFile(file)
        metadata = parquet.metadata.metadata or {}
        check_kind(metadata, schema)
        check_columns(parquet.schema_arrow, schema)
        if SHARD_KEY in metadata:
            check_shard(metadata, name.removesuffix(SUFFIX))
        if EPISODE_IDS_KEY not in metadata or EPISODE_ROWS_KEY not in metadata:
            raise ValueError("its footer does not list its episodes")
        episode_ids = tuple(json.loads(metadata[EPISODE_IDS_KEY]))
        offsets = _starts(json.loads(metadata[EPISODE_ROWS_KEY]))
        sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.metadata.num_row_groups)]
        groups = _starts(sizes)
        if (
            len(offsets) != len(episode_ids) + 1
            or offsets[-1] != parquet.metadata.num_rows
            or not np.isin(groups, offsets).all()
            or any(a >= b for a, b in pairwise(episode_ids))
        ):
            raise ValueError("its footer contradicts its rows")
        return Segment(name, episode_ids, offsets, groups)


def read_rows(directory: Directory, name: str, columns: Sequence[str] | None = None) -> Any:
    """All rows of a segment as a ``pa.Table``, in their order."""
    with directory.reading(name) as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        return parquet.read(columns=None if columns is None else list(columns))


def read_group(directory: Directory, name: str, group: int) -> Any:
    """One row group of a segment as a ``pa.Table``."""
    with directory.reading(name) as file:
        return pq.ParquetFile(file, page_checksum_verification=True).read_row_group(group)


def _starts(sizes: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.asarray(sizes, dtype=np.int64))]).astype(np.int64)
