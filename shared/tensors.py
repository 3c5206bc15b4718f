"""numpy arrays to and from the wire. Little-endian, row-major; only plain number types pass."""

from collections.abc import Sequence
from functools import lru_cache
from math import prod

import msgspec
import numpy as np
from numpy.typing import NDArray

from shared.errors import Unreadable
from shared.messages import Array
from shared.wire import packed, unpacker

DTYPES = frozenset(
    {"float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "bool"}
)
DIMENSIONS_MAX = 8
_LITTLE = {name: np.dtype(name).newbyteorder("<") for name in DTYPES}

_unpack_inputs = unpacker(tuple[Array, ...] | bytes)

AnyArray = NDArray[np.generic]


def to_wire(array: AnyArray) -> Array:
    """One array for the wire. Raises ``ValueError`` for a dtype that does not travel (objects, strings)."""
    name = _name_of(array.dtype)
    return Array(name, array.shape, np.ascontiguousarray(array, _LITTLE[name]).tobytes())


@lru_cache(maxsize=64)
def _name_of(dtype: np.dtype[np.generic]) -> str:
    """Remembered, because numpy builds the name anew each time, which costs as much as all the rest."""
    if dtype.name not in DTYPES:
        raise ValueError(f"arrays of {dtype.name} do not travel; use one of {', '.join(sorted(DTYPES))}")
    return dtype.name


def from_wire(array: Array) -> AnyArray:
    """A read-only view of what arrived. Raises :class:`Unreadable` when the bytes do not fit the shape."""
    dtype = _LITTLE.get(array.dtype)
    if dtype is None:
        raise Unreadable(f"an array of {array.dtype[:32]!r} is not accepted")
    if len(array.shape) > DIMENSIONS_MAX or min(array.shape, default=0) < 0:
        raise Unreadable(f"an array of shape {array.shape[:9]} is not accepted")
    if prod(array.shape) * dtype.itemsize != len(array.data):
        raise Unreadable(f"{len(array.data)} bytes do not fill {array.dtype} of shape {array.shape}")
    return np.ndarray(array.shape, dtype, array.data)


def pack_inputs(inputs: Sequence[AnyArray] | bytes) -> msgspec.Raw:
    """A request's ``inputs``: arrays for a tensor module, JSON bytes for a WASI module."""
    if isinstance(inputs, bytes):
        return packed(inputs)
    return packed(tuple(to_wire(one) for one in inputs))


def unpack_inputs(raw: msgspec.Raw) -> list[AnyArray] | bytes:
    """The other direction. Raises :class:`Unreadable`."""
    value = _unpack_inputs(raw)
    if isinstance(value, bytes):
        return value
    return [from_wire(one) for one in value]
