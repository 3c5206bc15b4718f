"""The ABI of a tensor module: what a compiled model says about itself.

A tensor module imports nothing, exports ``memory`` (which never grows) and its functions, which take no
arguments and return nothing: inputs are written to, and outputs read from, fixed offsets of the memory.
A custom section named ``shoal.abi`` holds this description as JSON. Parameters live in one region of the
memory outside the code, so that the module's bytes depend on shapes only.

    memory   | 0..64 zero | parameters (64-byte aligned) | arena: inputs, activations, outputs |

Invariant: every offset and size here is checked against ``memory_bytes`` when the section is read, so a
host may use them for views without another check.
"""

from collections.abc import Iterator
from math import prod

import msgspec

from shared.errors import Unreadable

SECTION = "shoal.abi"
SECTION_BYTES_MAX = 1 << 20
ITEM_BYTES = {"f32": 4, "i32": 4, "i64": 8, "u8": 1, "bool": 1}
_MAGIC = b"\0asm\x01\0\0\0"


class Tensor(msgspec.Struct, frozen=True):
    """One array in linear memory: row-major, dense. ``offset`` in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


class Function(msgspec.Struct, frozen=True):
    """An exported function ``() -> ()`` with the tensors it reads and writes."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Parameters(msgspec.Struct, frozen=True):
    """The region that the parameter blob is copied to, as one piece.

    ``layout_hash``: SHA-256 (hex) over the names, dtypes, shapes and offsets, so that a blob can be
    matched to a module.
    """

    offset: int
    nbytes: int
    layout_hash: str
    tensors: tuple[Tensor, ...]


class Abi(msgspec.Struct, frozen=True, kw_only=True):
    """The whole description. ``version`` is 1."""

    version: int
    memory_bytes: int
    functions: tuple[Function, ...]
    parameters: Parameters

    def function(self, name: str) -> Function | None:
        """The function of that name, if the module has it."""
        return next((one for one in self.functions if one.name == name), None)


def encode_section(abi: Abi) -> bytes:
    """The custom section, ready to be appended to a module's bytes."""
    name, body = SECTION.encode(), msgspec.json.encode(abi)
    content = _leb(len(name)) + name + body
    return b"\0" + _leb(len(content)) + content


def read_abi(module: bytes) -> Abi | None:
    """The description in a WebAssembly binary, or None when it carries none.

    Raises :class:`Unreadable` when the binary or the section is malformed, or when a tensor lies outside
    the memory that the section declares.
    """
    for name, body in _custom_sections(module):
        if name == SECTION:
            return _checked(body)
    return None


def _checked(body: bytes) -> Abi:
    if len(body) > SECTION_BYTES_MAX:
        raise Unreadable(f"{SECTION} is {len(body)} bytes; the limit is {SECTION_BYTES_MAX}")
    try:
        abi = msgspec.json.decode(body, type=Abi)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"{SECTION}: {error}") from None
    if abi.version != 1:
        raise Unreadable(f"{SECTION} is version {abi.version}; this runtime reads version 1")
    region = abi.parameters
    if not 0 <= region.offset <= region.offset + region.nbytes <= abi.memory_bytes:
        raise Unreadable(f"{SECTION}: the parameter region lies outside the memory")
    for tensor in _tensors(abi):
        known = tensor.dtype in ITEM_BYTES and all(size >= 0 for size in tensor.shape)
        if not known or not 0 <= tensor.offset <= tensor.offset + tensor.nbytes <= abi.memory_bytes:
            raise Unreadable(
                f"{SECTION}: tensor {tensor.name!r} is not of a known type or outside the memory"
            )
        if tensor.offset % ITEM_BYTES[tensor.dtype]:
            raise Unreadable(f"{SECTION}: tensor {tensor.name!r} is not aligned to its items")
    return abi


def _tensors(abi: Abi) -> Iterator[Tensor]:
    yield from abi.parameters.tensors
    for function in abi.functions:
        yield from function.inputs
        yield from function.outputs


def _custom_sections(module: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each custom section. WebAssembly core specification 2.0, section 5.5.3."""
    if module[:8] != _MAGIC:
        raise Unreadable("not a WebAssembly module: the first eight bytes are not its magic and version 1")
    at = 8
    while at < len(module):
        kind = module[at]
        size, start = _read_leb(module, at + 1)
        at = start + size
        if at > len(module):
            raise Unreadable("the WebAssembly module is cut short")
        if kind == 0:
            length, name_at = _read_leb(module, start)
            if name_at + length > at:
                raise Unreadable("a custom section's name is longer than the section")
            yield module[name_at : name_at + length].decode("utf-8", "replace"), module[name_at + length : at]


def _read_leb(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            raise Unreadable("the WebAssembly module is cut short")
        value |= (data[at] & 0x7F) << shift
        at += 1
        if not data[at - 1] & 0x80:
            return value, at
    raise Unreadable("a length in the WebAssembly module is over 32 bits")


def _leb(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
