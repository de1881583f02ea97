"""Mapping a file into memory to read rows of it here and there."""

from __future__ import annotations

import mmap
from typing import BinaryIO


def map_for_rows(file: BinaryIO) -> mmap.mmap:
    """Maps a file read-only; the mapping outlives ``file`` and keeps its locks.

    The system reads the pages that are touched and no others, until ``madvise`` says otherwise.
    """
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    mapped.madvise(mmap.MADV_RANDOM)
    return mapped
