"""Where in a file the pickle lies: in a zip archive (``torch.save``), in torch's older format, or bare.

The directory of the archive is read by hand: ``torch.save`` stores its members as they are, so a compressed one is
refused and nothing can unpack to more than the file holds. What bounds it: the directory, 64 MiB at most.
"""

from __future__ import annotations

import io
import pickletools
import struct
from dataclasses import dataclass, field
from typing import BinaryIO

from digiq_ray.store.legacy.allowed import resolve
from digiq_ray.store.legacy.errors import FormatError

_EOCD = struct.Struct("<4s4H2LH")
_EOCD64_LOCATOR = struct.Struct("<4sLQL")
_EOCD64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LARGEST_DIRECTORY = 64 << 20
_OLD_PICKLE_BYTES = 1 << 16
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF
_TORCH_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_BROKEN = "the archive is cut off or broken ({}); download or copy it again"


@dataclass(frozen=True, slots=True)
class Member:
    """One stored file of the archive: its bytes ``[start, start + size)``, and their CRC-32 if the archive says it."""

    start: int
    size: int
    crc: int | None


@dataclass(frozen=True, slots=True)
class Container:
    """A trajectory file.

    Attributes:
        kind: ``zip``, ``torch`` (before version 1.6) or ``pickle``.
        pickle: Where the pickle of the trajectories lies. In the ``torch`` format others precede and follow it.
        storages: Members that hold tensors' numbers, by key.
        little_endian: Byte order of those.
    """

    kind: str
    pickle: Member
    storages: dict[str, Member] = field(default_factory=dict)
    little_endian: bool = True


def find_pickle(file: BinaryIO) -> Container:
    """Looks at the first bytes and, for an archive, at its directory.

    Raises:
        FormatError: the file is none of the three, or its archive is broken.
    """
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(len(_TORCH_MAGIC))
    if head[:4] == b"PK\x03\x04":
        return _in_archive(file, size)
    if head[:1] != b"\x80":
        file.seek(0)
        raise _not_ours(file.read(_OLD_PICKLE_BYTES))
    return Container("torch" if head == _TORCH_MAGIC else "pickle", Member(0, size, None))


def _not_ours(head: bytes) -> FormatError:
    """The error for a file of another kind; if it is a pickle of protocol 0 or 1, its first type is looked at."""
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(head)):
            if opcode.name in ("GLOBAL", "INST") and isinstance(argument, str):
                resolve(*argument.split(" ", 1))
    except FormatError as refused:
        return refused
    except (ValueError, TypeError, struct.error):
        pass  # not a pickle at all, or one that is longer than what was read of it
    return FormatError(
        "is not a trajectory file: it starts neither as torch.save's archive nor as a pickle of protocol 2 to 5; "
        "give a .pt file of the original"
    )


def _in_archive(file: BinaryIO, size: int) -> Container:
    members = _members(file, size)
    pickles = [name for name in members if name.rpartition("/")[2] == "data.pkl" and name.count("/") <= 1]
    if len(pickles) != 1:
        raise FormatError(
            f"the archive holds {len(pickles)} files named data.pkl, not one: torch.save did not write it"
        )
    top = pickles[0].removesuffix("data.pkl")
    order = b"little"
    if (at := members.get(f"{top}byteorder")) is not None:
        file.seek(at.start)
        order = file.read(min(at.size, 16))
    prefix = f"{top}data/"
    storages = {name.removeprefix(prefix): member for name, member in members.items() if name.startswith(prefix)}
    return Container("zip", members[pickles[0]], storages, order != b"big")


def _members(file: BinaryIO, size: int) -> dict[str, Member]:
    entries, start, length = _directory_place(file, size)
    if not 0 <= start <= size - length:
        raise FormatError(_BROKEN.format("its directory lies outside"))
    if length > _LARGEST_DIRECTORY:
        raise FormatError(f"the archive's directory has {length:,} bytes; torch.save writes a few thousand")
    file.seek(start)
    directory = file.read(length)
    found: dict[str, Member] = {}
    at = 0
    for _ in range(entries):
        signature, *numbers = _ENTRY.unpack_from(directory, at)
        if signature != b"PK\x01\x02":
            raise FormatError(_BROKEN.format("its directory holds something else"))
        method, crc, packed, plain, name_size, extra_size, comment_size = (numbers[i] for i in (3, 6, 7, 8, 9, 10, 11))
        flags, offset = numbers[2], numbers[15]
        at += _ENTRY.size
        name = directory[at : at + name_size].decode("utf-8", "replace")
        extra = directory[at + name_size : at + name_size + extra_size]
        at += name_size + extra_size + comment_size
        plain, packed, offset = _wide(extra, plain, packed, offset)
        if method or flags & 1:
            raise FormatError(f"{name} in the archive is compressed or encrypted; torch.save stores it plainly")
        if plain != packed or name in found:
            raise FormatError(_BROKEN.format(f"its directory contradicts itself about {name}"))
        found[name] = Member(_data_start(file, size, name, offset, plain), plain, crc)
    return found


def _directory_place(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Number of entries, offset and length of the directory."""
    tail_start = max(0, size - _EOCD.size - _FULL_16)
    file.seek(tail_start)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _EOCD.size:
        raise FormatError(_BROKEN.format("it has no end"))
    _, _, _, _, entries, length, start, _ = _EOCD.unpack_from(tail, at)
    if _FULL_16 not in (entries,) and _FULL_32 not in (length, start):
        return entries, start, length
    locator_at = tail_start + at - _EOCD64_LOCATOR.size
    if locator_at < 0:
        return entries, start, length
    file.seek(locator_at)
    signature, _, wide_at, _ = _EOCD64_LOCATOR.unpack(file.read(_EOCD64_LOCATOR.size))
    if signature != b"PK\x06\x07":
        return entries, start, length
    if wide_at > size - _EOCD64.size:
        raise FormatError(_BROKEN.format("its end lies outside"))
    file.seek(wide_at)
    signature, *_, entries, length, start = _EOCD64.unpack(file.read(_EOCD64.size))
    if signature != b"PK\x06\x06":
        raise FormatError(_BROKEN.format("it has no end"))
    return entries, start, length


def _wide(extra: bytes, *values: int) -> list[int]:
    """Replaces values that fill 32 bits by those of the zip64 field, which holds them in this order."""
    at, wide = 0, b""
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = extra[at + 4 : at + 4 + size]
        at += 4 + size
    result = []
    for value in values:
        if value == _FULL_32:
            (value,), wide = struct.unpack_from("<Q", wide), wide[8:]
        result.append(value)
    return result


def _data_start(file: BinaryIO, size: int, name: str, offset: int, length: int) -> int:
    if offset > size - _LOCAL.size:
        raise FormatError(_BROKEN.format(f"{name} lies outside"))
    file.seek(offset)
    signature, *numbers = _LOCAL.unpack(file.read(_LOCAL.size))
    start = offset + _LOCAL.size + numbers[-2] + numbers[-1]
    if signature != b"PK\x03\x04" or start > size - length:
        raise FormatError(_BROKEN.format(f"{name} lies outside"))
    return int(start)
