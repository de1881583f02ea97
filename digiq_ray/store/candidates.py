"""CandidateStore: actions sampled from the behaviour policy, one row for each unique text at a state.

Immutable Parquet segments, each the work on one named shard of episodes: a stage that stops goes on with the shards
that are not there yet, and a shard that is written again is found and dropped. If shards overlap, an episode is taken
from the first of them in name order. ``for_state`` reads about one megabyte and keeps it; ``table`` reads everything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from digiq_ray.core.actions import Action
from digiq_ray.core.errors import InputError
from digiq_ray.store.directory import StorePath, check_shard_name, create_directory, open_directory
from digiq_ray.store.schema import ACTION_FIELDS, action_columns, make_schema, row_action, rows_to_table
from digiq_ray.store.segmented import SegmentedTable
from digiq_ray.store.segments import SUFFIX, write_segment

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

    Raises:
        StoreError: the directory is missing; ``CandidateStore.create`` makes it.
    """

    def __init__(self, path: StorePath) -> None:
        self._directory = open_directory(path)
        self._table = SegmentedTable(directory=self._directory, schema=CANDIDATE_SCHEMA, name_pattern=re.compile(".+"))

    @classmethod
    def create(cls, path: StorePath) -> Self:
        """Opens the store at ``path``, making its directory if it is missing."""
        return cls(create_directory(path).path)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self.path),)

    @property
    def path(self) -> Path:
        """Where the segments lie."""
        return self._directory.path

    def shards(self) -> set[str]:
        """Names of the shards that are done."""
        return {name.removesuffix(SUFFIX) for name in self._table.segment_names()}

    def append(self, shard: str, rows: Sequence[Candidate]) -> bool:
        """Publishes all candidates of one shard (perhaps none); ``False`` if the shard was there already.

        Raises:
            InputError: the name of the shard cannot be a file name, or a text occurs twice at a state.
            DiskFullError: no space is left; nothing of this call stays behind, everything before is whole.
        """
        check_shard_name(shard)
        ordered = sorted(rows, key=_key)
        for one, other in pairwise(ordered):
            if _key(one) == _key(other):
                raise InputError(
                    f"shard {shard}: {one.action_text[:40]!r} occurs twice at episode {one.episode_id}, "
                    f"step {one.step}; give it once with its multiplicity"
                )
        tables = [
            (episode_id, rows_to_table([_to_row(candidate) for candidate in group], CANDIDATE_SCHEMA))
            for episode_id, group in groupby(ordered, key=lambda candidate: candidate.episode_id)
        ]
        return self._directory.publish(
            shard + SUFFIX, lambda file: write_segment(file, tables, CANDIDATE_SCHEMA, shard=shard)
        )

    def table(self, columns: list[str] | None = None) -> Any:
        """A ``pa.Table`` of all candidates (or some columns), ascending by (episode_id, step, action).

        Raises:
            StoreError: a column does not exist, or a segment is broken.
        """
        return self._table.rows(columns)

    def for_state(self, episode_id: str, step: int) -> list[Candidate]:
        """The candidates of one state, ascending by text; empty if there are none."""
        segment = self._table.holder(episode_id)
        if segment is None:
            return []
        rows = self._table.episode_rows(episode_id, segment)
        with self._directory.content_errors(segment.name):
            return [_from_row(row) for row in rows.to_pylist() if row["step"] == step]


def _to_float32(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _key(candidate: Candidate) -> tuple[str, int, str]:
    return candidate.episode_id, candidate.step, candidate.action_text


def _to_row(candidate: Candidate) -> dict[str, object]:
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


def _from_row(row: dict[str, Any]) -> Candidate:
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
