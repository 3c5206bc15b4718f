"""Graph -> graph: each pass keeps the meaning and makes the graph cheaper.

A pass is a plain function in a file of its own; :data:`PASSES` is the order they run in. Invariant, tested on
random graphs: for any inputs, :func:`cloud.compiler.ir.evaluate` before and after a pass agrees.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TypeAlias

from cloud.compiler.ir import Graph
from cloud.compiler.passes.batch_norm import fold_batch_norm
from cloud.compiler.passes.dead_code import remove_dead_code
from cloud.compiler.passes.duplicates import merge_duplicates
from cloud.compiler.passes.epilogues import fuse_epilogues
from cloud.compiler.passes.fuse_pointwise import fuse_pointwise
from cloud.compiler.passes.identities import remove_identities
from cloud.compiler.passes.layout import choose_layout
from cloud.compiler.passes.padding import fuse_padding
from cloud.compiler.passes.strides import absorb_strides
from cloud.compiler.passes.transposes import fuse_transposes
from cloud.compiler.passes.weights import lay_out_weights
from cloud.compiler.passes.winograd import use_winograd

Pass: TypeAlias = Callable[[Graph], Graph]


class Precision(StrEnum):
    """What a compiled model may trade.

    EXACT: each operation as written; the same bits on every processor, within 1e-6 of the true value (torch
    in float64) relative to the output's scale. FAST: also convolutions by Winograd's algorithms, which
    round more: within 5e-5.
    """

    EXACT = "exact"
    FAST = "fast"


PASSES: tuple[Pass, ...] = (
    remove_identities,
    choose_layout,
    remove_identities,
    merge_duplicates,
    fuse_transposes,
    remove_dead_code,  # a reader that nobody reads must not keep others from being fused
    fold_batch_norm,
    fuse_pointwise,
    fuse_epilogues,
    fuse_padding,
    absorb_strides,
    lay_out_weights,
    remove_dead_code,
)

FAST_PASSES: Mapping[Precision, tuple[Pass, ...]] = {
    Precision.EXACT: (),
    Precision.FAST: (use_winograd, remove_dead_code),
}


def optimise(graph: Graph, precision: Precision = Precision.EXACT, *, lasting: bool = True) -> Graph:
    """All passes in order; the invariants are checked after each.

    ``lasting``: parameters stay from run to run, so that laying them out anew is done once.
    """
    for one in (*PASSES, *FAST_PASSES[precision]):
        if lasting or one is not lay_out_weights:
            graph = one(graph)
            graph.check()
    return graph
