"""Whether a package is a model that devices can run."""

from shared.abi import read_abi
from shared.artifacts import is_version, make_manifest
from shared.errors import Unreadable
from shared.ids import is_id
from shared.messages import Manifest
from shared.package import ModuleKind, Package, PackageInfo, unpack
from shared.topics import CHUNK_BYTES

MODULES_MAX = 64
OPERATORS_MAX = 1024
VERSION_CHARS_MAX = 48  # leaves room for what a taken version gets appended
TEXT_CHARS_MAX = 4096


def examine(data: bytes) -> tuple[PackageInfo, Manifest]:
    """What the package says about itself, and its manifest (not signed). Raises :class:`Unreadable`."""
    package = unpack(data)
    info = package.info
    complaint = _complaint(package)
    if complaint:
        raise Unreadable(complaint)
    for batch, module in package.modules.items():
        if read_abi(module) is None and info.kind is ModuleKind.TENSOR:
            raise Unreadable(f"the module for batch size {batch} carries no shoal.abi section")
    manifest = make_manifest(
        data, name=info.name, version=info.version, kind=info.kind, chunk_bytes=CHUNK_BYTES
    )
    return info, manifest


def _complaint(package: Package) -> str | None:
    info = package.info
    if not is_id(info.name):
        return f"{info.name[:80]!r} is not a usable model name: 1 to 64 of a-z, 0-9 and '-'"
    if len(info.version) > VERSION_CHARS_MAX or not is_version(info.version):
        return f"{info.version[:80]!r} is not a usable version: 1 to {VERSION_CHARS_MAX} of a-zA-Z0-9._+-"
    if len(package.modules) > MODULES_MAX or min(package.modules) < 0:
        return f"the package holds {len(package.modules)} modules; at most {MODULES_MAX}, by batch size"
    if len(info.operators) > OPERATORS_MAX or len(info.description) > TEXT_CHARS_MAX:
        return "the package's list of operators or its description is too long"
    if info.memory_bytes_max <= 0 or info.flops_per_item < 0:
        return "the package's memory limit or cost is not a size"
    return None
