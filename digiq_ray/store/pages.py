"""Which pages of a mapped file the system reads, and when: everything that is needed at once, and nothing else.

A page fault waits for one page after another, and read-ahead reads mostly rows that nobody named. So the system is
told the ranges before the first is touched, and reads them side by side. What was copied from a mapping is let go:
otherwise a process would come to hold every page that it ever looked at. The pages stay in the system's cache.
"""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

Range = tuple[int, int]
"""First byte and the byte after the last; the first is the first of a page."""


def page_range(begin: int, count: int) -> Range:
    """The range that holds ``count`` bytes from ``begin``."""
    return begin // mmap.PAGESIZE * mmap.PAGESIZE, begin + count


def ranges_of_rows(starts: NDArray[np.int64], row_bytes: int) -> list[Range]:
    """The ranges that hold rows of ``row_bytes`` bytes at ``starts``, ascending; neighbours are one range."""
    if not len(starts):
        return []
    starts = np.unique(starts)
    first = starts // mmap.PAGESIZE
    last = (starts + row_bytes - 1) // mmap.PAGESIZE
    breaks = np.flatnonzero(first[1:] > last[:-1] + 1)
    begins, ends = first[np.r_[0, breaks + 1]] * mmap.PAGESIZE, (last[np.r_[breaks, -1]] + 1) * mmap.PAGESIZE
    return list(zip(begins.tolist(), ends.tolist(), strict=True))


def ask_for(mapped: mmap.mmap, ranges: list[Range]) -> None:
    """Makes the system begin to read ``ranges``."""
    _advise(mapped, mmap.MADV_WILLNEED, ranges)


def ask_for_ends(mapped: mmap.mmap, length: int) -> None:
    """The same for the first and the last ``length`` bytes: where an Arrow file tells what it holds."""
    ask_for(mapped, [(0, length), page_range(max(0, len(mapped) - length), length)])


def let_go(mapped: mmap.mmap, ranges: list[Range]) -> None:
    """Takes ``ranges``, and what lies between them, out of this process's memory; touching them brings them back."""
    if ranges:
        _advise(mapped, mmap.MADV_DONTNEED, [(ranges[0][0], ranges[-1][1])])


def _advise(mapped: mmap.mmap, advice: int, ranges: list[Range]) -> None:
    size = len(mapped)
    for begin, end in ranges:
        if begin < end and begin < size:
            mapped.madvise(advice, begin, min(end, size) - begin)
