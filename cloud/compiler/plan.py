"""The memory plan: a fixed address for every value, chosen before any code is written.

    | 0..64 zero | parameters | states | constants | derived | arena: inputs, values that share by lifetime |
                                                              └ one arena for each function, all at one place

Parameters come first, so that modules of different batch sizes agree on where they are. *Derived* values
depend on parameters and constants only (a weight in another layout, a folded batch norm): the function
``prepare`` computes them once after the parameters have changed, and they last.

A value of the arena lives from the node that defines it to the last node that reads it; two values may share
bytes when they never live at the same time. Inputs live throughout, so that a second run without new inputs
gives the same answer; outputs live to the end. A reshape has the address of what it reshapes, and extends its
life; the new value of a parameter takes the parameter's own address where it may be overwritten so early.
Placement is greedy by size (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference",
2020): the largest value first, each at the lowest offset that is free for its whole life. The first 64 bytes
stay zero: kernels load their never-true flag from there.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cloud.compiler.errors import CompileError
from cloud.compiler.ir import Graph, Node, Parameter, Value
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.movement import Reshape
from cloud.compiler.ops.pointwise import Pointwise

ALIGNMENT_BYTES = 64
PAGE_BYTES = 65536
MEMORY_BYTES_MAX = 1 << 31  # addresses stay positive as i32 constants
PARAMETERS_OFFSET = ALIGNMENT_BYTES
# Kernels may read, never write, so far beyond the end of an array: whole vectors at its edge.
MARGIN_BYTES = 64
OWN_OPERANDS = 2  # of a product; the others belong to its epilogue, which goes element by element


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
    """Where everything is, in bytes from the start of linear memory.

    ``offsets``: function -> value name -> offset; a kernel's workspace is under ``workspace(node)``.
    """

    offsets: Mapping[str, Mapping[str, int]]
    parameters: tuple[Parameter, ...]
    parameters_nbytes: int
    memory_bytes: int


@dataclass(slots=True)
class _Stack:
    """Regions one after another, each aligned."""

    top: int
    offsets: dict[str, int] = field(default_factory=dict)

    def push(self, key: str, nbytes: int) -> int:
        if key not in self.offsets:
            self.offsets[key] = self.top
            self.top = aligned(self.top + nbytes)
        return self.offsets[key]


def workspace(node: Node) -> str:
    """The name under which a plan keeps the workspace of this node's kernel."""
    return f"{node.result.name}/workspace"


def derived(graph: Graph) -> frozenset[str]:
    """Names of the values that depend on parameters and constants only, and on no parameter it updates."""
    changing = {one.parameter.name for one in graph.updates}
    known = {one.name for one in graph.fixed()} - changing
    names = set()
    for node in graph.nodes:
        if all(one.name in known for one in node.operands):
            known.add(node.result.name)
            names.add(node.result.name)
    return frozenset(names)


def plan_memory(functions: Mapping[str, Graph], workspaces: Mapping[str, int], *, hoist: bool = True) -> Plan:
    """Place every value. ``workspaces``: bytes by :func:`workspace`; ``hoist``: a ``prepare`` will be called.

    Raises :class:`CompileError` for a model over 2 GiB.
    """
    stack = _Stack(PARAMETERS_OFFSET)
    parameters = _by_key(one for graph in functions.values() for one in graph.parameters)
    for parameter in parameters:
        stack.push(f"parameter {parameter.key}", parameter.value.nbytes)
    parameters_end = stack.top
    offsets = {name: _lasting(graph, stack, name, hoist) for name, graph in functions.items()}
    top = arena = stack.top
    for name, graph in functions.items():
        placed, size = place([*lifetimes(graph, workspaces, offsets[name])])
        offsets[name] |= {one: arena + offset for one, offset in placed.items()}
        _resolve(graph, offsets[name])
        top = max(top, arena + size)
    memory_bytes = -(-(top + MARGIN_BYTES) // PAGE_BYTES) * PAGE_BYTES
    if memory_bytes > MEMORY_BYTES_MAX:
        raise CompileError(f"the model needs {memory_bytes} bytes of memory; a module has {MEMORY_BYTES_MAX}")
    return Plan(offsets, parameters, parameters_end - PARAMETERS_OFFSET, memory_bytes)


def aliases(graph: Graph) -> dict[str, str]:
    """Name of each value that has no bytes of its own -> name of the value whose bytes it is."""
    roots: dict[str, str] = {}
    for node in graph.nodes:
        if isinstance(node.op, Reshape):
            source = node.operands[0].name
            roots[node.result.name] = roots.get(source, source)
    for new, parameter in _in_place(graph, roots):
        roots[new] = parameter
    return roots


def lifetimes(graph: Graph, workspaces: Mapping[str, int], lasting: Mapping[str, int]) -> list[Lifetime]:
    """When each value of the arena is needed. Step i is node i; what is lasting or an alias is not here."""
    end = len(graph.nodes)
    roots = aliases(graph)
    last: dict[str, int] = {}
    for step, node in enumerate(graph.nodes):
        last |= {roots.get(one.name, one.name): step for one in (*node.operands, node.result)}
    last |= {roots.get(one.name, one.name): end for one in graph.kept()}
    found = [Lifetime(one.name, one.nbytes, 0, end) for one in graph.inputs]
    for step, node in enumerate(graph.nodes):
        name = node.result.name
        if name not in roots and name not in lasting:
            found.append(Lifetime(name, node.result.nbytes, step, last[name]))
        if needed := workspaces.get(workspace(node), 0):
            # A derived value is computed by prepare, before everything.
            found.append(Lifetime(workspace(node), needed, *((0, 0) if name in lasting else (step, step))))
    return found


def place(values: Sequence[Lifetime]) -> tuple[dict[str, int], int]:
    """Offsets from 0, and the bytes used. Values whose lives meet never share a byte."""
    offsets: dict[str, int] = {}
    placed: list[Lifetime] = []
    for value in sorted(values, key=lambda one: -one.nbytes):  # stable: equal sizes keep the graph's order
        neighbours = sorted((offsets[one.name], one.nbytes) for one in placed if one.meets(value))
        offsets[value.name] = _lowest_gap(neighbours, value.nbytes)
        placed.append(value)
    return offsets, max((offsets[one.name] + one.nbytes for one in placed), default=0)


def aligned(offset: int) -> int:
    """The next multiple of the alignment."""
    return -(-offset // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _lasting(graph: Graph, stack: _Stack, function: str, hoist: bool) -> dict[str, int]:
    """Offsets of what outlives a call: parameters and states by key, constants by content, derived values."""
    found = {one.value.name: stack.push(f"parameter {one.key}", one.value.nbytes) for one in graph.parameters}
    found |= {one.value.name: stack.push(f"state {one.key}", one.value.nbytes) for one in graph.states}
    for constant in graph.constants:
        key = f"constant {constant.value.dtype}{constant.value.shape} {constant.data.hex()}"
        found[constant.value.name] = stack.push(key, constant.value.nbytes)
    if hoist:
        roots, names = aliases(graph), derived(graph)
        for node in graph.nodes:
            name = node.result.name
            if name in names and name not in roots:
                found[name] = stack.push(f"{function} {name}", node.result.nbytes)
    return found


def _resolve(graph: Graph, offsets: dict[str, int]) -> None:
    roots = aliases(graph)
    for name in roots:
        root = name
        while root in roots:
            root = roots[root]
        offsets[name] = offsets[root]


def _in_place(graph: Graph, roots: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Updates that may be written over the parameter: its last reader computes them, element by element."""
    makers: dict[str, tuple[int, Node]] = {
        node.result.name: (step, node) for step, node in enumerate(graph.nodes)
    }
    reading: dict[str, int] = {}
    for step, node in enumerate(graph.nodes):
        reading |= {roots.get(one.name, one.name): step for one in node.operands}
    reading |= {roots.get(one.name, one.name): len(graph.nodes) for one in graph.kept()}
    news = [one.new.name for one in graph.updates]
    outputs = {one.name for one in graph.outputs}
    for update in graph.updates:
        if update.new.name not in makers:
            continue
        step, node = makers[update.new.name]
        alone = update.new.name not in outputs and news.count(update.new.name) == 1
        last = reading.get(update.parameter.name, -1) <= step
        if alone and last and _goes_element_by_element(node, update.parameter):
            yield update.new.name, update.parameter.name


def _goes_element_by_element(node: Node, parameter: Value) -> bool:
    """Whether each element of the parameter is read for, and before, the element that takes its place."""
    whole = OWN_OPERANDS if isinstance(node.op, MatMul) else 0
    if not isinstance(node.op, Pointwise | MatMul) or parameter in node.operands[:whole]:
        return False
    return all(one.shape == node.result.shape for one in node.operands if one == parameter)


def _by_key(parameters: Iterable[Parameter]) -> tuple[Parameter, ...]:
    return tuple({one.key: one for one in parameters}.values())


def _lowest_gap(taken: Iterable[tuple[int, int]], nbytes: int) -> int:
    """The lowest aligned offset with room between (offset, size) pairs in rising order."""
    at = 0
    for offset, size in taken:
        if at + nbytes <= offset:
            break
        at = max(at, aligned(offset + size))
    return at


def offsets_of(values: Iterable[Value], offsets: Mapping[str, int]) -> list[int]:
    """Addresses in order."""
    return [offsets[one.name] for one in values]
