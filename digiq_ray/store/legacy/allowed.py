"""The few types that trajectory files hold, each with what it stands for here. Nothing else has a name.

A name in a pickle is looked up in the table of this module and nowhere else; what it stands for is a function of this
module, which checks its arguments. Nothing is imported, looked up or called by a name from the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digiq_ray.store.legacy.errors import FormatError
from digiq_ray.store.legacy.reader import LARGEST_VALUE

_DTYPE_CODE = re.compile(r"[fiu][1248]|b1|[SU]\d{1,6}")
_MOST_AXES = 8


@dataclass(frozen=True, slots=True)
class Allowed:
    """A name that a pickle may use: its full name, and what calling it with some arguments gives."""

    name: str
    build: Callable[..., object]

    def call(self, arguments: object) -> object:
        """What the pickled call stands for; raises ``FormatError`` if the arguments are not those of plain data."""
        if type(arguments) is tuple:
            try:
                return self.build(*arguments)
            except (TypeError, ValueError, OverflowError):
                pass
        raise FormatError(f"refused: {self.name} with arguments that plain data does not have; nothing was executed")


@dataclass(slots=True)
class PickledDtype:
    """A numpy type while its pickle is read: the code comes first, the byte order later."""

    code: str
    order: str = "="

    def set_state(self, state: object) -> None:
        """Takes ``(version, byte order, None, None, None, ...)``."""
        if type(state) is not tuple or len(state) < 5 or state[1] not in ("<", ">", "=", "|") or any(state[2:5]):
            raise FormatError("refused: numpy.dtype with fields or a state that plain numbers do not have")
        self.order = state[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type."""
        return np.dtype(self.code if self.order == "|" else self.order + self.code)


@dataclass(frozen=True, slots=True)
class PickledStorage:
    """Numbers of a tensor that lie outside the pickle: their type, and a function that reads them."""

    dtype: np.dtype[Any]
    read: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class StorageType:
    """Stands for a storage class of torch."""

    dtype: np.dtype[Any]


def set_array(array: NDArray[Any], state: object) -> None:
    """Fills an array that ``_reconstruct`` made from ``(version, shape, type, column order, bytes)``."""
    if type(state) is not tuple or len(state) != 5 or array.size or array.dtype != np.int8:
        raise FormatError("refused: numpy.ndarray with a state that plain numbers do not have")
    _, shape, pickled, fortran, raw = state
    dtype = _checked(pickled, shape, raw)
    array.__setstate__((1, shape, dtype, bool(fortran), bytes(raw)))  # type: ignore[arg-type]


def _checked(pickled: object, shape: object, raw: object) -> np.dtype[Any]:
    """The array's type, if it and the shape are plausible and the bytes are as many as they need."""
    if not isinstance(pickled, PickledDtype):
        raise FormatError("refused: a numpy array of another type than plain numbers")
    if type(shape) is not tuple or len(shape) > _MOST_AXES or any(type(n) is not int or n < 0 for n in shape):
        raise FormatError("refused: a numpy array of an impossible shape")
    if type(raw) not in (bytes, bytearray):
        raise FormatError("refused: a numpy array of objects; only plain numbers are read")
    assert isinstance(raw, bytes | bytearray)
    if math.prod(shape) * pickled.dtype.itemsize != len(raw):
        raise FormatError(
            f"is broken: a numpy array {list(shape)} of {pickled.dtype} comes with {len(raw):,} bytes; copy it again"
        )
    return pickled.dtype


def _encode(text: object, encoding: object) -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise ValueError
    return text.encode("latin-1")


def _bytes(value: object = b"", encoding: object = "latin-1") -> bytes:
    if type(value) is str:
        return _encode(value, encoding)
    if type(value) is not bytes:
        raise TypeError
    return value


def _dtype(code: object, align: object = False, copy: object = True) -> PickledDtype:
    if type(code) is not str or not _DTYPE_CODE.fullmatch(code):
        raise ValueError
    return PickledDtype(np.dtype(code).str.lstrip("<>=|"))


def _reconstruct(kind: object, shape: object, code: object) -> NDArray[Any]:
    if kind is not _NDARRAY or shape != (0,) or code not in (b"b", "b"):
        raise ValueError
    return np.empty(0, np.int8)


def _from_buffer(raw: object, pickled: object, shape: object, order: object) -> NDArray[Any]:
    if order not in ("C", "F"):
        raise ValueError
    dtype = _checked(pickled, shape, raw)
    return np.frombuffer(raw, dtype).reshape(shape, order=order)  # type: ignore[call-overload]


def _scalar(pickled: object, raw: object) -> object:
    return np.frombuffer(raw, _checked(pickled, (), raw))[0].item()  # type: ignore[call-overload]


def _ordered() -> dict[str, object]:
    return {}


def _tensor(
    storage: object, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], grad: object, *rest: object
) -> NDArray[Any]:
    """A tensor as an array; like torch, a window into its storage."""
    if not isinstance(storage, PickledStorage) or len(shape) != len(strides) or len(shape) > _MOST_AXES:
        raise TypeError
    if any(type(n) is not int or n < 0 for n in (offset, *shape, *strides)):
        raise ValueError
    if math.prod(shape) * storage.dtype.itemsize > LARGEST_VALUE:
        raise ValueError
    flat = np.frombuffer(storage.read(), storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if not math.prod(shape):
        return np.empty(shape, storage.dtype)
    if last >= len(flat):
        raise ValueError
    bytes_apart = [step * storage.dtype.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(flat[offset:], shape, bytes_apart, writeable=False).copy()


def _never(*arguments: object) -> object:
    raise TypeError


_NDARRAY = Allowed("numpy.ndarray", _never)
_STORAGES = {"Half": "f2", "Float": "f4", "Double": "f8", "Byte": "u1", "Int": "i4", "Long": "i8", "Bool": "?"}
_TABLE: dict[tuple[str, str], Allowed | StorageType] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): Allowed("numpy.dtype", _dtype),
    ("_codecs", "encode"): Allowed("_codecs.encode", _encode),
    ("collections", "OrderedDict"): Allowed("collections.OrderedDict", _ordered),
    ("torch._utils", "_rebuild_tensor_v2"): Allowed("torch._utils._rebuild_tensor_v2", _tensor),
    **{("torch", f"{name}Storage"): StorageType(np.dtype(code)) for name, code in _STORAGES.items()},
    **{(module, "bytes"): Allowed("bytes", _bytes) for module in ("builtins", "__builtin__")},
    **{(module, "bytearray"): Allowed("bytearray", _bytes) for module in ("builtins", "__builtin__")},
}
for _core in ("numpy.core", "numpy._core"):
    _TABLE[f"{_core}.multiarray", "_reconstruct"] = Allowed(f"{_core}.multiarray._reconstruct", _reconstruct)
    _TABLE[f"{_core}.multiarray", "scalar"] = Allowed(f"{_core}.multiarray.scalar", _scalar)
    _TABLE[f"{_core}.numeric", "_frombuffer"] = Allowed(f"{_core}.numeric._frombuffer", _from_buffer)


def resolve(module: str, name: str) -> Allowed | StorageType:
    """What a pickled name stands for.

    Raises:
        FormatError: it is not one of the few that trajectory files hold; the message has its full name.
    """
    try:
        return _TABLE[module, name]
    except KeyError:
        raise FormatError(
            f"refused: it names {module}.{name}, which is not a type of plain data (numpy arrays, tensors, lists, "
            "dictionaries, texts, numbers); nothing was executed"
        ) from None
