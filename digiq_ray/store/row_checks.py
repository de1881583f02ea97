"""Whether the rows of a segment are what this program writes: every column follows from the others.

Turning rows into an episode (or a candidate) and back gives the same rows, and the bytes of every screen have the hash
beside them. Pure functions of the rows of one episode; their ``ValueError`` says where the first thing is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from digiq_ray.core.episodes import screen_hash
from digiq_ray.store.candidates import candidate_to_row, row_to_candidate
from digiq_ray.store.schema import ACTION_FIELDS, episode_to_rows, rows_to_episode

Row = dict[str, Any]

_MAY_BE_NULL = {"screen", "screen_hash", "behaviour_logprob", "settle_tag", *(name for name, _ in ACTION_FIELDS)}


def check_episode(episode_id: str, rows: list[Row]) -> None:
    """Raises ``ValueError`` or ``DigiQError`` if the rows, with the bytes of each screen, are not one whole episode."""
    for row in rows:
        for column, value in row.items():
            if value is None and column not in _MAY_BE_NULL:
                raise ValueError(f"{_where(row)}: {column} is null")
        screen = row["screen"]
        if screen is not None and screen_hash(screen) != row["screen_hash"]:
            raise ValueError(f"{_where(row)}: the screen does not have its hash")
        if not screen:  # version 1 has no bytes and their hash for a lost screen, later ones have null twice
            row.update(screen=None, screen_hash=None)
    for row, wanted in zip(rows, episode_to_rows(rows_to_episode(rows)), strict=True):
        _check_row(row, wanted | {"episode_id": episode_id})


def check_candidates(episode_id: str, rows: list[Row]) -> None:
    """Raises ``ValueError`` or ``DigiQError`` if the rows are not the candidates of one episode."""
    for row in rows:
        _check_row(row, candidate_to_row(row_to_candidate(row)) | {"episode_id": episode_id})
    for one, other in pairwise(rows):
        if (one["step"], one["action"]) >= (other["step"], other["action"]):
            raise ValueError(f"{_where(other)}: the text {other['action'][:40]!r} is there twice, or out of order")


def _check_row(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for column, value in wanted.items():
        found = row[column]
        if found != value and not (found != found and value != value):
            raise ValueError(f"{_where(row)}: {column} is {_short(found)}, which the other columns contradict")


def _where(row: Mapping[str, Any]) -> str:
    return f"episode {row['episode_id']}, step {row['step']}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
