"""Parameters of a tensor module: a safetensors blob on the wire, arrays at fixed offsets in memory.

    u64 little-endian header length | JSON {name: {dtype, shape, data_offsets: [begin, end]}} | data

Format: https://github.com/huggingface/safetensors#format. Everything is checked against the blob's size
before a view is made; nothing is executed, and nothing is copied until the bytes go to the module.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.runtime.errors import BadModule
from shared.abi import Parameters

Array = NDArray[np.generic]
DTYPES: dict[str, np.dtype[Any]] = {
    "f32": np.dtype("<f4"),
    "i32": np.dtype("<i4"),
    "i64": np.dtype("<i8"),
    "u8": np.dtype("u1"),
    "bool": np.dtype("?"),
}
_SAFETENSORS = {"F32": "f32", "I32": "i32", "I64": "i64", "U8": "u8", "BOOL": "bool"}
_HEADER_BYTES_MAX = 8 << 20
_PREFIX_BYTES = 8


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_safetensors(blob: bytes) -> dict[str, Array]:
    """Name -> read-only array over ``blob``; an empty blob has none. Raises :class:`BadModule`."""
    if not blob:
        return {}
    length = int.from_bytes(blob[:_PREFIX_BYTES], "little")
    data_at = _PREFIX_BYTES + length
    if len(blob) < _PREFIX_BYTES or length > _HEADER_BYTES_MAX or data_at > len(blob):
        raise BadModule("the parameter blob is cut short, or its header is longer than 8 MiB")
    try:
        header = msgspec.json.decode(blob[_PREFIX_BYTES:data_at], type=dict[str, msgspec.Raw])
        header.pop("__metadata__", None)
        entries = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in header.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadModule(f"the parameter blob's header is not that of safetensors: {error}") from None
    return {name: _array(name, entry, blob, data_at) for name, entry in entries.items()}


def match(region: Parameters, tensors: Mapping[str, Array]) -> list[Array]:
    """The arrays in the region's order. Raises :class:`BadModule` that names every tensor that differs."""
    wanted = {tensor.name: tensor for tensor in region.tensors}
    problems = [f"{name} is missing" for name in wanted.keys() - tensors.keys()]
    problems += [f"{name} is not a parameter of the module" for name in tensors.keys() - wanted.keys()]
    for name in wanted.keys() & tensors.keys():
        want, have = wanted[name], tensors[name]
        if have.shape != want.shape or have.dtype != DTYPES[want.dtype]:
            problems.append(f"{name} is {have.dtype}{list(have.shape)}, not {want.dtype}{list(want.shape)}")
    if problems:
        raise BadModule("the parameters don't fit the module: " + "; ".join(sorted(problems)[:8]))
    return [tensors[tensor.name] for tensor in region.tensors]


def _array(name: str, entry: _Entry, blob: bytes, data_at: int) -> Array:
    begin, end = entry.data_offsets
    kind = _SAFETENSORS.get(entry.dtype)
    if kind is None:
        raise BadModule(f"parameter {name} has the type {entry.dtype}; known are {', '.join(_SAFETENSORS)}")
    if any(size < 0 for size in entry.shape) or not 0 <= begin <= end <= len(blob) - data_at:
        raise BadModule(f"parameter {name} lies outside the blob")
    count = prod(entry.shape)
    if end - begin != count * DTYPES[kind].itemsize:
        raise BadModule(
            f"parameter {name} has {end - begin} bytes; its shape {list(entry.shape)} says otherwise"
        )
    return np.frombuffer(blob, DTYPES[kind], count, data_at + begin).reshape(entry.shape)
