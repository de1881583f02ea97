"""Verifying a data set: everything in it is read, and what is wrong is said file by file.

Episodes and candidates: footers, hashes, page checksums, every episode whole, every column consistent, the bytes of
every screen. Features: hashes of keys and values, one fingerprint. Beside these: snapshots that can no longer be
opened, episodes that are there twice, replaced segments, files of writers that died. Memory is bounded by a row group
(and the keys of a feature store), the time by reading the data set twice. Nothing is changed here, see ``repair``.
"""

from __future__ import annotations

import enum
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from digiq_ray.core.errors import StoreError
from digiq_ray.store.candidates import CANDIDATE_SCHEMA, SHARD_NAME
from digiq_ray.store.content import StoreUnreachableError
from digiq_ray.store.directory import Directory
from digiq_ray.store.feature_shard import MappedShard, map_shard
from digiq_ray.store.footers import SUFFIX, Segment, check_body, read_footer
from digiq_ray.store.kinds import SHARD_SUFFIX, ULID_NAME, StoreKind, store_kind
from digiq_ray.store.publish import is_hidden_copy
from digiq_ray.store.row_checks import check_candidates, check_episode
from digiq_ray.store.schema import EPISODE_SCHEMA
from digiq_ray.store.segmented import SegmentGoneError, noticing_gone
from digiq_ray.store.segments import episode_tables
from digiq_ray.store.snapshot import load_snapshot, snapshot_file, snapshot_names

_BROKEN = re.compile(r"is broken \((.*)\); restore it from a copy.*")

OnProgress = Callable[[int, int], None]


class Severity(enum.StrEnum):
    """How bad a finding is."""

    BROKEN = "broken"  # readers fail on the file
    NOTE = "note"  # harmless


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one file.

    Attributes:
        file: Its name.
        severity: How bad it is.
        problem: What is wrong, in a few words.
        is_data: Whether it holds rows (a snapshot holds none).
        lost: Ids of the episodes of a broken file that no whole file has; ``None`` if it cannot say (any more).
        rows: Rows of a broken file that no whole file has; ``None`` if it cannot say.
    """

    file: str
    severity: Severity
    problem: str
    is_data: bool = True
    lost: frozenset[str] | None = None
    rows: int | None = None


@dataclass(slots=True)
class Verification:
    """What was verified and what was found.

    Attributes:
        kind: Kind of data set.
        files: Number of data files.
        episodes: Number of different episodes in whole files (0 for features).
        rows: Number of rows in whole files.
        findings: What is wrong, by file.
    """

    kind: StoreKind
    files: int = 0
    episodes: int = 0
    rows: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def broken(self) -> list[Finding]:
        """The findings that keep readers from working."""
        return [finding for finding in self.findings if finding.severity is Severity.BROKEN]


def verify(
    directory: Directory, *, kind: StoreKind | None = None, on_progress: OnProgress | None = None
) -> Verification:
    """Reads everything in a data set.

    Args:
        directory: Where it lies.
        kind: What it is; found from its files if left out.
        on_progress: Is called with (files read, number of files).

    Raises:
        StoreError: the directory does not hold one data set of this project, or cannot be read.
    """
    kind = kind or store_kind(directory)
    found = Verification(kind)
    progress = on_progress or (lambda done, total: None)
    if kind is StoreKind.FEATURES:
        _verify_features(directory, found, progress)
    elif kind is not StoreKind.EMPTY:
        _verify_segments(directory, found, progress)
    found.findings += _leftovers(directory)
    found.findings.sort(key=lambda finding: (finding.severity is not Severity.BROKEN, finding.file))
    return found


def _verify_segments(directory: Directory, found: Verification, progress: OnProgress) -> None:
    names = directory.names(SUFFIX)
    whole: dict[str, Segment] = {}
    broken: dict[str, str] = {}
    for number, name in enumerate(names):
        progress(number, len(names))
        try:
            with noticing_gone(directory, name):
                whole[name] = _verify_segment(directory, name, found.kind)
        except StoreUnreachableError:
            raise
        except SegmentGoneError:
            continue  # pruned since it was listed
        except StoreError as error:
            broken[name] = str(error)
    progress(len(names), len(names))
    held = {episode_id for segment in whole.values() for episode_id in segment.episode_ids}
    found.files = len(whole) + len(broken)
    found.episodes = len(held)
    found.rows = sum(int(segment.offsets[-1]) for segment in whole.values())
    found.findings += [_broken_segment(directory, name, found.kind, broken[name], held) for name in broken]
    found.findings += _repeated(whole.values())
    found.findings += _broken_snapshots(directory, whole, broken)


def _verify_segment(directory: Directory, name: str, kind: StoreKind) -> Segment:
    episodes = kind is StoreKind.EPISODES
    if not (ULID_NAME if episodes else SHARD_NAME).fullmatch(name.removesuffix(SUFFIX)):
        raise StoreError(f"{directory.path / name}: is not a segment of this data set; move it elsewhere")
    segment = read_footer(directory, name, EPISODE_SCHEMA if episodes else CANDIDATE_SCHEMA)
    check = check_episode if episodes else check_candidates
    for episode_id, table in episode_tables(directory, segment):
        with directory.content_errors(name):
            check(episode_id, table.to_pylist())
    if segment.body is not None:
        check_body(directory, segment)
    return segment


def _broken_segment(directory: Directory, name: str, kind: StoreKind, problem: str, held: set[str]) -> Finding:
    try:
        segment = read_footer(directory, name, EPISODE_SCHEMA if kind is StoreKind.EPISODES else CANDIDATE_SCHEMA)
    except StoreUnreachableError:
        raise
    except StoreError:
        return Finding(name, Severity.BROKEN, _short(directory, name, problem))
    sizes = dict(zip(segment.episode_ids, np.diff(segment.offsets).tolist(), strict=True))
    lost = frozenset(sizes) - held
    rows = sum(sizes[episode_id] for episode_id in lost)
    return Finding(name, Severity.BROKEN, _short(directory, name, problem), lost=lost, rows=rows)


def _repeated(segments: Iterable[Segment]) -> list[Finding]:
    """Notes on what compaction and pruning would mend: replaced segments, and episodes that are there twice."""
    by = {name: segment.name for segment in segments for name in segment.replaces}
    live = Counter(episode_id for segment in segments if segment.name not in by for episode_id in segment.episode_ids)
    findings = []
    for segment in segments:
        twice = sum(live[episode_id] > 1 for episode_id in segment.episode_ids)
        if segment.name in by:
            findings.append(Finding(segment.name, Severity.NOTE, f"{by[segment.name]} replaces it; prune deletes it"))
        elif twice:
            text = f"{twice} of its episodes are in other segments too; readers take each once, compact drops the rest"
            findings.append(Finding(segment.name, Severity.NOTE, text))
    return findings


def _broken_snapshots(directory: Directory, whole: dict[str, Segment], broken: dict[str, str]) -> list[Finding]:
    findings = []
    for name in snapshot_names(directory):
        try:
            pins = load_snapshot(directory, name).segments
        except StoreUnreachableError:
            raise
        except StoreError as error:
            problem = _short(directory, snapshot_file(name), str(error))
            findings.append(Finding(snapshot_file(name), Severity.BROKEN, problem, is_data=False))
            continue
        for segment, pin in pins.items():
            if segment in broken:
                problem = f"it pins {segment}, which is broken"
            elif segment not in whole:
                problem = f"it pins {segment}, which is gone"
            elif (whole[segment].pin or directory.digest(segment)) != pin:
                problem = f"it pins another content of {segment}"
            else:
                continue
            findings.append(Finding(snapshot_file(name), Severity.BROKEN, problem, is_data=False))
            break
    return findings


def _verify_features(directory: Directory, found: Verification, progress: OnProgress) -> None:
    names = directory.names(SHARD_SUFFIX)
    whole: dict[str, MappedShard] = {}
    for number, name in enumerate(names):
        progress(number, len(names))
        rows = None
        try:
            shard = map_shard(directory, name)
            rows = len(shard.features)
            shard.verify()
            whole[name] = shard
        except StoreUnreachableError:
            raise
        except StoreError as error:
            found.findings.append(Finding(name, Severity.BROKEN, _short(directory, name, str(error)), rows=rows))
    progress(len(names), len(names))
    found.files = len(names)
    for name in _odd_ones(whole):
        rows = len(whole.pop(name).features)
        problem = "its fingerprint, length or type is not that of most shards; they cannot be opened together"
        found.findings.append(Finding(name, Severity.BROKEN, problem, rows=rows))
    found.rows = sum(len(shard.features) for shard in whole.values())
    if whole:
        keys = pa.concat_tables([shard.keys() for shard in whole.values()])
        repeats = keys.num_rows - keys.group_by(keys.column_names).aggregate([]).num_rows
        if repeats:
            problem = f"{repeats} keys of the data set are there more than once; the first one counts"
            found.findings.append(Finding(min(whole), Severity.NOTE, problem))


def _odd_ones(shards: dict[str, MappedShard]) -> list[str]:
    """Names of the shards that do not fit to the most common ones."""
    makes = {name: (one.fingerprint, one.features.shape[1], one.features.dtype.name) for name, one in shards.items()}
    common = Counter(makes.values()).most_common(1)
    return [name for name, make in makes.items() if make != common[0][0]]


def _leftovers(directory: Directory) -> list[Finding]:
    """Hidden files of writers; a directory that is not local has none."""
    if not isinstance(directory.path, Path):
        return []
    problem = "a writer is at work on it, or died; repair deletes it when it is an hour old"
    return [
        Finding(name, Severity.NOTE, problem) for name in sorted(os.listdir(directory.path)) if is_hidden_copy(name)
    ]


def _short(directory: Directory, name: str, problem: str) -> str:
    """``problem`` without the path of the file, which stands beside it, and without advice."""
    text = problem.removeprefix(f"{directory.path / name}: ")
    inner = _BROKEN.fullmatch(text)
    return inner[1] if inner else text
