"""The kernel library: operation -> WebAssembly function, one table merged from the families.

An emitter is a function ``Node -> Kernel``; it may return None for an operation without code.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from cloud.compiler.ir import Node
from cloud.compiler.kernels import (
    contract,
    gradient,
    image,
    movement,
    order,
    pointwise,
    pool,
    recurrent,
    reduce,
)
from cloud.compiler.wat import Kernel
from shared.errors import LocalError

Emitter: TypeAlias = Callable[[Node], Kernel | None]

_FAMILIES = (pointwise, contract, reduce, order, image, pool, movement, recurrent, gradient)
EMITTERS: Mapping[type, Emitter] = {
    op: emitter for family in _FAMILIES for op, emitter in family.EMITTERS.items()
}


def kernel_of(node: Node) -> Kernel | None:
    """The kernel that computes a node from its operands' addresses and its own; None for a reshape."""
    emitter = EMITTERS.get(type(node.op))
    if emitter is None:
        raise LocalError(f"no kernel for {node.op} ({node.source})")
    return emitter(node)
