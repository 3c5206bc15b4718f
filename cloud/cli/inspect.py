"""``shoal inspect``: what is in a ``.shoal`` file. Needs no broker."""

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from cloud.cli.options import JsonOption, emit, examples
from shared.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from shared.abi import Abi, Tensor


class TensorView(msgspec.Struct, frozen=True, kw_only=True):
    """One array of a module's memory."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class FunctionView(msgspec.Struct, frozen=True, kw_only=True):
    """What a function takes and gives."""

    name: str
    inputs: tuple[TensorView, ...]
    outputs: tuple[TensorView, ...]


class ModuleView(msgspec.Struct, frozen=True, kw_only=True):
    """One WebAssembly binary; ``batch`` is 0 where the package has only one."""

    batch: int
    size_bytes: int
    memory_bytes: int
    functions: tuple[FunctionView, ...]


class PackageView(msgspec.Struct, frozen=True, kw_only=True):
    """What ``shoal inspect --json`` prints. ``tensors``: the parameters."""

    name: str
    version: str
    kind: str
    description: str
    digest: str
    size_bytes: int
    memory_bytes_max: int
    flops_per_item: int
    operators: dict[str, int]
    parameter_bytes: int
    tensors: tuple[TensorView, ...]
    modules: tuple[ModuleView, ...]


def inspect(app: typer.Typer) -> None:
    """Add the command."""
    epilog = examples(
        "shoal inspect examples/digits/digits.shoal", "shoal inspect my.shoal --json | jq .operators"
    )
    app.command(name="inspect", epilog=epilog)(_inspect)


def _inspect(
    file: Annotated[Path, typer.Argument(help="A .shoal file.")],
    json: JsonOption = False,
) -> None:
    """Show what is in a package: tensors, operators, memory, module sizes, digest."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"can't read {file}: {error.strerror}") from None
    view = described(data)
    emit(view, json, lambda: _page(view))


def described(data: bytes) -> PackageView:
    """Raises :class:`shared.errors.Unreadable` for what is no package."""
    from shared.abi import read_abi
    from shared.package import unpack

    package = unpack(data)
    info = package.info
    abis = {batch: read_abi(module) for batch, module in sorted(package.modules.items())}
    first = next((abi for abi in abis.values() if abi is not None), None)
    return PackageView(
        name=info.name,
        version=info.version,
        kind=info.kind,
        description=info.description,
        digest=sha256(data).hexdigest(),
        size_bytes=len(data),
        memory_bytes_max=info.memory_bytes_max,
        flops_per_item=info.flops_per_item,
        operators=info.operators,
        parameter_bytes=len(package.parameters),
        tensors=_tensors(first.parameters.tensors) if first else (),
        modules=tuple(_module(batch, package.modules[batch], abi) for batch, abi in abis.items()),
    )


def _module(batch: int, code: bytes, abi: "Abi | None") -> ModuleView:
    functions = () if abi is None else abi.functions
    return ModuleView(
        batch=batch,
        size_bytes=len(code),
        memory_bytes=0 if abi is None else abi.memory_bytes,
        functions=tuple(
            FunctionView(name=one.name, inputs=_tensors(one.inputs), outputs=_tensors(one.outputs))
            for one in functions
        ),
    )


def _tensors(tensors: "tuple[Tensor, ...]") -> tuple[TensorView, ...]:
    return tuple(TensorView(name=one.name, dtype=one.dtype, shape=one.shape) for one in tensors)


def _page(view: PackageView) -> "RenderableType":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from cloud.cli.show import bytes_text, facts_table

    operators = ", ".join(f"{name} x{count}" for name, count in sorted(view.operators.items()))
    rows: list[tuple[str, Any]] = [
        ("model", f"{view.name} version {view.version} ({view.kind})"),
        ("about", view.description or "-"),
        ("digest", view.digest),
        ("size", bytes_text(view.size_bytes)),
        ("memory", f"at most {bytes_text(view.memory_bytes_max)} on the device"),
        ("cost", f"{view.flops_per_item:,} floating-point operations an item"),
        ("operators", operators or "-"),
        ("parameters", f"{bytes_text(view.parameter_bytes)} in {len(view.tensors)} tensors"),
        *(("", _signature(one)) for one in view.tensors),
    ]
    table = Table(box=None, pad_edge=False)
    for column in ("batch", "module", "memory", "function", "takes", "gives"):
        table.add_column(column, justify="right" if column in ("batch", "module", "memory") else "left")
    for module in view.modules:
        sizes = (str(module.batch or "any"), bytes_text(module.size_bytes), bytes_text(module.memory_bytes))
        for one in module.functions or (FunctionView(name="-", inputs=(), outputs=()),):
            takes, gives = (", ".join(map(_signature, side)) for side in (one.inputs, one.outputs))
            table.add_row(*sizes, one.name, takes, gives)
    return Group(facts_table(rows), Text(), table)


def _signature(tensor: TensorView) -> str:
    return f"{tensor.name} {tensor.dtype}({', '.join(map(str, tensor.shape))})"
