"""A ``.shoal`` file: one model as one artifact, content-addressed and the same bytes every time.

    "SHOAL\\x01"  then one MessagePack map {manifest, modules, parameters}

Tensor modules for several batch sizes share one parameter blob; a WASI command or a plain module is a
single entry under batch size 0 with no parameters.
"""

from enum import StrEnum

import msgspec

from shared.errors import Unreadable

MAGIC = b"SHOAL\x01"
SUFFIX = ".shoal"


class ModuleKind(StrEnum):
    """How the host talks to the module."""

    TENSOR = "tensor"  # the shoal.abi custom section describes memory and functions
    WASI = "wasi"  # JSON on stdin, JSON on stdout
    PLAIN = "plain"  # exported functions of numbers


class PackageInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the file says about itself; shown by ``shoal inspect``."""

    name: str
    version: str = "1"
    kind: ModuleKind = ModuleKind.TENSOR
    memory_bytes_max: int = 64 << 20
    operators: dict[str, int] = {}
    flops_per_item: int = 0
    description: str = ""


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """``modules``: batch size -> WebAssembly binary. ``parameters``: a safetensors blob, or empty."""

    info: PackageInfo
    modules: dict[int, bytes]
    parameters: bytes = b""


_decoder = msgspec.msgpack.Decoder(Package)


def pack(package: Package) -> bytes:
    """The file's bytes: equal packages give equal bytes, whatever order their maps were filled in."""
    info = msgspec.structs.replace(package.info, operators=dict(sorted(package.info.operators.items())))
    ordered = msgspec.structs.replace(package, info=info, modules=dict(sorted(package.modules.items())))
    return MAGIC + msgspec.msgpack.encode(ordered)


def unpack(data: bytes) -> Package:
    """Read a package. Raises :class:`Unreadable` for anything else."""
    if data[: len(MAGIC)] != MAGIC:
        raise Unreadable("not a .shoal package: the first six bytes are not its magic")
    try:
        package = _decoder.decode(memoryview(data)[len(MAGIC) :])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"broken .shoal package: {error}") from None
    if not package.modules:
        raise Unreadable("the .shoal package holds no module")
    return package
