"""Many immutable Parquet segments that together are one table, an episode at a time.

What both Parquet stores are made of. An episode that occurs in several segments (a retried write, racing writers) is
taken from the first of them in name order, so every reader of the same files sees the same rows. Footers are read
once, since segments never change: looking again costs one listing of the directory plus the footers of new segments.
Single episodes are read through a bounded cache of row groups.
"""

from __future__ import annotations

import bisect
import functools
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from digiq_ray.core.errors import StoreError
from digiq_ray.store.directory import Directory
from digiq_ray.store.segments import SUFFIX, Segment, read_footer, read_group, read_rows

_CACHED_GROUPS = 256  # of about 1 MiB each, see segments.py


class SegmentedTable:
    """The table that the segments in a directory make up. Thread-safe.

    Args:
        directory: Where the segments lie.
        schema: Columns, kind and version that each must have.
        name_pattern: What the file names, without suffix, look like.
        only: If given, the table consists of these segments whatever else the directory holds.
    """

    def __init__(
        self,
        *,
        directory: Directory,
        schema: Any,
        name_pattern: re.Pattern[str],
        only: frozenset[str] | None = None,
    ) -> None:
        self._directory = directory
        self._schema = schema
        self._name_pattern = name_pattern
        self._only = only
        self._lock = threading.Lock()
        self._segments: dict[str, Segment] = {}
        self._holders: dict[str, Segment] = {}
        self._group: Callable[[str, int], Any] = functools.lru_cache(maxsize=_CACHED_GROUPS)(
            functools.partial(read_group, directory)
        )

    def segment_names(self) -> list[str]:
        """Names of the segments that are there now, in their order."""
        with self._lock:
            return sorted(self._look())

    def holders(self) -> dict[str, Segment]:
        """For each episode id that is there now, the segment that it is taken from."""
        with self._lock:
            self._look()
            return dict(self._holders)

    def holder(self, episode_id: str) -> Segment | None:
        """The segment that one episode is taken from, or ``None`` if the episode is not there."""
        with self._lock:
            self._look()
            return self._holders.get(episode_id)

    def rows(self, columns: Sequence[str] | None = None) -> Any:
        """A ``pa.Table`` of all rows, ascending by episode id and in each episode as written, each episode once.

        Raises:
            StoreError: a segment is broken, or a column does not exist.
        """
        wanted = list(self._schema.names) if columns is None else list(columns)
        for column in wanted:
            if column not in self._schema.names:
                raise StoreError(
                    f"{self._directory.path}: no column {column!r}; there are {', '.join(self._schema.names)}"
                )
        holders = self.holders()
        segments = sorted({id(segment): segment for segment in holders.values()}.values(), key=lambda s: s.name)
        if not segments:
            return self._schema.empty_table().select(wanted)
        table = pa.concat_tables([read_rows(self._directory, s.name, wanted) for s in segments]).select(wanted)
        order = _order(segments, holders)
        if len(order) == table.num_rows and np.array_equal(order, np.arange(len(order))):
            return table
        return table.take(pa.array(order))

    def episode_rows(self, episode_id: str, segment: Segment) -> Any:
        """A ``pa.Table`` of the rows of one episode, from the segment that ``holders`` gives for it."""
        position = bisect.bisect_left(segment.episode_ids, episode_id)
        start, end = int(segment.offsets[position]), int(segment.offsets[position + 1])
        group = int(np.searchsorted(segment.groups, start, side="right")) - 1
        return self._group(segment.name, group).slice(start - int(segment.groups[group]), end - start)

    def _look(self) -> dict[str, Segment]:
        names = self._directory.names(SUFFIX) if self._only is None else sorted(self._only)
        if self._segments.keys() - set(names):
            self._segments = {name: self._segments[name] for name in names if name in self._segments}
            self._holders = {}
            for segment in self._segments.values():
                self._hold(segment)
        for name in names:
            if name in self._segments:
                continue
            if not self._name_pattern.fullmatch(name.removesuffix(SUFFIX)):
                raise StoreError(f"{self._directory.path / name}: is not a segment of this data set; move it elsewhere")
            segment = read_footer(self._directory, name, self._schema)
            self._segments[name] = segment
            self._hold(segment)
        return self._segments

    def _hold(self, segment: Segment) -> None:
        for episode_id in segment.episode_ids:
            held = self._holders.get(episode_id)
            if held is None or segment.name < held.name:
                self._holders[episode_id] = segment


def _order(segments: Sequence[Segment], holders: Mapping[str, Segment]) -> NDArray[np.int64]:
    """Positions, in the concatenation of ``segments``, of the rows of each episode in turn, ascending by its id."""
    spans: dict[str, NDArray[np.int64]] = {}
    base = 0
    for segment in segments:
        bounds = (segment.offsets + base).tolist()
        for episode_id, start, end in zip(segment.episode_ids, bounds, bounds[1:], strict=False):
            if holders[episode_id] is segment:
                spans[episode_id] = np.arange(start, end, dtype=np.int64)
        base = bounds[-1]
    return np.concatenate([spans[episode_id] for episode_id in sorted(spans)])
