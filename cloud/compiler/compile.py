"""The pipeline from end to end, and the compiled model that comes out of it.

nn.Module --frontend, lowering--> graph --passes--> graph --kernels, plan--> module     once per batch size
                                                                               └── .shoal package
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cloud.compiler.backend import Module, build_module
from cloud.compiler.cost import flops, operator_counts
from cloud.compiler.errors import CompileError
from cloud.compiler.ir import Graph
from cloud.compiler.passes import Precision, optimise
from cloud.compiler.runner import Runner
from shared.package import ModuleKind, Package, PackageInfo, pack
from shared.parameters import F32Array, encode_parameters

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled model. ``modules``: by batch size, with the text each was assembled from."""

    package: Package
    modules: Mapping[int, Module]

    def save(self, path: str | Path) -> None:
        """Write the ``.shoal`` file: the same model, the same bytes."""
        Path(path).write_bytes(pack(self.package))

    def load(self) -> Runner:
        """Instantiate it here, in wasmtime: a callable from numpy to numpy."""
        return Runner(self.package)


def compile_model(
    model: "torch.nn.Module",
    example_inputs: "Sequence[torch.Tensor]",
    *,
    name: str = "",
    batch_sizes: Sequence[int] = (1,),
    precision: Precision | str = Precision.EXACT,
    version: str = "1",
    description: str = "",
) -> Compiled:
    """Compile a model for inference: arrays whose first dimension is the batch.

    ``example_inputs`` give the shapes and dtypes of the inputs; their first dimension is replaced by each
    batch size, and the items along it must keep to themselves, for devices join requests in batches.
    ``name``: by default the class's, in small letters. ``precision``: see :class:`Precision`.
    Raises :class:`UnsupportedOperator` and :class:`CompileError`, which say what to change in the model.
    """
    # Imported here: torch takes a second to load, and everything behind the front end works without it.
    from cloud.compiler.frontend import batched, example_tensors, export
    from cloud.compiler.items import require_items_apart

    _check_batch_sizes(batch_sizes)
    precision, examples = _precision(precision), example_tensors(model, example_inputs)
    graphs: dict[int, Graph] = {}
    parameters: Mapping[str, F32Array] = {}
    for size in batch_sizes:
        exported = export(model, batched(examples, size))
        parameters, graphs[size] = exported.parameters, optimise(exported.graph, precision)
        _check_batch(graphs[size], size)
    modules = {size: build_module({"run": graph}) for size, graph in graphs.items()}
    smallest = min(batch_sizes)
    info = PackageInfo(
        name=name or type(model).__name__.lower(),
        version=version,
        kind=ModuleKind.TENSOR,
        memory_bytes_max=max(one.abi.memory_bytes for one in modules.values()),
        operators=operator_counts(graphs[smallest]),
        flops_per_item=flops(graphs[smallest]) // smallest,
        description=description,
    )
    package = _package(info, modules, parameters)
    require_items_apart(model, examples)
    return Compiled(package, modules)


def _package(info: PackageInfo, modules: Mapping[int, Module], parameters: Mapping[str, F32Array]) -> Package:
    """One blob for all modules: they were traced from one model, so their layouts are one."""
    layouts = {one.abi.parameters.layout_hash: one.abi.parameters for one in modules.values()}
    if len(layouts) != 1:
        raise CompileError(
            "the model uses different parameters for different batch sizes; compile them apart"
        )
    (layout,) = layouts.values()
    blob = encode_parameters({one.name: parameters[one.name] for one in layout.tensors})
    return Package(info=info, modules={size: one.binary for size, one in modules.items()}, parameters=blob)


def _precision(given: Precision | str) -> Precision:
    try:
        return Precision(given)
    except ValueError:
        raise CompileError(f"precision {given!r}; there are {', '.join(Precision)}") from None


def _check_batch_sizes(batch_sizes: Sequence[int]) -> None:
    if not batch_sizes or min(batch_sizes) < 1 or len(set(batch_sizes)) != len(batch_sizes):
        raise CompileError(
            f"batch sizes {tuple(batch_sizes)}: give at least one, each positive and named once"
        )


def _check_batch(graph: Graph, batch_size: int) -> None:
    for value in (*graph.inputs, *graph.outputs):
        if value.shape[:1] != (batch_size,):
            raise CompileError(
                f"{value.name} has shape {value.shape}; the first dimension of every input and output is the "
                f"batch, here {batch_size}"
            )
