"""A trajectory file of the original, open: its trajectories in order, one at a time, as often as one asks.

Opening reads the whole file once (``scan.py``), which finds what is cut off, corrupted or not allowed before anything
of it is used. Each iteration reads it again. What bounds memory: one trajectory.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from digiq_ray.store.legacy.container import Container, Member, find_pickle
from digiq_ray.store.legacy.errors import FormatError, file_errors
from digiq_ray.store.legacy.machine import Machine, Trajectory
from digiq_ray.store.legacy.reader import LARGEST_VALUE, Reader
from digiq_ray.store.legacy.scan import last_reads

OnBytes = Callable[[int], object]
"""Called now and then with the number of bytes that were read since the last call."""

_HEADER_PICKLES = 3  # of torch's older format: a magic number, a version, and sizes of types
_PROGRESS_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class LegacyFile:
    """A trajectory file whose pickle is whole and names only allowed types.

    Attributes:
        path: The file.
        digest: Content hash of its trajectories (32 hexadecimal digits); packing the same pickle anew keeps it.
        size: Bytes that one iteration reads.
    """

    path: Path
    digest: str
    size: int
    _container: Container
    _start: int
    _last_reads: dict[int, int]

    @classmethod
    def open(cls, path: Path, on_bytes: OnBytes | None = None) -> Self:
        """Reads the file once.

        Raises:
            InputError: there is no such file, it is cut off or corrupted, or it holds what plain data does not.
        """
        digest, crc = hashlib.blake2b(digest_size=16), 0

        def observe(block: bytes) -> None:
            nonlocal crc
            digest.update(block)
            crc = zlib.crc32(block, crc)
            if on_bytes is not None:
                on_bytes(len(block))

        with file_errors(path), path.open("rb") as file:
            container = find_pickle(file)
            pickled = container.pickle
            reader = Reader(file, start=pickled.start, size=pickled.size, on_block=observe)
            for _ in range(_HEADER_PICKLES if container.kind == "torch" else 0):
                last_reads(reader)
            start = reader.position
            reads = last_reads(reader)
            if reader.left and container.kind != "torch":
                raise FormatError(f"is broken: {reader.left:,} bytes follow the end of its pickle; copy it again")
            if pickled.crc is not None and crc != pickled.crc:
                raise FormatError("is corrupted: its checksum is not the one that was written; download it again")
        for key, member in sorted(container.storages.items()):
            digest.update(f"{key} {member.size} {member.crc}".encode())
        return cls(path, digest.hexdigest(), pickled.size, container, start, reads)

    def trajectories(self, on_bytes: OnBytes | None = None) -> Iterator[Trajectory]:
        """The trajectories in order, each a list of steps as the original wrote them.

        Raises:
            InputError: the content is not a list of lists of dictionaries of plain data.
        """
        with self._open() as file, self._open() as storages, file_errors(self.path):
            end = self._container.pickle.start + self._container.pickle.size
            reader = Reader(file, start=self._start, size=end - self._start)
            machine = Machine(
                reader, last_reads=self._last_reads, read_storage=lambda key: self._read_storage(storages, key)
            )
            told = self._start
            for trajectory in machine.trajectories():
                if on_bytes is not None and reader.position - told > _PROGRESS_BYTES:
                    on_bytes(reader.position - told)
                    told = reader.position
                yield trajectory

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        with file_errors(self.path):
            file = self.path.open("rb")
        with file:
            yield file

    def _read_storage(self, file: BinaryIO, key: str) -> bytes:
        member: Member | None = self._container.storages.get(key)
        if member is None:
            raise FormatError(
                f"refers to tensor storage {key!r}, which is not in its archive; load it with torch and save it again"
            )
        if not self._container.little_endian:
            raise FormatError("holds tensors written on a big-endian machine; save it again on another")
        if member.size > LARGEST_VALUE:
            raise FormatError(f"holds a tensor of {member.size:,} bytes; the largest allowed is 256 MiB")
        file.seek(member.start)
        data = file.read(member.size)
        if member.crc is not None and zlib.crc32(data) != member.crc:
            raise FormatError(f"is corrupted: the checksum of tensor storage {key!r} is not the one that was written")
        return data
