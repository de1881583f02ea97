"""First pass over a pickle: which slots of its memo are read, and when for the last time.

With that, the interpreter forgets each remembered object after its last use, so that its memory does not grow with the
file. The pass also hashes what it reads. It takes seconds for gigabytes: values are passed over, not made.
What bounds it: one number for each slot that is read at all.
"""

from __future__ import annotations

from digiq_ray.store.legacy.allowed import resolve
from digiq_ray.store.legacy.errors import FormatError
from digiq_ray.store.legacy.opcodes import (
    FIXED,
    GETS,
    GLOBAL,
    MEMOIZE,
    PLAIN,
    PREFIXED,
    PUTS,
    STOP,
    number,
    read_global,
    refuse,
)
from digiq_ray.store.legacy.reader import Reader

_MOST_SLOTS = 1_000_000


def last_reads(reader: Reader) -> dict[int, int]:
    """Reads one pickle up to its end.

    Returns:
        For each slot of the memo that is read, the number (from 0) of the reading opcode that does so last.

    Raises:
        FormatError: the pickle is cut off, holds an opcode that is not read, or names a type that is not allowed.
    """
    found: dict[int, int] = {}
    slots = gets = 0
    byte, skip, take = reader.byte, reader.skip, reader.take
    while True:
        opcode = byte()
        if opcode in PLAIN:
            slots += opcode == MEMOIZE
        elif opcode in PREFIXED:
            skip(number(take(PREFIXED[opcode])))
        elif opcode in FIXED:
            skip(FIXED[opcode])
        elif opcode in PUTS:
            slot = number(take(PUTS[opcode]))
            if slot != slots:
                raise FormatError(f"memo slot {slot} is written out of order: neither torch.save nor pickle does that")
            slots += 1
        elif opcode in GETS:
            slot = number(take(GETS[opcode]))
            if slot >= slots:
                raise FormatError(f"memo slot {slot} is read before it is written: the file is broken; copy it again")
            found[slot] = gets
            gets += 1
            if len(found) > _MOST_SLOTS:
                raise FormatError(f"more than {_MOST_SLOTS:,} objects are referred to twice: no trajectory file does")
        elif opcode == GLOBAL:
            resolve(*read_global(reader))
        elif opcode == STOP:
            return found
        else:
            raise refuse(opcode, reader)
