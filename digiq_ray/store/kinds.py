"""What kind of data set lies in a directory, found from its files.

A file says in its metadata what it belongs to. A directory none of whose files does is not taken for a data set of
this project (unless its names are ULIDs, which only episodes have): what repairs data sets must not touch other files.
"""

from __future__ import annotations

import enum
import re

import pyarrow as pa

from digiq_ray.core.errors import StoreError
from digiq_ray.store.content import StoreUnreachableError
from digiq_ray.store.directory import Directory
from digiq_ray.store.footers import SUFFIX as SEGMENT_SUFFIX
from digiq_ray.store.footers import read_kind
from digiq_ray.store.schema import KIND_KEY

SHARD_SUFFIX = ".arrow"
ULID_NAME = re.compile("[0-7][0-9A-HJKMNP-TV-Z]{25}")


class StoreKind(enum.StrEnum):
    """Kinds of data sets."""

    EPISODES = "episodes"
    CANDIDATES = "candidates"
    FEATURES = "features"
    EMPTY = "empty"


def store_kind(directory: Directory) -> StoreKind:
    """What lies in a directory.

    Raises:
        StoreError: files of two kinds lie there, or files that are none of this project's.
    """
    segments, shards = directory.names(SEGMENT_SUFFIX), directory.names(SHARD_SUFFIX)
    if segments and shards:
        raise StoreError(
            f"{directory.path}: holds Parquet and Arrow files, a data set has one kind; move the others elsewhere"
        )
    for name in (*segments, *shards):
        try:
            found = read_kind(directory, name) if segments else _shard_kind(directory, name)
        except StoreUnreachableError:
            raise
        except StoreError:
            continue  # whether it is broken is for others to say; another file tells the kind
        if found in (StoreKind.EPISODES, StoreKind.CANDIDATES, StoreKind.FEATURES):
            return StoreKind(found)
    if segments and all(ULID_NAME.fullmatch(name.removesuffix(SEGMENT_SUFFIX)) for name in segments):
        return StoreKind.EPISODES
    if segments or shards:
        raise StoreError(f"{directory.path}: no file there says what data set it is of; give the kind if you know it")
    return StoreKind.EMPTY


def _shard_kind(directory: Directory, name: str) -> str | None:
    with directory.mapping(name) as mapped:
        metadata = pa.ipc.open_file(pa.py_buffer(mapped)).schema.metadata or {}
        return metadata[KIND_KEY].decode() if KIND_KEY in metadata else None
