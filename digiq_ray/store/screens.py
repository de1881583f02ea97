"""Screens that repeat are stored once for each row group, and found again by their hash.

Agents wait, tap where nothing happens and go back: in recorded episodes a good part of the screens are equal to an
earlier one, and they are most of the bytes. Both directions look at the hashes only and copy no screen that stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SCREEN = "screen"
HASH = "screen_hash"


def new_screen_bytes(table: Any, seen: set[str]) -> int:
    """Bytes of the screens of ``table`` whose hashes are not in ``seen``, which they join."""
    lengths = pc.binary_length(table[SCREEN]).to_pylist()
    total = 0
    for digest, length in zip(table[HASH].to_pylist(), lengths, strict=True):
        if digest not in seen:
            seen.add(digest)
            total += length or 0
    return total


def share_screens(table: Any) -> Any:
    """``table`` with a null ``screen`` on each row whose hash an earlier row has; a lost screen is null in both."""
    lost = pc.equal(pc.fill_null(pc.binary_length(table[SCREEN]), 0), 0).to_pylist()
    seen: set[str | None] = {None}
    stored = []
    hashes = []
    for digest, is_lost in zip(table[HASH].to_pylist(), lost, strict=True):
        hashes.append(None if is_lost else digest)
        stored.append(hashes[-1] not in seen)
        seen.add(hashes[-1])
    screens = pc.if_else(pa.array(stored), table[SCREEN], pa.scalar(None, pa.large_binary()))
    return _with(table, screens, pa.array(hashes, pa.string()))


def resolve_screens(table: Any, start: int = 0, length: int | None = None) -> Any:
    """Rows ``start`` to ``start + length`` of ``table``, each with the bytes of its screen (null if it was lost).

    Raises:
        ValueError: no row of ``table`` has the bytes that a hash names.
    """
    rows = table.slice(start, length)
    missing = pc.and_(pc.is_null(rows[SCREEN]), pc.is_valid(rows[HASH]))
    if not pc.any(missing).as_py():
        return rows
    stored = np.flatnonzero(pc.is_valid(table[SCREEN]).to_numpy())
    found = pc.index_in(rows[HASH], value_set=table[HASH].combine_chunks().take(pa.array(stored)))
    unresolved = pc.and_(missing, pc.is_null(found))
    if pc.any(unresolved).as_py():
        digest = rows[HASH].filter(unresolved)[0]
        raise ValueError(f"no row has the bytes of screen {digest}")
    places = np.where(
        missing.to_numpy(), np.append(stored, 0)[pc.fill_null(found, -1).to_numpy()], np.arange(len(rows)) + start
    )
    return _with(rows, table[SCREEN].take(pa.array(places)), rows[HASH])


def _with(table: Any, screens: Any, hashes: Any) -> Any:
    table = table.set_column(table.column_names.index(SCREEN), SCREEN, screens)
    return table.set_column(table.column_names.index(HASH), HASH, hashes)
