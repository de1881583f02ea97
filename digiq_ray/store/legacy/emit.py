"""Writes a list of trajectories as ``torch.save`` would, one trajectory at a time.

The pickle uses no memo, so nothing that was written is remembered. Arrays are spelt as numpy spells its own, with the
module name that every numpy from 1 on reads. ``torch.load(file, weights_only=False)`` gives the list. What bounds
memory: one trajectory.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_PROTOCOL = 3  # the first that has bytes
_TOP = "archive"
_MEMBERS = {"version": b"3\n", "byteorder": b"little"}

Write = Callable[[bytes], object]


def write_trajectories(file: BinaryIO, trajectories: Iterable[Sequence[Mapping[str, object]]]) -> None:
    """Writes an archive like ``torch.save``'s to ``file``, which must be seekable.

    Args:
        file: Open for writing.
        trajectories: Lists of steps; values are texts, numbers, truth values, ``None``, lists of these, and arrays of
            float16, float32 or float64.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(zipfile.ZipInfo(f"{_TOP}/data.pkl"), "w", force_zip64=True) as member:
            write = member.write
            write(pickle.PROTO + bytes([_PROTOCOL]) + pickle.EMPTY_LIST)
            for trajectory in trajectories:
                _write(write, trajectory)
                write(pickle.APPEND)
            write(pickle.STOP)
        for name, content in _MEMBERS.items():
            archive.writestr(zipfile.ZipInfo(f"{_TOP}/{name}"), content)


def _write(write: Write, value: Any) -> None:
    if value is None:
        write(pickle.NONE)
    elif isinstance(value, bool):
        write(pickle.NEWTRUE if value else pickle.NEWFALSE)
    elif isinstance(value, int):
        write(pickle.BININT + struct.pack("<i", value))
    elif isinstance(value, float):
        write(pickle.BINFLOAT + struct.pack(">d", value))
    elif isinstance(value, str):
        data = value.encode()
        write(pickle.BINUNICODE + struct.pack("<I", len(data)) + data)
    elif isinstance(value, np.ndarray):
        _write_array(write, value)
    elif isinstance(value, Mapping):
        write(pickle.EMPTY_DICT + pickle.MARK)
        for key, item in value.items():
            _write(write, key)
            _write(write, item)
        write(pickle.SETITEMS)
    elif isinstance(value, Sequence):
        write(pickle.EMPTY_LIST + pickle.MARK)
        for item in value:
            _write(write, item)
        write(pickle.APPENDS)
    else:
        raise TypeError(f"{type(value).__name__} has no place in a trajectory file")


def _write_array(write: Write, array: NDArray[Any]) -> None:
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    write(pickle.GLOBAL + b"numpy.core.multiarray\n_reconstruct\n" + pickle.GLOBAL + b"numpy\nndarray\n")
    write(pickle.BININT1 + b"\0" + pickle.TUPLE1 + pickle.SHORT_BINBYTES + b"\1b" + pickle.TUPLE3 + pickle.REDUCE)
    write(pickle.MARK + pickle.BININT1 + b"\1" + pickle.MARK)
    for length in little.shape:
        _write(write, length)
    write(pickle.TUPLE + pickle.GLOBAL + b"numpy\ndtype\n")
    _write(write, little.dtype.str[1:])
    write(pickle.NEWFALSE + pickle.NEWTRUE + pickle.TUPLE3 + pickle.REDUCE)
    write(pickle.MARK + pickle.BININT1 + b"\3")
    _write(write, "<")
    write(pickle.NONE * 3 + (pickle.BININT + struct.pack("<i", -1)) * 2 + pickle.BININT1 + b"\0")
    write(pickle.TUPLE + pickle.BUILD + pickle.NEWFALSE)
    write(pickle.BINBYTES8 if little.nbytes >> 32 else pickle.BINBYTES)
    write(little.nbytes.to_bytes(8 if little.nbytes >> 32 else 4, "little"))
    write(memoryview(little.reshape(-1).view(np.uint8)) if little.size else b"")  # type: ignore[arg-type]
    write(pickle.TUPLE + pickle.BUILD)
