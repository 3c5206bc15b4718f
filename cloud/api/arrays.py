"""Arrays as JSON: nested lists of numbers with a dtype, or base64 of little-endian bytes for large ones."""

import base64
import binascii
from typing import Any

import msgspec
import numpy as np

from cloud.api.problems import BadRequest
from shared.errors import Unreadable
from shared.messages import Array
from shared.tensors import DTYPES, AnyArray, from_wire


class JsonArray(msgspec.Struct, frozen=True, kw_only=True):
    """``data``: nested lists; or, with ``shape``, a base64 string of the bytes (little-endian, row-major)."""

    data: list[Any] | str
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
        array: AnyArray = np.array(given.data, dtype=given.dtype)
        return array if given.shape is None else array.reshape(given.shape)
    except (ValueError, TypeError, OverflowError, binascii.Error, Unreadable) as error:
        raise BadRequest(f"not an array of {given.dtype}: {error}") from None


def to_json(array: AnyArray) -> JsonArray:
    """Nested lists; numbers that JSON can't say (NaN, infinities) become null."""
    plain = array.astype(object)
    if array.dtype.kind == "f":
        plain[~np.isfinite(array)] = None
    return JsonArray(data=plain.tolist(), dtype=array.dtype.name, shape=array.shape)
