"""Operators without a lowering of their own, in the pieces that torch itself knows.

``torch.export`` has tables of what most operators of ATen consist of (``grid_sample`` of floors, weights and
lookups; ``cross_entropy_loss`` of a logarithm of softmax and a sum). What the compiler has a lowering for
stays whole, as does what it gives advice about; the rest is taken apart, and what comes out of that again, as
long as there is something to take apart.
"""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch._decomp import decomposition_table
from torch.export import ExportedProgram, default_decompositions

from cloud.compiler.lowering import is_known

DEPTH_MAX = 8
# Other tables of torch's have more, in pieces of ATen or of a language of their own (prims).
_OF_ATEN = "torch._decomp"


def in_pieces(program: ExportedProgram) -> ExportedProgram:
    """The program without those operators that the compiler doesn't know and torch can take apart."""
    for _ in range(DEPTH_MAX):
        wanted = pieces_of(program.graph)
        if not wanted:
            break
        program = program.run_decompositions(wanted)
    return program


def pieces_of(graph: torch.fx.Graph, known: Collection[Any] = ()) -> dict[Any, Callable[..., Any]]:
    """Of each operator without a lowering, and not among those known already, what it consists of."""
    calls = (one.target for one in graph.nodes if one.op == "call_function")
    unknown = {one for one in calls if one not in known and not is_known(str(one))}
    if not unknown:
        return {}
    table = default_decompositions()
    found = {one: table[one] if one in table else decomposition_table.get(one) for one in unknown}
    return {
        one: pieces
        for one, pieces in found.items()
        if pieces is not None and (one in table or pieces.__module__.startswith(_OF_ATEN))
    }
