"""A small interpreter of pickles of a list of trajectories that executes nothing and gives one trajectory at a time.

It knows the opcodes of ``opcodes.py`` and the names of ``allowed.py``. The outer list is never made: each of its items
is handed out as soon as the next one begins, and forgotten. What bounds it: the objects of one trajectory, charged by
size against a budget, so that a file made to fill the memory ends in an error.
"""

from __future__ import annotations

import functools
import pickle
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from digiq_ray.store.legacy.allowed import Allowed, PickledDtype, PickledStorage, StorageType, resolve, set_array
from digiq_ray.store.legacy.errors import FormatError
from digiq_ray.store.legacy.opcodes import GETS, PREFIXED, PUTS, code, number, read_global, refuse
from digiq_ray.store.legacy.reader import LARGEST_VALUE, Reader

Trajectory = list[dict[str, Any]]
ReadStorage = Callable[[str], bytes]

_OBJECT_COST = 64
_DEEPEST = 64
_PROTOCOLS = range(2, 6)
_CONTAINERS = (list, dict, tuple)


class _Outer:
    """Stands for the outer list."""


class Machine:
    """Interprets one pickle.

    Args:
        reader: At its first byte.
        last_reads: What ``scan.last_reads`` found in the same pickle.
        read_storage: Gives the bytes of a tensor's storage by its key.
    """

    def __init__(self, reader: Reader, *, last_reads: Mapping[int, int], read_storage: ReadStorage) -> None:
        self._reader = reader
        self._last_reads = last_reads
        self._read_storage = read_storage
        self._stored: tuple[str, bytes] | None = None  # the storage that was read last
        self._stack: list[Any] = []
        self._frames: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._slots = self._gets = 0
        self._spent = 0  # of the budget, by the trajectory that is being read
        self._kept = 0  # of the budget, by earlier ones that the memo still refers to
        self._containers = 0  # that the memo holds
        self._begun = False
        self._ready: list[Trajectory] = []
        self._ended = False
        self._handlers = self._table()

    def trajectories(self) -> Iterator[Trajectory]:
        """The items of the list, each as soon as it is whole.

        Raises:
            FormatError: the pickle holds something else than lists of dictionaries, or what no trajectory file holds.
        """
        handlers, byte = self._handlers, self._reader.byte
        while not self._ended:
            opcode = byte()
            handler = handlers.get(opcode)
            if handler is None:
                raise refuse(opcode, self._reader)
            handler()
            if self._ready:
                yield from self._ready
                self._ready = []

    def _table(self) -> dict[int, Callable[[], None]]:
        reader, push = self._reader, self._push
        take = reader.take
        prefixed: dict[bytes, Callable[[bytes], object]] = {
            pickle.SHORT_BINUNICODE: bytes.decode,
            pickle.BINUNICODE: bytes.decode,
            pickle.BINUNICODE8: bytes.decode,
            pickle.SHORT_BINBYTES: bytes,
            pickle.BINBYTES: bytes,
            pickle.BINBYTES8: bytes,
            pickle.BYTEARRAY8: bytes,
            pickle.LONG1: _long,
            pickle.LONG4: _long,
        }
        constants: dict[bytes, Any] = {
            pickle.NONE: None,
            pickle.NEWTRUE: True,
            pickle.NEWFALSE: False,
            pickle.EMPTY_TUPLE: (),
        }
        table: dict[bytes, Callable[[], None]] = {
            pickle.PROTO: self._protocol,
            pickle.FRAME: lambda: reader.skip(8),
            pickle.BININT: lambda: push(struct.unpack("<i", take(4))[0]),
            pickle.BININT1: lambda: push(reader.byte()),
            pickle.BININT2: lambda: push(number(take(2))),
            pickle.BINFLOAT: lambda: push(struct.unpack(">d", take(8))[0]),
            pickle.MARK: self._mark,
            pickle.POP: self._pop,
            pickle.POP_MARK: lambda: _discard(self._items()),
            pickle.EMPTY_LIST: self._empty_list,
            pickle.EMPTY_DICT: lambda: push({}),
            pickle.APPEND: lambda: self._extend([self._stack.pop()]),
            pickle.APPENDS: lambda: self._extend(self._items()),
            pickle.SETITEM: lambda: self._set_items(self._popped(2)),
            pickle.SETITEMS: lambda: self._set_items(self._items()),
            pickle.TUPLE: lambda: push(tuple(self._items())),
            pickle.TUPLE1: lambda: push(tuple(self._popped(1))),
            pickle.TUPLE2: lambda: push(tuple(self._popped(2))),
            pickle.TUPLE3: lambda: push(tuple(self._popped(3))),
            pickle.GLOBAL: lambda: push(resolve(*read_global(reader))),
            pickle.STACK_GLOBAL: self._stack_global,
            pickle.REDUCE: self._reduce,
            pickle.BUILD: self._build,
            pickle.BINPERSID: self._persistent,
            pickle.MEMOIZE: self._put,
            pickle.STOP: self._stop,
        }
        handlers = {code(opcode): handler for opcode, handler in table.items()}
        for opcode, constant in constants.items():
            handlers[code(opcode)] = functools.partial(push, constant)
        for opcode, make in prefixed.items():
            handlers[code(opcode)] = functools.partial(self._value, PREFIXED[code(opcode)], make)
        for put, width in PUTS.items():
            handlers[put] = functools.partial(self._put_slot, width)
        for get, width in GETS.items():
            handlers[get] = functools.partial(self._get, width)
        return handlers

    # What the opcodes do.

    def _protocol(self) -> None:
        if (protocol := self._reader.byte()) not in _PROTOCOLS:
            raise FormatError(f"is a pickle of protocol {protocol}; 2 to 5 are read")

    def _push(self, value: Any) -> None:
        self._charge(_OBJECT_COST + _size(value))
        self._stack.append(value)

    def _value(self, width: int, make: Callable[[bytes], object]) -> None:
        take = self._reader.take
        self._push(make(take(number(take(width)))))

    def _mark(self) -> None:
        if len(self._frames) == _DEEPEST:
            raise FormatError(f"is nested more than {_DEEPEST} levels deep: no trajectory file is")
        self._frames.append(self._stack)
        self._stack = []

    def _pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._items()

    def _items(self) -> list[Any]:
        items, self._stack = self._stack, self._frames.pop()
        return items

    def _popped(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise FormatError("is broken: an operand is missing; copy it again")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _empty_list(self) -> None:
        if not self._begun and not self._frames and not self._stack:
            self._begun = True
            self._stack.append(_Outer())
        else:
            self._begin_item()
            self._push([])

    def _begin_item(self) -> None:
        """A list comes: if it is the next item of the outer list, the one before it is whole."""
        if not self._stack or type(self._stack[-1]) is not list:
            return
        if len(self._frames) == 1 and self._holds_outer(self._frames[0]):
            self._finish(self._stack.pop())

    def _holds_outer(self, stack: list[Any]) -> bool:
        return len(stack) == 1 and type(stack[0]) is _Outer

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is list:
            target.extend(items)
        elif type(target) is _Outer and not self._frames:
            for item in items:
                self._finish(item)
        else:
            raise FormatError("is broken: items are appended to what is not a list; copy it again")

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(items) % 2 or any(type(key) is not str for key in items[::2]):
            raise FormatError("holds something else than dictionaries with texts as keys: not a trajectory file")
        target.update(zip(items[::2], items[1::2], strict=True))

    def _stack_global(self) -> None:
        module, name = self._popped(2)
        if type(module) is not str or type(name) is not str:
            raise FormatError("is broken: a type's name is not a text; copy it again")
        self._push(resolve(module, name))

    def _reduce(self) -> None:
        function, arguments = self._popped(2)
        if not isinstance(function, Allowed):
            raise FormatError("refused: it calls what is not one of the few functions of plain data; nothing was done")
        self._push(function.call(arguments))

    def _build(self) -> None:
        target, state = self._popped(2)
        if isinstance(target, PickledDtype):
            target.set_state(state)
        elif isinstance(target, np.ndarray):
            set_array(target, state)
        else:
            raise FormatError("refused: it sets the state of what is neither an array nor a type; nothing was executed")
        self._stack.append(target)

    def _persistent(self) -> None:
        where = self._stack.pop()
        if type(where) is not tuple or len(where) != 5 or where[0] != "storage" or type(where[2]) is not str:
            raise FormatError("refers to something outside the pickle that is not a tensor's storage")
        kind, key = where[1], where[2]
        if not isinstance(kind, StorageType):
            raise FormatError("refers to a tensor's storage of an unknown type")
        self._push(PickledStorage(kind.dtype, lambda: self._storage(key)))

    def _storage(self, key: str) -> bytes:
        if self._stored is None or self._stored[0] != key:
            self._stored = (key, self._read_storage(key))
            self._charge(len(self._stored[1]))
        return self._stored[1]

    def _put_slot(self, width: int) -> None:
        self._reader.skip(width)  # the scan saw that it is the next one
        self._put()

    def _put(self) -> None:
        if self._slots in self._last_reads:
            self._memo[self._slots] = value = self._stack[-1]
            self._containers += type(value) in _CONTAINERS
        self._slots += 1

    def _get(self, width: int) -> None:
        slot = number(self._reader.take(width))
        value = self._memo[slot]
        if self._last_reads[slot] == self._gets:
            del self._memo[slot]
            self._containers -= type(value) in _CONTAINERS
        self._gets += 1
        if type(value) is list:
            self._begin_item()
        self._charge(_OBJECT_COST)
        self._stack.append(value)

    def _stop(self) -> None:
        if self._frames or not self._holds_outer(self._stack):
            raise FormatError("holds no list of trajectories: it is not a trajectory file of the original")
        self._ended = True

    # The budget, and the items.

    def _charge(self, cost: int) -> None:
        self._spent += cost
        if self._spent + self._kept > LARGEST_VALUE:
            raise FormatError(
                f"one trajectory before byte {self._reader.position:,} holds more than 256 MiB: no trajectory file does"
            )

    def _finish(self, item: Any) -> None:
        if type(item) is not list or any(type(step) is not dict for step in item):
            raise FormatError("holds something else than a list of trajectories, each a list of steps (dictionaries)")
        # What the memo still refers to may be a part of this trajectory, which then stays in memory.
        self._kept = self._kept + self._spent if self._containers else 0
        self._spent = 0
        self._ready.append(item)


def _discard(value: object) -> None:
    """Takes a value for which there is no use."""


def _long(data: bytes) -> int:
    if len(data) > 64:
        raise FormatError("holds a number of more than 64 bytes: no trajectory file does")
    return int.from_bytes(data, "little", signed=True)


def _size(value: object) -> int:
    if isinstance(value, str | bytes):
        return value.__sizeof__()
    return value.nbytes if isinstance(value, np.ndarray) else 0
