"""Graph -> WebAssembly module: plan the memory, pick a kernel for each node, write one straight-line ``run``.

    (func (export "run")
      (call $dot_1x64x128_bias_relu (i32.const x) (i32.const w) (i32.const b) (i32.const y))
      (call $dot_1x128x10_bias ...))

A kernel is a function of addresses, written for one set of shapes; nodes with equal shapes share it. The
module imports nothing and its memory never grows. Its bytes depend on shapes only: parameters are in memory,
not in code, and are copied there by whoever instantiates the module.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import msgspec
import wasmtime

from cloud.compiler.ir import Graph, Node, Value
from cloud.compiler.kernels.dot import Dot, dot_kernel
from cloud.compiler.kernels.elementwise import add_kernel, relu_kernel
from cloud.compiler.ops import Add, Linear, Relu, Reshape
from cloud.compiler.plan import PAGE_BYTES, PARAMETERS_OFFSET, Plan, plan_memory
from cloud.compiler.wat import Kernel
from shared.abi import Abi, Function, Parameters, Tensor, encode_section
from shared.errors import LocalError

Emitter: TypeAlias = Callable[[Node], Kernel | None]


@dataclass(frozen=True, slots=True)
class Module:
    """One WebAssembly module. ``wat``: what it was assembled from; ``binary`` also has the ABI section."""

    wat: str
    binary: bytes
    abi: Abi


def build_module(graph: Graph) -> Module:
    """Compile an optimised graph. The same graph gives the same bytes."""
    plan = plan_memory(graph)
    wat = _module_text(graph, plan)
    abi = _describe(graph, plan)
    return Module(wat, bytes(wasmtime.wat2wasm(wat)) + encode_section(abi), abi)


def kernel_of(node: Node) -> Kernel | None:
    """The kernel that computes a node from its operands' addresses and its own; None for a reshape."""
    emitter = EMITTERS.get(type(node.op))
    if emitter is None:
        raise LocalError(f"no kernel for {node.op} ({node.source}): a pass should have removed it")
    return emitter(node)


def _linear(node: Node) -> Kernel:
    if not isinstance(node.op, Linear):
        raise LocalError(f"{node.op} is no linear operation")
    _, w, *b = node.operands
    columns, depth = w.shape
    return dot_kernel(Dot(prod(node.result.shape) // columns, depth, columns, bool(b), node.op.activation))


def _relu(node: Node) -> Kernel:
    return relu_kernel(prod(node.result.shape))


def _add(node: Node) -> Kernel:
    columns = prod(node.operands[1].shape)
    return add_kernel(prod(node.result.shape) // columns, columns)


def _nothing(_node: Node) -> None:
    return None


EMITTERS: Mapping[type, Emitter] = {Add: _add, Linear: _linear, Relu: _relu, Reshape: _nothing}


def _module_text(graph: Graph, plan: Plan) -> str:
    kernels: dict[str, Kernel] = {}
    calls = []
    for node in graph.nodes:
        kernel = kernel_of(node)
        if kernel is not None:
            kernels[kernel.name] = kernel
            calls.append(_call(kernel, node, plan))
    pages = plan.memory_bytes // PAGE_BYTES
    return "\n".join(
        (
            "(module",
            f'  (memory (export "memory") {pages} {pages})',
            *(one.wat for one in kernels.values()),
            '  (func (export "run")',
            *calls,
            "  )",
            ")",
        )
    )


def _call(kernel: Kernel, node: Node, plan: Plan) -> str:
    addresses = (plan.offsets[one.name] for one in (*node.operands, node.result))
    return f"    (call ${kernel.name} {' '.join(f'(i32.const {one})' for one in addresses)})"


def _describe(graph: Graph, plan: Plan) -> Abi:
    def tensor(name: str, value: Value) -> Tensor:
        return Tensor(name, value.dtype, value.shape, plan.offsets[value.name])

    single = len(graph.outputs) == 1
    run = Function(
        name="run",
        inputs=tuple(tensor(one.name, one) for one in graph.inputs),
        outputs=tuple(
            tensor("output" if single else f"output_{i}", one) for i, one in enumerate(graph.outputs)
        ),
    )
    tensors = tuple(tensor(one.key, one.value) for one in graph.parameters)
    parameters = Parameters(PARAMETERS_OFFSET, plan.parameters_nbytes, layout_hash(tensors), tensors)
    return Abi(version=1, memory_bytes=plan.memory_bytes, functions=(run,), parameters=parameters)


def layout_hash(tensors: tuple[Tensor, ...]) -> str:
    """SHA-256 (hex) of the JSON of the tensors: equal for every module that takes the same parameters."""
    return hashlib.sha256(msgspec.json.encode(tensors)).hexdigest()
