"""The parameter blob: arrays by name in the safetensors format, the same bytes for the same arrays.

    u64 little-endian: length of the header | header: JSON, padded with spaces | the arrays, one after another

Format: github.com/huggingface/safetensors, "Format". Names are sorted, the header is compact and padded to 8
bytes, so that the arrays start aligned and equal models give equal blobs.
"""

import struct
from collections.abc import Mapping
from math import prod

import msgspec
import numpy as np
import numpy.typing as npt

from shared.errors import Unreadable

_LENGTH = struct.Struct("<Q")
_ALIGNMENT_BYTES = 8
_HEADER_BYTES_MAX = 16 << 20

F32Array = npt.NDArray[np.float32]


class _Entry(msgspec.Struct, frozen=True):
    """One array: ``data_offsets`` are its begin and end, in bytes after the header."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def encode_parameters(arrays: Mapping[str, F32Array]) -> bytes:
    """The blob of float32 arrays."""
    header, bodies, at = {}, [], 0
    for name in sorted(arrays):
        body = np.ascontiguousarray(arrays[name], dtype="<f4").tobytes()
        header[name] = _Entry("F32", arrays[name].shape, (at, at + len(body)))
        bodies.append(body)
        at += len(body)
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return _LENGTH.pack(len(text)) + text + b"".join(bodies)


def decode_parameters(blob: bytes) -> dict[str, F32Array]:
    """The arrays, as read-only views of the blob. Raises :class:`Unreadable`."""
    length = int.from_bytes(blob[: _LENGTH.size], "little")
    start = _LENGTH.size + length
    if len(blob) < start or length > _HEADER_BYTES_MAX:
        raise Unreadable(f"parameter blob: a header of {length} bytes in {len(blob)} bytes")
    try:
        header = msgspec.json.decode(blob[_LENGTH.size : start], type=dict[str, msgspec.Raw])
        header.pop("__metadata__", None)
        entries = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in header.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"parameter blob: {error}") from None
    body = memoryview(blob)[start:]
    return {name: _array(body, name, entry) for name, entry in entries.items()}


def _array(body: memoryview, name: str, entry: _Entry) -> F32Array:
    begin, end = entry.data_offsets
    fits = 0 <= begin <= end <= len(body) and min(entry.shape, default=1) >= 0
    if entry.dtype != "F32" or not fits or end - begin != 4 * prod(entry.shape):
        raise Unreadable(f"parameter blob: {name!r} of {entry.dtype} {entry.shape} at {begin} to {end}")
    return np.frombuffer(body[begin:end], dtype=np.dtype("<f4")).reshape(entry.shape)
