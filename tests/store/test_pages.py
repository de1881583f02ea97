"""Pages of a mapping: ranges hold exactly the rows that were named, and what was let go is not held."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digiq_ray.store.features import FeatureKey, FeatureStore, Fingerprint
from digiq_ray.store.pages import ask_for, ask_for_ends, let_go, page_range, ranges_of_rows

_PAGE = mmap.PAGESIZE
_FINGERPRINT = Fingerprint(model="0a1b", layer=3, pooling="last", prompt="2c3d", image="224x224 RGB")


@given(rows=st.lists(st.integers(0, 300)), row_bytes=st.integers(1, 3 * _PAGE), offset=st.integers(0, 2 * _PAGE))
def test_the_ranges_hold_the_pages_of_the_rows_and_no_other(rows: list[int], row_bytes: int, offset: int) -> None:
    starts = offset + np.asarray(rows, dtype=np.int64) * row_bytes
    pages = {page for start in starts.tolist() for page in range(start // _PAGE, (start + row_bytes - 1) // _PAGE + 1)}
    ranges = ranges_of_rows(starts, row_bytes)
    assert [page for begin, end in ranges for page in range(begin // _PAGE, end // _PAGE)] == sorted(pages)
    assert all(end < begin for (_, end), (begin, _) in pairwise(ranges))


@given(begin=st.integers(0, 10 * _PAGE), count=st.integers(0, 10 * _PAGE))
def test_a_page_range_begins_at_a_page_and_ends_where_it_should(begin: int, count: int) -> None:
    first, end = page_range(begin, count)
    assert first % _PAGE == 0
    assert first <= begin < first + _PAGE
    assert end == begin + count


@pytest.fixture
def mapped(tmp_path: Path) -> Iterator[mmap.mmap]:
    (tmp_path / "file").write_bytes(bytes(range(250)) * 2000)
    with open(tmp_path / "file", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        yield mapped


@pytest.mark.parametrize("length", [1, 10_000, 10_000_000])
def test_advice_beyond_the_end_is_cut_and_changes_no_content(mapped: mmap.mmap, length: int) -> None:
    expected = mapped[:]
    ask_for_ends(mapped, length)
    for advise in (ask_for, let_go):
        advise(mapped, [(0, length), (_PAGE, _PAGE), (len(mapped) // _PAGE * _PAGE, 10**9), (10**12, 10**12 + 1)])
        advise(mapped, [])
        assert mapped[:] == expected


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="what a process holds is told by /proc (Linux)")
def test_reading_a_whole_store_row_by_row_does_not_fill_the_memory_of_the_process(tmp_path: Path) -> None:
    def held() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    store, count = FeatureStore.create(tmp_path), 20_000
    features = np.full((count, 1024), 0.5, dtype=np.float32)
    store.append("a", [FeatureKey("e", step, None) for step in range(count)], features, _FINGERPRINT)
    del features
    view = store.open()
    order = np.random.default_rng(0).permutation(count)
    before = held()
    for start in range(0, count, 500):
        view.rows(order[start : start + 500])
    assert held() - before < 12_000_000  # of 80 MB
