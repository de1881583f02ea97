"""The columns of an episode data set, and the exact way from an ``Episode`` to its rows and back.

One row for each observation, so ``T + 1`` rows for ``T`` actions; the last row has ``is_last`` and a null action. What
belongs to the episode (task, stop reason, policy version, ...) repeats on each of its rows, so that any reader can
filter without a join; dictionary encoding makes that cost nothing. Times are Unix seconds, coordinates lie in [0, 1].

``settle_tag`` says how the wait for the screen ended if the screen did not settle; segments that were written before
there was this column lack it, and read as null.

``screen_hash`` says what was seen on every row. The bytes lie in ``screen`` on the first row of a row group that has
the hash, and are null on the later ones (version 1 has them on every row); this package fills them in on reading. Any
other reader finds them in the same file by the hash: in SQL, ``LEFT JOIN`` the rows whose ``screen`` is not null on
``screen_hash``. A screenshot that was lost before the data came here is null in both columns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from digiq_ray.core.actions import Action, ActionType
from digiq_ray.core.episodes import Episode, Step, StopReason, screen_hash
from digiq_ray.core.errors import InputError
from digiq_ray.core.tasks import Task

KIND_KEY = b"digiq.kind"
VERSION_KEY = b"digiq.schema_version"
SHARD_KEY = b"digiq.shard"
EPISODES_VERSION = 2
READABLE_VERSIONS: Mapping[str, tuple[int, ...]] = {"episodes": (1, EPISODES_VERSION)}
"""Versions of a kind that this program reads; of a kind that is not here, version 1 only."""
LATER_COLUMNS: Mapping[str, tuple[Any, ...]] = {"episodes": (pa.field("settle_tag", pa.string()),)}
"""Last columns of a kind that segments written before them lack, where they read as null."""

ACTION_FIELDS: tuple[tuple[str, Any], ...] = (
    ("action", pa.string()),
    ("action_type", pa.string()),
    ("x", pa.float64()),
    ("y", pa.float64()),
    ("x2", pa.float64()),
    ("y2", pa.float64()),
    ("typed_text", pa.string()),
    ("parse_error", pa.string()),
)
"""Columns of one action: its text, then what the text means (null if it means nothing), then why it means nothing."""


def make_schema(kind: str, fields: Sequence[tuple[str, Any]], version: int = 1) -> Any:
    """A ``pa.Schema`` whose metadata names the kind of data set and the version of its columns."""
    return pa.schema(list(fields), metadata={KIND_KEY: kind.encode(), VERSION_KEY: str(version).encode()})


def check_kind(metadata: Mapping[bytes, bytes], schema: Any) -> int:
    """The version of a file's columns, from its metadata.

    Raises:
        ValueError: the file is of another kind of data set than ``schema``, or of a version that cannot be read.
    """
    kind = schema.metadata[KIND_KEY].decode()
    versions = [str(version) for version in READABLE_VERSIONS.get(kind, (1,))]
    for key, readable in ((KIND_KEY, [kind]), (VERSION_KEY, versions)):
        found = metadata.get(key, b"").decode()
        if found not in readable:
            raise ValueError(f"its {key.decode()} is {found or 'missing'}, this program reads {' and '.join(readable)}")
    return int(metadata[VERSION_KEY])


def check_columns(found: Any, schema: Any) -> None:
    """Raises ``ValueError`` if a file's ``pa.Schema`` lacks a column of ``schema`` or has it with another type.

    It may lack one of ``LATER_COLUMNS``.
    """
    later = LATER_COLUMNS.get(schema.metadata[KIND_KEY].decode(), ())
    for field in schema:
        index = found.get_field_index(field.name)
        if index < 0 and field in later:
            continue
        if index < 0 or found.field(index).type != field.type:
            what = "missing" if index < 0 else f"of type {found.field(index).type}"
            raise ValueError(f"column {field.name} is {what}, not {field.type}")


def with_later_columns(table: Any, kind: str) -> Any:
    """A ``pa.Table`` with the ``LATER_COLUMNS`` of its kind that it lacks, all null."""
    for field in LATER_COLUMNS.get(kind, ()):
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table


def check_shard(metadata: Mapping[bytes, bytes], shard: str) -> None:
    """Raises ``ValueError`` if a file's metadata does not say that it is ``shard``."""
    found = metadata.get(SHARD_KEY, b"").decode()
    if found != shard:
        raise ValueError(f"it is shard {found!r} under another name")


EPISODE_SCHEMA = make_schema(
    "episodes",
    (
        ("episode_id", pa.string()),
        ("step", pa.int32()),
        ("task_id", pa.string()),
        ("task", pa.string()),
        ("split", pa.string()),
        ("kind", pa.string()),
        ("seed", pa.int64()),
        ("goal", pa.string()),
        ("screen", pa.large_binary()),
        ("screen_hash", pa.string()),
        *ACTION_FIELDS,
        ("reward", pa.float64()),
        ("is_first", pa.bool_()),
        ("is_last", pa.bool_()),
        ("is_terminal", pa.bool_()),
        ("stop_reason", pa.string()),
        ("policy_version", pa.string()),
        ("device", pa.string()),
        ("judge", pa.string()),
        ("behaviour_logprob", pa.float64()),
        ("started_at", pa.float64()),
        ("ended_at", pa.float64()),
        ("horizon", pa.int32()),
        *((field.name, field.type) for field in LATER_COLUMNS["episodes"]),
    ),
    EPISODES_VERSION,
)


def rows_to_table(rows: Sequence[Mapping[str, object]], schema: Any) -> Any:
    """Rows as a ``pa.Table`` of ``schema``; raises ``InputError`` if a value does not fit its column."""
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError) as error:
        kind = schema.metadata[KIND_KEY].decode()
        raise InputError(f"a value does not fit the columns of {kind}: {str(error).splitlines()[0]}") from error


def action_columns(text: str | None, action: Action | None, parse_error: str | None) -> dict[str, object]:
    """The columns of ``ACTION_FIELDS`` for one action."""
    return {
        "action": text,
        "action_type": None if action is None else str(action.type),
        "x": None if action is None else action.x,
        "y": None if action is None else action.y,
        "x2": None if action is None else action.x2,
        "y2": None if action is None else action.y2,
        "typed_text": None if action is None else action.text,
        "parse_error": parse_error,
    }


def row_action(row: Mapping[str, Any]) -> Action | None:
    """The parsed action of a row, or ``None`` if it has none."""
    if row["action_type"] is None:
        return None
    kind = ActionType(row["action_type"])
    return Action(kind, row["x"], row["y"], row["x2"], row["y2"], row["typed_text"])


def episode_to_rows(episode: Episode) -> list[dict[str, object]]:
    """The ``T + 1`` rows of an episode, in the columns of ``EPISODE_SCHEMA``.

    Raises:
        InputError: the episode has no observation, its last one has an action, or another one has none.
    """
    last = len(episode.steps) - 1
    if last < 0:
        raise InputError(f"episode {episode.episode_id} has no observation: leave it out")
    task = episode.task
    shared: dict[str, object] = {
        "episode_id": episode.episode_id,
        "task_id": task.task_id,
        "task": task.text,
        "split": task.split,
        "kind": task.kind,
        "seed": task.seed,
        "goal": json.dumps(task.goal, ensure_ascii=False, sort_keys=True),
        "horizon": task.horizon,
        "stop_reason": str(episode.stop_reason),
        "policy_version": episode.policy_version,
        "device": episode.device,
        "judge": episode.judge,
    }
    rows = []
    for index, step in enumerate(episode.steps):
        if (step.action_text is None) != (index == last) or (index == last and step.action is not None):
            rule = "the last observation must have no action" if index == last else "only the last may have no action"
            raise InputError(f"episode {episode.episode_id}, step {index}: {rule}")
        rows.append(
            shared
            | action_columns(step.action_text, step.action, step.parse_error)
            | {
                "step": index,
                "screen": step.screen or None,
                "screen_hash": screen_hash(step.screen) if step.screen else None,
                "reward": step.reward,
                "is_first": index == 0,
                "is_last": index == last,
                "is_terminal": index == last and episode.is_terminal,
                "behaviour_logprob": step.behaviour_logprob,
                "started_at": step.started_at,
                "ended_at": step.ended_at,
                "settle_tag": step.settle_tag,
            }
        )
    return rows


def rows_to_episode(rows: Sequence[Mapping[str, Any]]) -> Episode:
    """The episode of rows that ``episode_to_rows`` made, in the order of ``step``.

    Raises:
        ValueError: the rows are not one whole episode, or hold a word that no version of this program writes.
    """
    for index, row in enumerate(rows):
        if row["step"] != index or row["is_last"] != (index == len(rows) - 1):
            raise ValueError(f"episode {row['episode_id']} is not whole at step {index}")
    first = rows[0]
    return Episode(
        episode_id=first["episode_id"],
        task=Task(
            task_id=first["task_id"],
            text=first["task"],
            horizon=first["horizon"],
            split=first["split"],
            kind=first["kind"],
            goal=_read_goal(first["goal"]),
            seed=first["seed"],
        ),
        steps=tuple(_row_to_step(row) for row in rows),
        stop_reason=StopReason(first["stop_reason"]),
        policy_version=first["policy_version"],
        device=first["device"],
        judge=first["judge"],
    )


def _read_goal(text: str) -> dict[str, str]:
    try:
        goal = json.loads(text)
    except RecursionError as error:
        raise ValueError("its goal is nested without end") from error
    if not isinstance(goal, dict):
        raise ValueError(f"its goal is {text[:40]!r}, not a JSON object")
    return goal


def _row_to_step(row: Mapping[str, Any]) -> Step:
    return Step(
        screen=row["screen"] or b"",
        action_text=row["action"],
        action=row_action(row),
        parse_error=row["parse_error"],
        reward=row["reward"],
        behaviour_logprob=row["behaviour_logprob"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        settle_tag=row["settle_tag"],
    )
