"""Reading a part of a file in order, with every size checked against what is left of the part.

What bounds it: one block of a megabyte, and the largest single value that a caller takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from digiq_ray.store.legacy.errors import FormatError

_BLOCK = 1 << 20
LARGEST_VALUE = 256 << 20
"""Bytes that one value may have; the original's largest (64 features of 4096 numbers) have one to two million."""


class Reader:
    """Bytes ``[start, start + size)`` of an open file, front to back.

    Args:
        file: Open for reading; used by nothing else meanwhile.
        start, size: The part.
        on_block: Called with every block that is read, in order; with it, ``skip`` reads instead of seeking.
    """

    def __init__(
        self, file: BinaryIO, *, start: int, size: int, on_block: Callable[[bytes], object] | None = None
    ) -> None:
        self._file = file
        self._unread = size  # not yet in a block
        self._end = start + size
        self._block = b""
        self._at = 0
        self._on_block = on_block
        file.seek(start)

    @property
    def position(self) -> int:
        """Offset in the file of the next byte."""
        return self._end - self.left

    @property
    def left(self) -> int:
        """Bytes that follow in the part."""
        return self._unread + len(self._block) - self._at

    def byte(self) -> int:
        """The next byte."""
        try:
            value = self._block[self._at]
        except IndexError:
            return self.take(1)[0]
        self._at += 1
        return value

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes; raises ``FormatError`` if there are fewer, or more than one value may have."""
        end = self._at + count
        if end <= len(self._block):
            taken = self._block[self._at : end]
            self._at = end
            return taken
        self._check(count)
        if count > LARGEST_VALUE:
            raise FormatError(f"one value of {count:,} bytes at byte {self.position}; the largest allowed is 256 MiB")
        head = self._block[self._at :]
        missing = count - len(head)
        self._fill(max(missing, _BLOCK))
        self._at = missing
        return head + self._block[:missing] if head else self._block[:missing]

    def skip(self, count: int) -> None:
        """Passes over the next ``count`` bytes; raises ``FormatError`` if there are fewer."""
        self._check(count)
        while self._at + count > len(self._block):
            count -= len(self._block) - self._at
            self._at = len(self._block)
            if self._on_block is None and count > _BLOCK:
                self._file.seek(count, 1)
                self._unread -= count
                return
            self._fill(_BLOCK)
            self._at = 0
        self._at += count

    def line(self, most: int = 512) -> bytes:
        """The bytes up to the next line feed, which is passed over."""
        found = bytearray()
        while (value := self.byte()) != 0x0A:
            found.append(value)
            if len(found) > most:
                raise FormatError(f"a name of more than {most} bytes at byte {self.position}")
        return bytes(found)

    def _check(self, count: int) -> None:
        if count < 0 or count > self.left:
            raise FormatError(
                f"is cut off or broken: byte {self.position} says that {count:,} bytes follow, {self.left:,} do; "
                "download or copy it again"
            )

    def _fill(self, count: int) -> None:
        wanted = min(count, self._unread)
        block = self._file.read(wanted)
        if len(block) != wanted:
            raise FormatError("became shorter while it was read; copy it again")
        self._unread -= wanted
        self._block, self._at = block, 0
        if self._on_block is not None:
            self._on_block(block)
