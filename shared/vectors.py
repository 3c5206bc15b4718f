"""A model's parameters as one flat float32 vector: what rounds add, subtract and average.

The order of tensors is that of their names, so that everybody who knows the names and shapes agrees about
every coordinate; ``Layout.hash`` says whether they do.
"""

from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from math import prod

import msgspec
import numpy as np
from numpy.typing import NDArray

from shared.errors import Unreadable

F32: np.dtype[np.float32] = np.dtype("<f4")
Vector = NDArray[np.float32]
PARAMETERS_MAX = 256 << 20

_encoder = msgspec.msgpack.Encoder()


class Layout(msgspec.Struct, frozen=True, dict=True):
    """Names in ascending order, and the shape of each."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, tensors: Mapping[str, NDArray[np.float32]]) -> "Layout":
        """The layout of these tensors."""
        names = tuple(sorted(tensors))
        return cls(names, tuple(tuple(map(int, tensors[name].shape)) for name in names))

    @cached_property
    def n_params(self) -> int:
        """Numbers in the vector."""
        return sum(prod(shape) for shape in self.shapes)

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of names and shapes."""
        return sha256(_encoder.encode(("shoal layout 1", self.names, self.shapes))).hexdigest()

    def flatten(self, tensors: Mapping[str, NDArray[np.float32]]) -> Vector:
        """The vector [n_params]. Raises :class:`Unreadable` when a tensor is missing or has another shape."""
        vector = np.empty(self.n_params, F32)
        start = 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            tensor = tensors.get(name)
            if tensor is None or tensor.shape != shape:
                raise Unreadable(f"tensor {name!r} of shape {shape} is wanted")
            vector[start : start + tensor.size] = tensor.ravel()
            start += tensor.size
        return vector

    def unflatten(self, vector: Vector) -> dict[str, NDArray[np.float32]]:
        """Views into the vector, by name. Raises :class:`Unreadable` when its length is another."""
        if vector.shape != (self.n_params,):
            raise Unreadable(f"{vector.shape} numbers; the layout has {self.n_params}")
        tensors, start = {}, 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            tensors[name] = vector[start : start + prod(shape)].reshape(shape)
            start += prod(shape)
        return tensors


def check_of(vector: Vector) -> str:
    """SHA-256 (hex) of a vector's little-endian bytes: two machines hold the same model if this agrees."""
    return sha256(np.ascontiguousarray(vector, F32).data).hexdigest()


class VectorFile(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact of one version of a global model.

    ``base`` -1: ``data`` is the vector itself (codec "f32"); else it is added to that version. ``data`` is
    encoded as ``shared/codecs.py`` says.
    """

    version: int
    base: int
    codec: str
    n_params: int
    layout_hash: str
    data: bytes


_file_decoder = msgspec.msgpack.Decoder(VectorFile)


def pack_vector(file: VectorFile) -> bytes:
    """The artifact's bytes."""
    return _encoder.encode(file)


def unpack_vector(data: bytes) -> VectorFile:
    """Read it. Raises :class:`Unreadable`."""
    try:
        file = _file_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Unreadable(f"not a model vector: {error}") from None
    if not 0 < file.n_params <= PARAMETERS_MAX or file.base < -1 or file.base >= file.version:
        raise Unreadable("not a model vector: its numbers can't be")
    return file
