"""Repairing a data set after a verification: broken files are set aside, never deleted, and dead writers' files swept.

What compaction had replaced and nobody pruned comes back when the segment that replaced it is set aside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from digiq_ray.store.directory import Directory
from digiq_ray.store.verification import Verification


@dataclass(frozen=True, slots=True)
class Repair:
    """What was done.

    Attributes:
        set_aside: Names of the broken files, each with the place where it lies now.
        swept: Names of the hidden files of dead writers that were deleted.
        lost: Ids of the episodes that are in no whole file, as far as broken files can still say.
        rows: Rows that are in no whole file, likewise.
        unknown: Names of the broken files that cannot say what they held.
    """

    set_aside: dict[str, Any]
    swept: list[str]
    lost: frozenset[str]
    rows: int
    unknown: list[str]


def repair(directory: Directory, verification: Verification) -> Repair:
    """Sets aside what ``verification`` found broken; raises ``StoreError`` if the directory cannot be written."""
    broken = verification.broken
    data = [finding for finding in broken if finding.is_data]
    return Repair(
        set_aside={finding.file: directory.set_aside(finding.file) for finding in broken},
        swept=directory.sweep(),
        lost=frozenset().union(*(finding.lost for finding in data if finding.lost is not None)),
        rows=sum(finding.rows or 0 for finding in data),
        unknown=[finding.file for finding in data if finding.rows is None],
    )
