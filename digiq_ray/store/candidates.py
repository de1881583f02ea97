"""CandidateStore: actions sampled from the behaviour policy, one row for each unique text at a state.

Immutable Parquet segments, each the work on one named shard of episodes: a stage that stops goes on with the shards
that are not there yet, and a shard that is written again is found and dropped. If shards overlap, an episode is taken
from the first of them in name order. ``for_state`` reads about one megabyte and keeps it; ``table`` reads everything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, Self

import numpy as np
import pyarrow as pa

from digiq_ray.core.actions import Action
from digiq_ray.core.errors import InputError, StoreError
from digiq_ray.store.directory import Directory, StorePath, check_shard_name, create_directory, open_directory
from digiq_ray.store.footers import SUFFIX
from digiq_ray.store.schema import ACTION_FIELDS, action_columns, make_schema, row_action, rows_to_table
from digiq_ray.store.segmented import SegmentedTable
from digiq_ray.store.segments import write_segment
from digiq_ray.store.snapshot import Snapshot, load_snapshot, save_snapshot

SHARD_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._=-]*")
CANDIDATE_SCHEMA = make_schema(
    "candidates",
    (
        ("episode_id", pa.string()),
        ("step", pa.int32()),
        *ACTION_FIELDS,
        ("valid", pa.bool_()),
        ("multiplicity", pa.int32()),
        ("logprob", pa.float32()),
        ("is_behaviour", pa.bool_()),
        ("policy_version", pa.string()),
        ("temperature", pa.float32()),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One action text at one state.

    Attributes:
        episode_id, step: The state.
        action_text: What the policy wrote; unique at the state.
        action: The parsed action, or ``None`` if ``parse_error`` says why there is none.
        multiplicity: How often it was sampled (0 for a behaviour action that was not sampled again).
        logprob: Natural logarithm of its probability at ``temperature`` (kept as float32), if known.
        is_behaviour: Whether it is what the behaviour policy did there when the data was collected.
        policy_version: Who sampled it.
        temperature: Sampling temperature (kept as float32), if known.

    Raises:
        InputError: neither or both of ``action`` and ``parse_error`` are given, or a number is impossible.
    """

    episode_id: str
    step: int
    action_text: str
    action: Action | None
    parse_error: str | None
    multiplicity: int
    logprob: float | None
    is_behaviour: bool
    policy_version: str
    temperature: float | None

    def __post_init__(self) -> None:
        where = f"candidate {self.action_text[:40]!r} of episode {self.episode_id}, step {self.step}"
        if (self.action is None) == (self.parse_error is None):
            raise InputError(f"{where}: give either an action or a parse error")
        if self.multiplicity < 0 or (self.multiplicity == 0 and not self.is_behaviour):
            raise InputError(f"{where}: multiplicity {self.multiplicity} is impossible for it")
        for name in ("logprob", "temperature"):
            value = getattr(self, name)
            if value is None:
                continue
            if math.isnan(value):
                raise InputError(f"{where}: {name} is NaN; leave it out if it is not known")
            object.__setattr__(self, name, _to_float32(value))

    @property
    def valid(self) -> bool:
        """Whether the text is an action of the grammar."""
        return self.action is not None


class CandidateStore:
    """Candidates in a directory. Thread-safe; pickles as its path.

    Args:
        path: The directory; ``CandidateStore.create`` makes it.
        snapshot: If given, the store is read-only and consists of exactly these segments, whatever was added since.
            A text is the name of a snapshot in the store.

    Raises:
        StoreError: the directory is missing, or a segment of the snapshot is missing or has another content.
    """

    def __init__(self, path: StorePath, *, snapshot: Snapshot | str | None = None) -> None:
        self.directory: Directory = open_directory(path)
        """Where the segments lie."""
        self._snapshot = load_snapshot(self.directory, snapshot) if isinstance(snapshot, str) else snapshot
        self._table = SegmentedTable(
            directory=self.directory,
            schema=CANDIDATE_SCHEMA,
            name_pattern=SHARD_NAME,
            pinned=None if self._snapshot is None else self._snapshot.segments,
        )
        if self._snapshot is not None:
            self._table.segments()

    @classmethod
    def create(cls, path: StorePath) -> Self:
        """Opens the store at ``path``, making its directory if it is missing."""
        return cls(create_directory(path).path)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (type(self), str(self.path), self._snapshot)

    @property
    def path(self) -> Any:
        """Where the segments lie: a ``Path``, or the like for ``s3://``."""
        return self.directory.path

    def __len__(self) -> int:
        """Number of episodes that have candidates."""
        return len(self._table.holders())

    def shards(self) -> set[str]:
        """Names of the shards that are done."""
        return {segment.name.removesuffix(SUFFIX) for segment in self._table.segments()}

    def append(self, shard: str, rows: Sequence[Candidate]) -> bool:
        """Publishes all candidates of one shard (perhaps none); ``False`` if the shard was there already.

        Raises:
            InputError: the name of the shard cannot be a file name, or a text occurs twice at a state.
            DiskFullError: no space is left; nothing of this call stays behind, everything before is whole.
            StoreError: the store is read-only, broken or gone.
        """
        check_shard_name(shard)
        if self._snapshot is not None:
            raise StoreError(f"{self.path}: is open at a snapshot, which is read-only; open it without one to append")
        ordered = sorted(rows, key=_key)
        for one, other in pairwise(ordered):
            if _key(one) == _key(other):
                raise InputError(
                    f"shard {shard}: {one.action_text[:40]!r} occurs twice at episode {one.episode_id}, "
                    f"step {one.step}; give it once with its multiplicity"
                )
        tables = [
            (episode_id, rows_to_table([candidate_to_row(candidate) for candidate in group], CANDIDATE_SCHEMA))
            for episode_id, group in groupby(ordered, key=lambda candidate: candidate.episode_id)
        ]
        return self.directory.publish(
            shard + SUFFIX, lambda file: write_segment(file, tables, CANDIDATE_SCHEMA, shard=shard)
        )

    def table(self, columns: list[str] | None = None, ids: Iterable[str] | None = None) -> Any:
        """A ``pa.Table`` of all candidates (or some columns), ascending by (episode_id, step, action).

        With ``ids``, of those episodes only: their row groups are read, and what is not there has no rows.

        Raises:
            StoreError: a column does not exist, or a segment is broken.
        """
        return self._table.rows(columns, ids)

    def for_state(self, episode_id: str, step: int) -> list[Candidate]:
        """The candidates of one state, ascending by text; empty if there are none."""
        return self._table.episode(episode_id, lambda rows: _of_step(rows, step)) or []

    def snapshot(self) -> Snapshot:
        """What the store holds now. Costs the footers of the segments that are new to this object."""
        return Snapshot(self._table.pins())

    def save_snapshot(self, name: str) -> Snapshot:
        """Publishes what the store holds now as ``_NAME.snapshot.json`` beside its segments, and returns it.

        Raises:
            InputError: the name cannot be that of a file.
            StoreError: the store has a snapshot of this name that pins something else.
        """
        return save_snapshot(self.directory, name, self._table.pins)


def _of_step(rows: Any, step: int) -> list[Candidate]:
    return [row_to_candidate(row) for row in rows.to_pylist() if row["step"] == step]


def _reopen(cls: type[CandidateStore], path: str, snapshot: Snapshot | None) -> CandidateStore:
    return cls(path, snapshot=snapshot)


def _to_float32(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _key(candidate: Candidate) -> tuple[str, int, str]:
    return candidate.episode_id, candidate.step, candidate.action_text


def candidate_to_row(candidate: Candidate) -> dict[str, object]:
    """A candidate in the columns of ``CANDIDATE_SCHEMA``."""
    return action_columns(candidate.action_text, candidate.action, candidate.parse_error) | {
        "episode_id": candidate.episode_id,
        "step": candidate.step,
        "valid": candidate.valid,
        "multiplicity": candidate.multiplicity,
        "logprob": candidate.logprob,
        "is_behaviour": candidate.is_behaviour,
        "policy_version": candidate.policy_version,
        "temperature": candidate.temperature,
    }


def row_to_candidate(row: Mapping[str, Any]) -> Candidate:
    """The candidate of a row.

    Raises:
        ValueError, DigiQError: the row holds a word or a number that no version of this program writes.
    """
    return Candidate(
        episode_id=row["episode_id"],
        step=row["step"],
        action_text=row["action"],
        action=row_action(row),
        parse_error=row["parse_error"],
        multiplicity=row["multiplicity"],
        logprob=row["logprob"],
        is_behaviour=row["is_behaviour"],
        policy_version=row["policy_version"],
        temperature=row["temperature"],
    )
