"""Graphs -> WebAssembly module: pick a kernel for each node, plan the memory, write straight-line functions.

    (func (export "prepare") (call $permute_... (i32.const w) (i32.const w')))      derived values
    (func (export "run")
      (call $dot_1x64x128_... (i32.const x) (i32.const w') (i32.const b) (i32.const y))
      (call $dot_1x128x10_... ...))

A kernel is a function of addresses, written for one set of shapes. Nodes with equal shapes share it, and
:mod:`cloud.compiler.sharing` makes one function of kernels that are alike. The module imports nothing and its
memory never grows. Its bytes depend on shapes only: parameters are in memory, not in code, and are copied
there by whoever instantiates the module.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import wasmtime

from cloud.compiler.binary import without_locals
from cloud.compiler.ir import Graph, Node, Parameter, Value
from cloud.compiler.kernels import kernel_of
from cloud.compiler.plan import PAGE_BYTES, PARAMETERS_OFFSET, Plan, derived, plan_memory, workspace
from cloud.compiler.sharing import Target, share
from cloud.compiler.wat import Kernel, const
from shared.abi import Abi, Function, Parameters, Tensor, encode_section

PREPARE = "prepare"
_Calls = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class _Step:
    """A node of graph ``function``, whose kernel the exported ``target`` calls."""

    function: str
    target: str
    kernel: Kernel
    node: Node


@dataclass(frozen=True, slots=True)
class Module:
    """One WebAssembly module. ``wat``: what it was assembled from; ``binary`` also has the ABI section."""

    wat: str
    binary: bytes
    abi: Abi


def build_module(functions: Mapping[str, Graph], *, hoist: bool = True) -> Module:
    """Compile optimised graphs, one for each function. The same graphs give the same bytes.

    ``hoist``: what depends on parameters only is computed by ``prepare``; whoever changes them must call it.
    """
    kernels = {name: _kernels(graph) for name, graph in functions.items()}
    spaces = {
        workspace(node): kernel.scratch_bytes
        for name, graph in functions.items()
        for node in graph.nodes
        if (kernel := kernels[name][node.result.name]) is not None and kernel.scratch_bytes
    }
    plan = plan_memory(functions, spaces, hoist=hoist)
    steps = _steps(functions, kernels, hoist)
    texts, targets = _shared(steps)
    calls: _Calls = {name: [] for name in (PREPARE, *functions)}
    for step in steps:
        calls[step.target].append(_call(step, targets[step.kernel.name], plan.offsets[step.function]))
    for name, graph in functions.items():
        calls[name] += _updates(graph, plan.offsets[name])
    wat = _text(texts, _data(functions, plan), calls, plan.memory_bytes)
    abi = describe(functions, plan)
    return Module(wat, without_locals(bytes(wasmtime.wat2wasm(wat))) + encode_section(abi), abi)


def describe(functions: Mapping[str, Graph], plan: Plan) -> Abi:
    """The ABI of the module: every function's tensors, and the parameter region."""
    parameters = plan.parameters
    region = _offsets_by_key(functions, plan, parameters)
    tensors = tuple(Tensor(one.key, one.value.dtype, one.value.shape, region[one.key]) for one in parameters)
    return Abi(
        version=1,
        memory_bytes=plan.memory_bytes,
        functions=tuple(_function(name, graph, plan.offsets[name]) for name, graph in functions.items()),
        parameters=Parameters(PARAMETERS_OFFSET, plan.parameters_nbytes, layout_hash(tensors), tensors),
    )


def layout_hash(tensors: tuple[Tensor, ...]) -> str:
    """SHA-256 (hex) of the JSON of the tensors: equal for every module that takes the same parameters."""
    return hashlib.sha256(msgspec.json.encode(tensors)).hexdigest()


def _function(name: str, graph: Graph, offsets: Mapping[str, int]) -> Function:
    def tensor(label: str, value: Value) -> Tensor:
        return Tensor(label, value.dtype, value.shape, offsets[value.name])

    single = len(graph.outputs) == 1
    return Function(
        name=name,
        inputs=tuple(tensor(one.name, one) for one in graph.inputs),
        outputs=tuple(
            tensor("output" if single else f"output_{i}", one) for i, one in enumerate(graph.outputs)
        ),
    )


def _offsets_by_key(
    functions: Mapping[str, Graph], plan: Plan, parameters: Iterable[Parameter]
) -> dict[str, int]:
    wanted = {one.key for one in parameters}
    return {
        one.key: plan.offsets[name][one.value.name]
        for name, graph in functions.items()
        for one in graph.parameters
        if one.key in wanted
    }


def _text(kernels: Iterable[Kernel], data: Iterable[str], calls: _Calls, memory_bytes: int) -> str:
    pages = memory_bytes // PAGE_BYTES
    exported = [
        line
        for name, body in calls.items()
        if body or name != PREPARE
        for line in (f'  (func (export "{name}")', *body, "  )")
    ]
    return "\n".join(
        (
            "(module",
            f'  (memory (export "memory") {pages} {pages})',
            *data,
            *(one.wat for one in kernels),
            *exported,
            ")",
        )
    )


def _kernels(graph: Graph) -> dict[str, Kernel | None]:
    """By the name of the node's result. Equal operations on equal shapes are written once."""
    found: dict[object, Kernel | None] = {}
    kernels = {}
    for node in graph.nodes:
        key = (node.op, tuple((one.shape, one.dtype) for one in (*node.operands, node.result)))
        if key not in found:
            found[key] = kernel_of(node)
        kernels[node.result.name] = found[key]
    return kernels


def _steps(
    functions: Mapping[str, Graph], kernels: Mapping[str, Mapping[str, Kernel | None]], hoist: bool
) -> list[_Step]:
    """The kernels in order, and who calls them."""
    found = []
    for name, graph in functions.items():
        early = derived(graph) if hoist else frozenset()
        for node in graph.nodes:
            kernel = kernels[name][node.result.name]
            if kernel is not None:
                target = PREPARE if node.result.name in early else name
                found.append(_Step(name, target, kernel, node))
    return found


def _shared(steps: Sequence[_Step]) -> tuple[list[Kernel], dict[str, Target]]:
    """The functions to write, and what to call in place of each kernel."""
    kernels = _with_helpers(one.kernel for one in steps)
    late = {one.kernel.name for one in steps if one.target != PREPARE}
    helpers = {helper.name for kernel in kernels for helper in kernel.helpers}
    early = {one.kernel.name for one in steps} - late - helpers
    return share(kernels, early, helpers)


def _with_helpers(kernels: Iterable[Kernel]) -> list[Kernel]:
    """Each kernel once, the functions that it calls before it."""
    found: dict[str, Kernel] = {}

    def add(kernel: Kernel) -> None:
        if kernel.name not in found:
            for helper in kernel.helpers:
                add(helper)
            found[kernel.name] = kernel

    for kernel in kernels:
        add(kernel)
    return list(found.values())


def _call(step: _Step, target: Target, offsets: Mapping[str, int]) -> str:
    numbers = [offsets[one.name] for one in (*step.node.operands, step.node.result)]
    if step.kernel.scratch_bytes:
        numbers.append(offsets[workspace(step.node)])
    return f"    (call ${target.name} {' '.join(map(const, (*numbers, *target.numbers)))})"


def _updates(graph: Graph, offsets: Mapping[str, int]) -> list[str]:
    """Copies of the new values that could not be computed in place."""
    pairs = [(offsets[one.parameter.name], offsets[one.new.name], one.new.nbytes) for one in graph.updates]
    return [
        f"    (memory.copy (i32.const {to}) (i32.const {at}) (i32.const {nbytes}))"
        for to, at, nbytes in pairs
        if to != at
    ]


def _data(functions: Mapping[str, Graph], plan: Plan) -> list[str]:
    """The constants. Memory starts as zeros and nobody writes to a constant: those of zeros need no bytes."""
    found: dict[int, str] = {}
    for name, graph in functions.items():
        for one in graph.constants:
            if not any(one.data):
                continue
            text = "".join(f"\\{byte:02x}" for byte in one.data)
            found[plan.offsets[name][one.value.name]] = text
    return [f'  (data (i32.const {at}) "{text}")' for at, text in found.items()]
