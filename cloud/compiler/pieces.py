"""Operators without a lowering of their own, in the pieces that torch itself knows.

``torch.export`` has tables of what most operators of ATen consist of (``grid_sample`` of floors, weights and
lookups; ``cross_entropy_loss`` of a logarithm of softmax and a sum). What the compiler has a lowering for
stays whole, as does what it gives advice about; the rest is taken apart, and what comes out of that again, as
long as there is something to take apart.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._decomp import decomposition_table
from torch.export import ExportedProgram, default_decompositions

from cloud.compiler.lowering import is_known

DEPTH_MAX = 8
_aten = torch.ops.aten
# Those that the table of torch.export keeps whole, and other tables have in pieces of ATen.
_FURTHER = (
    _aten.grid_sampler_2d.default,
    _aten.grid_sampler_3d.default,
    _aten.unfold_backward.default,
)


def in_pieces(program: ExportedProgram) -> ExportedProgram:
    """The program without those operators that the compiler doesn't know and torch can take apart."""
    for _ in range(DEPTH_MAX):
        unknown = {one for one in _operators(program) if not is_known(str(one))}
        if not unknown:
            break
        table = _pieces()
        wanted = {one: table[one] for one in unknown if one in table}
        if not wanted:
            break
        program = program.run_decompositions(wanted)
    return program


def _operators(program: ExportedProgram) -> Iterator[Any]:
    return (one.target for one in program.graph.nodes if one.op == "call_function")


def _pieces() -> dict[Any, Callable[..., Any]]:
    table = default_decompositions()
    return {one: decomposition_table[one] for one in _FURTHER if one in decomposition_table} | {
        one: table[one] for one in table
    }
