"""Many immutable Parquet segments that together are one table, an episode at a time.

What both Parquet stores are made of. An episode that occurs in several segments (a retried write, racing writers) is
taken from the one whose name comes first, and what compaction merged counts under the name that it was written to
first: every reader of the same files sees the same rows, before and after a compaction and during it. Segments that
another one replaces are ignored. Footers are read once, since segments never change: looking again costs one listing
of the directory plus the footers of new segments. Single episodes are read through a bounded cache of row groups.
"""

from __future__ import annotations

import bisect
import functools
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from digiq_ray.core.errors import StoreError
from digiq_ray.store.content import StoreUnreachableError
from digiq_ray.store.directory import Directory
from digiq_ray.store.footers import SUFFIX, Segment, read_footer
from digiq_ray.store.segments import group_rows, read_group, read_group_rows, read_metadata, read_rows

T = TypeVar("T")

_CACHED_GROUPS = 256  # of about 1 MiB each, see segments.py
_CACHED_METADATA = 32
_LOOKS = 20


class SegmentGoneError(StoreError):
    """A segment that was there is gone: compaction replaced it, or somebody removed it."""


@contextmanager
def noticing_gone(directory: Directory, name: str) -> Iterator[None]:
    """Turns a ``StoreError`` of reading a segment into ``SegmentGoneError`` if the segment is not there any more."""
    try:
        yield
    except StoreUnreachableError:
        raise
    except StoreError as error:
        if name in directory.names(SUFFIX):
            raise
        raise SegmentGoneError(str(error)) from error


class SegmentedTable:
    """The table that the segments in a directory make up. Thread-safe.

    Args:
        directory: Where the segments lie.
        schema: Columns, kind and version that each must have.
        name_pattern: What the file names, without suffix, look like.
        pinned: If given, the table consists of these segments, by name with their pins, whatever else the directory
            holds.
    """

    def __init__(
        self,
        *,
        directory: Directory,
        schema: Any,
        name_pattern: re.Pattern[str],
        pinned: Mapping[str, str] | None = None,
    ) -> None:
        self._directory = directory
        self._schema = schema
        self._name_pattern = name_pattern
        self._pinned = pinned
        self._lock = threading.Lock()
        self._footers: dict[str, Segment] = {}
        self._live: dict[str, Segment] = {}
        self._holders: dict[str, tuple[str, Segment]] = {}
        self._pins: dict[str, str] = {}
        self._group: Callable[[str, int], Any] = functools.lru_cache(maxsize=_CACHED_GROUPS)(self._read_group)
        self._metadata: Callable[[str], Any] = functools.lru_cache(maxsize=_CACHED_METADATA)(
            functools.partial(read_metadata, directory)
        )

    def segments(self) -> list[Segment]:
        """The segments that are there now and that no other one replaces, ascending by name."""
        with self._lock:
            self._look()
            return [self._live[name] for name in sorted(self._live)]

    def replaced(self) -> dict[str, Segment]:
        """Names of the files that readers ignore, each with the live segment that replaces it."""
        with self._lock:
            names = self._look()
            by = {name: segment for segment in self._live.values() for name in segment.replaces}
            return {name: by[name] for name in names if name in by}

    def holders(self) -> dict[str, Segment]:
        """For each episode id that is there now, the segment that it is taken from."""
        with self._lock:
            self._look()
            return {episode_id: segment for episode_id, (_, segment) in self._holders.items()}

    def held(self, ids: Iterable[str]) -> set[str]:
        """Those of ``ids`` that are there now."""
        with self._lock:
            self._look()
            return {episode_id for episode_id in ids if episode_id in self._holders}

    def rows(self, columns: Sequence[str] | None = None, ids: Iterable[str] | None = None) -> Any:
        """A ``pa.Table`` of all rows, ascending by episode id and in each episode as written, each episode once.

        With ``ids``, of those episodes only (what is not there has no rows): this reads the row groups that hold them.

        Raises:
            StoreError: a segment is broken, or a column does not exist.
        """
        wanted = list(self._schema.names) if columns is None else list(columns)
        for column in wanted:
            if column not in self._schema.names:
                raise StoreError(
                    f"{self._directory.path}: no column {column!r}; there are {', '.join(self._schema.names)}"
                )
        return self._looking_again(lambda: self._rows(wanted) if ids is None else self._rows_of(set(ids), wanted))

    def episode(self, episode_id: str, convert: Callable[[Any], T]) -> T | None:
        """What ``convert`` makes of the rows of one episode (a ``pa.Table``); ``None`` if it is not there.

        Looks for new segments only if those that are known do not have the episode.

        Raises:
            StoreError: the segment is broken, or ``convert`` raised what wrong content raises; names the segment.
        """
        with self._lock:
            if episode_id not in self._holders:
                self._look()

        def read() -> T | None:
            with self._lock:
                held = self._holders.get(episode_id)
            return None if held is None else self._read(episode_id, held[1], convert)

        return self._looking_again(read)

    def pins(self) -> dict[str, str]:
        """Hashes that name the content of each live segment. Reads those whole that an older program wrote."""
        return self._looking_again(lambda: {segment.name: self._pin(segment) for segment in self.segments()})

    def _rows(self, wanted: Sequence[str]) -> Any:
        holders = self.holders()
        segments = sorted({id(segment): segment for segment in holders.values()}.values(), key=lambda s: s.name)
        if not segments:
            return self._schema.empty_table().select(wanted)
        table = pa.concat_tables([self._read_rows(segment.name, wanted) for segment in segments])
        table = table.replace_schema_metadata(self._schema.metadata)
        order = _order(segments, holders)
        if len(order) == table.num_rows and np.array_equal(order, np.arange(len(order))):
            return table
        return table.take(pa.array(order))

    def _rows_of(self, ids: set[str], wanted: Sequence[str]) -> Any:
        with self._lock:
            if not ids <= self._holders.keys():
                self._look()
            held = [(one, self._holders[one][1]) for one in sorted(ids) if one in self._holders]
        groups: dict[tuple[str, int], list[tuple[str, int, int]]] = {}
        for episode_id, segment in held:
            group, start, length = _place(segment, episode_id)
            groups.setdefault((segment.name, group), []).append((episode_id, start, length))
        rows: dict[str, Any] = {}
        for (name, group), places in groups.items():
            with noticing_gone(self._directory, name):
                found = read_group_rows(self._directory, name, group, self._metadata(name), wanted)
            # Copied: a slice would keep all of its row group.
            copy = found.take(pa.array(np.concatenate([np.arange(start, start + n) for _, start, n in places])))
            ends = np.cumsum([n for *_, n in places]).tolist()
            rows |= {one: copy.slice(end - n, n) for (one, _, n), end in zip(places, ends, strict=True)}
        empty = self._schema.empty_table().select(wanted)
        tables = [rows[episode_id].replace_schema_metadata(self._schema.metadata) for episode_id, _ in held]
        return pa.concat_tables([empty, *tables])

    def _read(self, episode_id: str, segment: Segment, convert: Callable[[Any], T]) -> T:
        group, start, length = _place(segment, episode_id)
        table = self._group(segment.name, group)
        with self._directory.content_errors(segment.name):
            return convert(group_rows(table, start, length))

    def _read_group(self, name: str, group: int) -> Any:
        with noticing_gone(self._directory, name):
            return read_group(self._directory, name, group, self._metadata(name))

    def _read_rows(self, name: str, columns: Sequence[str]) -> Any:
        with noticing_gone(self._directory, name):
            return read_rows(self._directory, name, columns)

    def _looking_again(self, read: Callable[[], T]) -> T:
        """What ``read`` returns; called again, after another look, if a file vanished that compaction replaced."""
        for _ in range(_LOOKS):
            try:
                return read()
            except SegmentGoneError:
                if self._pinned is not None:
                    raise
                with self._lock:
                    self._look()
        return read()

    def _look(self) -> list[str]:
        """Names that are there now; ``_live`` and ``_holders`` are then of these."""
        for _ in range(_LOOKS):
            try:
                return self._look_once()
            except SegmentGoneError:
                if self._pinned is not None:
                    raise
        return self._look_once()

    def _look_once(self) -> list[str]:
        names = self._directory.names(SUFFIX) if self._pinned is None else sorted(self._pinned)
        present = set(names)
        if self._footers.keys() - present:
            self._footers = {name: segment for name, segment in self._footers.items() if name in present}
        replaced: set[str] = set()
        for name in reversed(names):  # what replaces others comes after them, so that their footers are not read
            if name in replaced:
                continue
            if name not in self._footers:
                self._footers[name] = self._read_footer(name)
            replaced.update(self._footers[name].replaces)
        live = {name: segment for name, segment in self._footers.items() if name not in replaced}
        if self._live.keys() - live.keys():
            self._live, self._holders = {}, {}
        for name in live.keys() - self._live.keys():
            self._live[name] = live[name]
            self._hold(live[name])
        return names

    def _read_footer(self, name: str) -> Segment:
        if not self._name_pattern.fullmatch(name.removesuffix(SUFFIX)):
            raise StoreError(f"{self._directory.path / name}: is not a segment of this data set; move it elsewhere")
        with noticing_gone(self._directory, name):
            segment = read_footer(self._directory, name, self._schema)
        if self._pinned is not None and self._pin(segment) != self._pinned[name]:
            raise StoreError(f"{self._directory.path / name}: is not what the snapshot saw; restore it from a copy")
        return segment

    def _pin(self, segment: Segment) -> str:
        if segment.name not in self._pins:
            with noticing_gone(self._directory, segment.name):
                self._pins[segment.name] = segment.pin or self._directory.digest(segment.name)
        return self._pins[segment.name]

    def _hold(self, segment: Segment) -> None:
        for episode_id, origin in zip(segment.episode_ids, segment.origins, strict=True):
            held = self._holders.get(episode_id)
            if held is None or (origin, segment.name) < (held[0], held[1].name):
                self._holders[episode_id] = (origin, segment)


def _place(segment: Segment, episode_id: str) -> tuple[int, int, int]:
    """Where the rows of an episode lie: the row group, the first row in it, and how many there are."""
    position = bisect.bisect_left(segment.episode_ids, episode_id)
    start, end = int(segment.offsets[position]), int(segment.offsets[position + 1])
    group = int(np.searchsorted(segment.groups, start, side="right")) - 1
    return group, start - int(segment.groups[group]), end - start


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
