"""``shoal inspect``: what is in a ``.shoal`` file. Needs no broker."""

from hashlib import sha256
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from cloud.cli.options import JsonOption, emit, examples
from shared.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from shared.abi import Abi, Tensor

TENSORS_SHOWN = 12  # of a long list
TYPICAL_GFLOPS = 10  # single-board computers with 128-bit vectors; 'shoal node' shows what a device has


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
    """One WebAssembly binary; ``batch`` is 0 where the package has only one.

    ``digest``: of the binary, which is the same for all weights of one architecture. ``arena_bytes``: the
    part of the memory that holds inputs, activations and outputs.
    """

    batch: int
    digest: str
    size_bytes: int
    memory_bytes: int
    arena_bytes: int
    functions: tuple[FunctionView, ...]


class PackageView(msgspec.Struct, frozen=True, kw_only=True):
    """What ``shoal inspect --json`` prints.

    ``tensors``: the parameters. ``layout_hash``: which blobs of parameters fit the modules.
    """

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
    parameter_count: int
    layout_hash: str
    tensors: tuple[TensorView, ...]
    modules: tuple[ModuleView, ...]


def inspect(app: typer.Typer) -> None:
    """Add the command."""
    epilog = examples(
        "shoal inspect examples/digits/digits.shoal",
        "shoal inspect my.shoal --tensors",
        "shoal inspect my.shoal --json | jq .operators",
    )
    app.command(name="inspect", epilog=epilog)(_inspect)


def _inspect(
    file: Annotated[Path, typer.Argument(help="A .shoal file.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every parameter.")] = False,
    json: JsonOption = False,
) -> None:
    """Show what is in a package: tensors, operators, memory, module sizes, expected cost, digest."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"can't read {file}: {error.strerror}") from None
    view = described(data)
    emit(view, json, lambda: package_page(view, every_tensor=tensors))


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
        parameter_count=sum(prod(one.shape) for one in first.parameters.tensors) if first else 0,
        layout_hash=first.parameters.layout_hash if first else "",
        tensors=_tensors(first.parameters.tensors) if first else (),
        modules=tuple(_module(batch, package.modules[batch], abi) for batch, abi in abis.items()),
    )


def _module(batch: int, code: bytes, abi: "Abi | None") -> ModuleView:
    functions = () if abi is None else abi.functions
    return ModuleView(
        batch=batch,
        digest=sha256(code).hexdigest(),
        size_bytes=len(code),
        memory_bytes=0 if abi is None else abi.memory_bytes,
        arena_bytes=0 if abi is None else abi.memory_bytes - abi.parameters.offset - abi.parameters.nbytes,
        functions=tuple(
            FunctionView(name=one.name, inputs=_tensors(one.inputs), outputs=_tensors(one.outputs))
            for one in functions
        ),
    )


def _tensors(tensors: "tuple[Tensor, ...]") -> tuple[TensorView, ...]:
    return tuple(TensorView(name=one.name, dtype=one.dtype, shape=one.shape) for one in tensors)


def package_page(view: PackageView, *, every_tensor: bool = False) -> "RenderableType":
    """For a person. Long lists of parameters are cut unless ``every_tensor``."""
    from rich.console import Group
    from rich.text import Text

    from cloud.cli.show import bytes_text, facts_table

    operators = ", ".join(f"{name} x{count}" for name, count in sorted(view.operators.items()))
    shown = view.tensors if every_tensor else view.tensors[:TENSORS_SHOWN]
    rows: list[tuple[str, str | Text]] = [
        ("model", f"{view.name} version {view.version} ({view.kind})"),
        ("about", view.description or "-"),
        ("digest", view.digest),
        ("size", bytes_text(view.size_bytes)),
        ("memory", f"at most {bytes_text(view.memory_bytes_max)} on the device"),
        ("cost", _cost_text(view.flops_per_item)),
        ("operators", operators or "-"),
        (
            "parameters",
            f"{view.parameter_count:,} in {len(view.tensors)} tensors, {bytes_text(view.parameter_bytes)}",
        ),
        *(("", _signature(one)) for one in shown),
    ]
    if len(shown) < len(view.tensors):
        rows.append(("", f"and {len(view.tensors) - len(shown)} more (--tensors)"))
    return Group(facts_table(rows), Text(), _modules_table(view))


def _modules_table(view: PackageView) -> "RenderableType":
    from rich.table import Table

    from cloud.cli.show import bytes_text

    table = Table(box=None, pad_edge=False)
    for column in ("batch", "module", "memory", "arena"):
        table.add_column(column, justify="right")
    for column in ("function", "takes", "gives"):
        table.add_column(column)
    for module in view.modules:
        sizes = (
            str(module.batch or "any"),
            bytes_text(module.size_bytes),
            bytes_text(module.memory_bytes),
            bytes_text(module.arena_bytes),
        )
        for one in module.functions or (FunctionView(name="-", inputs=(), outputs=()),):
            takes, gives = (", ".join(map(_signature, side)) for side in (one.inputs, one.outputs))
            table.add_row(*sizes, one.name, takes, gives)
    return table


def _cost_text(flops: int) -> str:
    """The least time is what the balancer starts from, before it has seen the model run."""
    if not flops:
        return "not known"
    least_us = flops / (TYPICAL_GFLOPS * 1e3)
    return (
        f"{flops:,} floating-point operations an item; at least {_duration_text(least_us)} on a device of "
        f"{TYPICAL_GFLOPS} GFLOP/s"
    )


def _duration_text(us: float) -> str:
    return f"{us:.1f} us" if us < 1000 else f"{us / 1000:.1f} ms"


def _signature(tensor: TensorView) -> str:
    return f"{tensor.name} {tensor.dtype}({', '.join(map(str, tensor.shape))})"
