"""The memory plan: a fixed address for every value, chosen before any code is written.

    | 0..64 zero | parameters, each 64-byte aligned | inputs, values that share by lifetime | -> whole pages

A value lives from the node that defines it to the last node that reads it; two values may share bytes when
they never live at the same time. Inputs live throughout, so that a second run without new inputs gives the
same answer; outputs live to the end. A reshape has the address of what it reshapes, and extends its life.
Placement is greedy by size (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference",
2020): the largest value first, each at the lowest offset that is free for its whole life. The first 64 bytes
stay zero: kernels load their never-true flag from there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cloud.compiler.errors import CompileError
from cloud.compiler.ir import Graph, Value
from cloud.compiler.ops import Reshape

ALIGNMENT_BYTES = 64
PAGE_BYTES = 65536
MEMORY_BYTES_MAX = 1 << 31  # addresses stay positive as i32 constants
PARAMETERS_OFFSET = ALIGNMENT_BYTES


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Bytes that are needed from step ``first`` to step ``last``, both included."""

    name: str
    nbytes: int
    first: int
    last: int

    def meets(self, other: "Lifetime") -> bool:
        """Whether both are alive at some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class Plan:
    """``offsets``: value name -> byte offset in linear memory. ``memory_bytes``: whole pages."""

    offsets: Mapping[str, int]
    parameters_nbytes: int
    memory_bytes: int


def plan_memory(graph: Graph) -> Plan:
    """Place every value. Raises :class:`CompileError` for a model over 2 GiB."""
    offsets, arena = _stack((one.value for one in graph.parameters), PARAMETERS_OFFSET)
    placed, top = place(lifetimes(graph))
    offsets |= {name: arena + offset for name, offset in placed.items()}
    for name, root in aliases(graph).items():
        offsets[name] = offsets[root]
    memory_bytes = -(-(arena + top) // PAGE_BYTES) * PAGE_BYTES
    if memory_bytes > MEMORY_BYTES_MAX:
        raise CompileError(f"the model needs {memory_bytes} bytes of memory; a module has {MEMORY_BYTES_MAX}")
    return Plan(offsets, arena - PARAMETERS_OFFSET, memory_bytes)


def aliases(graph: Graph) -> dict[str, str]:
    """Name of each reshaped value -> name of the value whose bytes it is."""
    roots: dict[str, str] = {}
    for node in graph.nodes:
        if isinstance(node.op, Reshape):
            source = node.operands[0].name
            roots[node.result.name] = roots.get(source, source)
    return roots


def lifetimes(graph: Graph) -> list[Lifetime]:
    """When each value of the arena is needed. Step i is node i; parameters and reshapes are not here."""
    end = len(graph.nodes)
    roots = aliases(graph)
    last: dict[str, int] = {}
    for step, node in enumerate(graph.nodes):
        last |= {roots.get(one.name, one.name): step for one in (*node.operands, node.result)}
    last |= {roots.get(one.name, one.name): end for one in graph.outputs}
    inputs = [Lifetime(one.name, one.nbytes, 0, end) for one in graph.inputs]
    made = [
        Lifetime(node.result.name, node.result.nbytes, step, last[node.result.name])
        for step, node in enumerate(graph.nodes)
        if node.result.name not in roots
    ]
    return inputs + made


def place(values: Sequence[Lifetime]) -> tuple[dict[str, int], int]:
    """Offsets from 0, and the bytes used. Values whose lives meet never share a byte."""
    offsets: dict[str, int] = {}
    placed: list[Lifetime] = []
    for value in sorted(values, key=lambda one: -one.nbytes):  # stable: equal sizes keep the graph's order
        neighbours = sorted((offsets[one.name], one.nbytes) for one in placed if one.meets(value))
        offsets[value.name] = _lowest_gap(neighbours, value.nbytes)
        placed.append(value)
    return offsets, max((offsets[one.name] + one.nbytes for one in placed), default=0)


def _lowest_gap(taken: Iterable[tuple[int, int]], nbytes: int) -> int:
    """The lowest aligned offset with room between (offset, size) pairs in rising order."""
    at = 0
    for offset, size in taken:
        if at + nbytes <= offset:
            break
        at = max(at, _aligned(offset + size))
    return at


def _stack(values: Iterable[Value], start: int) -> tuple[dict[str, int], int]:
    """One after another from ``start``; also the aligned end."""
    offsets = {}
    for value in values:
        offsets[value.name] = start
        start = _aligned(start + value.nbytes)
    return offsets, start


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
