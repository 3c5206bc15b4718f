"""From bytes to something that can be called: a ``.shoal`` package or a bare ``.wasm`` of any kind."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from edge.runtime.binary import read_interface
from edge.runtime.errors import BadModule
from edge.runtime.limits import Grants, Limits
from edge.runtime.plain import open_plain
from edge.runtime.sandbox import Sandbox
from edge.runtime.tensor import abi_of, natural_batch, open_tensor
from edge.runtime.wasi import open_wasi
from edge.runtime.wasi_table import MODULE as WASI_MODULE
from shared.abi import read_abi
from shared.errors import Unreadable
from shared.package import MAGIC, ModuleKind, Package, PackageInfo, unpack

Result = list[Any] | bytes  # arrays of a tensor module, numbers of a plain one, JSON of a command
_MODULES_MAX = 16  # batch sizes in one package


class Instance(Protocol):
    """One of a program's parallel instances. Belongs to one thread at a time."""

    def run(self, call: Any, deadline: float) -> Result:
        """Raises :class:`WasmError`; the caller then closes this instance."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class Program(Protocol):
    """A checked, compiled package. Immutable and shared by its instances."""

    @property
    def functions(self) -> Sequence[str]:
        """Names of what can be called."""
        ...

    def check(self, function: str, inputs: object) -> Any:
        """The call for :meth:`Instance.run`. Quick. Raises :class:`BadInput` that says what would fit."""
        ...

    def start(self, deadline: float) -> Instance:
        """A new instance. Takes time and runs the module's code: use a thread."""
        ...


def read_package(name: str, data: bytes, limits: Limits) -> Package:
    """A ``.shoal`` file as it is; a bare module wrapped as a package of its kind. Raises BadModule."""
    if len(data) > limits.package_bytes_max:
        raise BadModule(f"the file has {len(data)} bytes; package_bytes_max is {limits.package_bytes_max}")
    try:
        return unpack(data) if data.startswith(MAGIC) else _wrapped(name, data, limits)
    except Unreadable as error:
        raise BadModule(str(error)) from None


def _wrapped(name: str, binary: bytes, limits: Limits) -> Package:
    info = PackageInfo(name=name, kind=_kind(binary), memory_bytes_max=limits.memory_bytes_max)
    size = natural_batch(abi_of(binary)) if info.kind is ModuleKind.TENSOR else 0
    return Package(info=info, modules={size: binary})


def _kind(binary: bytes) -> ModuleKind:
    if read_abi(binary) is not None:
        return ModuleKind.TENSOR
    imports = read_interface(binary).imports
    return ModuleKind.WASI if any(one.module == WASI_MODULE for one in imports) else ModuleKind.PLAIN


def open_program(package: Package, sandbox: Sandbox, grants: Grants) -> Program:
    """Compile and check. Blocks: use a thread. Raises :class:`BadModule`."""
    if len(package.modules) > _MODULES_MAX:
        raise BadModule(f"the package holds {len(package.modules)} modules; the limit is {_MODULES_MAX}")
    if package.info.memory_bytes_max < 0:  # wasmtime reads a negative limit as no limit
        raise BadModule(f"the package wants a memory of {package.info.memory_bytes_max} bytes")
    memory_bytes_max = min(sandbox.limits.memory_bytes_max, package.info.memory_bytes_max)
    if package.info.kind is ModuleKind.TENSOR:
        return open_tensor(sandbox, package.modules, package.parameters, memory_bytes_max)
    binary = _only_module(package.modules)
    if package.info.kind is ModuleKind.WASI:
        return open_wasi(sandbox, binary, memory_bytes_max, grants)
    return open_plain(sandbox, binary, memory_bytes_max)


def _only_module(modules: Mapping[int, bytes]) -> bytes:
    if len(modules) != 1:
        raise BadModule(f"a WASI or plain package holds one module; this one holds {len(modules)}")
    return next(iter(modules.values()))
