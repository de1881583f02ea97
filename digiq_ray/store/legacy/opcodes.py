"""The pickle opcodes that ``torch.save`` and ``pickle`` (protocols 2 to 5) write for plain data, by how they are read.

Every other opcode is refused by its name: those that make objects of any class, and those of protocols 0 and 1.
"""

from __future__ import annotations

import pickle
import pickletools

from digiq_ray.store.legacy.errors import FormatError
from digiq_ray.store.legacy.reader import Reader


def code(opcode: bytes) -> int:
    """The byte of one of ``pickle``'s opcodes as an integer."""
    return opcode[0]


PLAIN = frozenset(
    map(
        code,
        (
            pickle.MARK,
            pickle.POP,
            pickle.POP_MARK,
            pickle.NONE,
            pickle.NEWTRUE,
            pickle.NEWFALSE,
            pickle.EMPTY_LIST,
            pickle.EMPTY_TUPLE,
            pickle.EMPTY_DICT,
            pickle.APPEND,
            pickle.APPENDS,
            pickle.SETITEM,
            pickle.SETITEMS,
            pickle.TUPLE,
            pickle.TUPLE1,
            pickle.TUPLE2,
            pickle.TUPLE3,
            pickle.REDUCE,
            pickle.BUILD,
            pickle.BINPERSID,
            pickle.STACK_GLOBAL,
            pickle.MEMOIZE,
        ),
    )
)
"""Opcodes that nothing follows."""

FIXED = {
    code(pickle.PROTO): 1,
    code(pickle.FRAME): 8,
    code(pickle.BININT): 4,
    code(pickle.BININT1): 1,
    code(pickle.BININT2): 2,
    code(pickle.BINFLOAT): 8,
}
"""Opcodes that so many bytes follow."""

PREFIXED = {
    code(pickle.SHORT_BINUNICODE): 1,
    code(pickle.BINUNICODE): 4,
    code(pickle.BINUNICODE8): 8,
    code(pickle.SHORT_BINBYTES): 1,
    code(pickle.BINBYTES): 4,
    code(pickle.BINBYTES8): 8,
    code(pickle.BYTEARRAY8): 8,
    code(pickle.LONG1): 1,
    code(pickle.LONG4): 4,
}
"""Opcodes that a length of so many bytes follows, and then as many bytes as it says."""

GETS = {code(pickle.BINGET): 1, code(pickle.LONG_BINGET): 4}
PUTS = {code(pickle.BINPUT): 1, code(pickle.LONG_BINPUT): 4}
"""Opcodes that read and write a numbered slot of the memo; its number has so many bytes."""

GLOBAL = code(pickle.GLOBAL)
MEMOIZE = code(pickle.MEMOIZE)
STOP = code(pickle.STOP)


def number(data: bytes) -> int:
    """An unsigned number, lowest byte first."""
    return int.from_bytes(data, "little")


def read_global(reader: Reader) -> tuple[str, str]:
    """Module and name that follow ``GLOBAL``."""
    return reader.line().decode(), reader.line().decode()


def refuse(opcode: int, reader: Reader) -> FormatError:
    """The error for an opcode that is not read; names the class if the opcode does."""
    found = next((known for known in pickletools.opcodes if known.code == chr(opcode)), None)
    if found is None:
        return FormatError(
            f"is broken at byte {reader.position - 1}: {opcode:#04x} is no pickle opcode; download or copy it again"
        )
    what = f" of {'.'.join(read_global(reader))}" if opcode == code(pickle.INST) else ""
    return FormatError(
        f"refused: the pickle opcode {found.name}{what} at byte {reader.position - 1} is not among those that "
        "torch.save writes for plain data; nothing was executed"
    )
