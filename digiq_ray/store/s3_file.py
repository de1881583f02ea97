"""A file object over an S3 object that asks for the ranges that are read, for pyarrow.

Opening costs one request, which brings the last 64 KiB: the footer of most Parquet files, or all of a small one. A
large read is one request; small ones are served from a few aligned blocks that are kept.
"""

from __future__ import annotations

import io
from collections import OrderedDict

from digiq_ray.store.s3_location import S3Location
from digiq_ray.store.s3_objects import read_range, read_tail

_TAIL_BYTES = 64 << 10
_BLOCK_BYTES = 128 << 10
_BLOCKS = 16


class RangeFile(io.RawIOBase):
    """An S3 object, read-only and seekable. One thread at a time.

    Raises:
        StoreError: it is not there, or not to be had.
    """

    def __init__(self, place: S3Location) -> None:
        super().__init__()
        self._place = place
        self._tail, self._info = read_tail(place, _TAIL_BYTES)
        self._tail_start = self._info.size - len(self._tail)
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the position; asks for nothing."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._info.size}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}")
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Exactly ``size`` bytes (all that remain, if negative), fewer only at the end."""
        remaining = max(self._info.size - self._position, 0)
        wanted = remaining if size is None or size < 0 else min(size, remaining)
        data = self._read(self._position, wanted)
        self._position += len(data)
        return data

    def readinto(self, buffer: object) -> int:
        """Fills ``buffer`` as far as the object reaches."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def _read(self, start: int, size: int) -> bytes:
        if start >= self._tail_start:
            return self._tail[start - self._tail_start :][:size]
        if size >= _BLOCK_BYTES:
            return read_range(self._place, start, size, self._info.etag)
        first, last = start // _BLOCK_BYTES, (start + size - 1) // _BLOCK_BYTES
        joined = b"".join(self._block(number) for number in range(first, last + 1))
        return joined[start - first * _BLOCK_BYTES :][:size]

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            start = number * _BLOCK_BYTES
            length = min(_BLOCK_BYTES, self._info.size - start)
            self._blocks[number] = read_range(self._place, start, length, self._info.etag)
            while len(self._blocks) > _BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]
