"""Arrays as JSON: nested lists of numbers with a dtype, or base64 of little-endian bytes for large ones."""

import base64
import binascii
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cloud.api.problems import BadRequest
from shared.errors import Unreadable
from shared.messages import Array
from shared.tensors import DIMENSIONS_MAX, DTYPES, AnyArray, from_wire

# What numpy makes of JSON lists -> where it may go unchanged: no 1.5 becomes 1, no true becomes 1.
_FITS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}


class JsonArray(msgspec.Struct, frozen=True, kw_only=True):
    """``data``: nested lists (a bare number has no dimension); or, with ``shape``, a base64 string of the
    bytes (little-endian, row-major)."""

    data: list[Any] | str | int | float | bool | None
    dtype: str = "float32"
    shape: tuple[int, ...] | None = None


def to_array(given: JsonArray) -> AnyArray:
    """The array. Raises :class:`BadRequest`."""
    if given.dtype not in DTYPES:
        raise BadRequest(f"dtype {given.dtype!r} is not accepted; use one of {', '.join(sorted(DTYPES))}")
    try:
        if isinstance(given.data, str):
            if given.shape is None:
                raise BadRequest("an array given as base64 needs its shape")
            data = base64.b64decode(given.data, validate=True)
            return from_wire(Array(given.dtype, given.shape, data))
        return _nested(given.data, given.dtype, given.shape)
    except (ValueError, TypeError, ArithmeticError, binascii.Error, Unreadable) as error:
        raise BadRequest(f"not an array of {given.dtype}: {error}") from None


def _nested(data: Any, dtype: str, shape: tuple[int, ...] | None) -> AnyArray:
    """Lists of numbers. Raises ``ValueError`` or ``ArithmeticError``; no number is changed to fit."""
    given = np.array(data)
    plain = given.dtype.kind in _FITS[np.dtype(dtype).kind] or given.size == 0
    if not plain and not (dtype.startswith("float") and _with_nulls(given)):
        raise ValueError(f"the lists hold {given.dtype.name}")
    if given.ndim > DIMENSIONS_MAX:
        raise ValueError(f"{given.ndim} dimensions; at most {DIMENSIONS_MAX}")
    if shape is not None and min(shape, default=0) < 0:
        raise ValueError(f"a shape of {shape}")
    with np.errstate(over="raise"):
        array: AnyArray = np.array(data, dtype=dtype)
    return array if shape is None else array.reshape(shape)


def _with_nulls(given: NDArray[Any]) -> bool:
    """Whether all are numbers, or null, which stands for NaN in what we write as well."""
    return given.dtype == object and all(one is None or type(one) in (int, float) for one in given.flat)


def to_json(array: AnyArray) -> JsonArray:
    """Nested lists; numbers that JSON can't say (NaN, infinities) become null."""
    plain = array.astype(object)
    if array.dtype.kind == "f":
        plain[~np.isfinite(array)] = None
    return JsonArray(data=plain.tolist(), dtype=array.dtype.name, shape=array.shape)
