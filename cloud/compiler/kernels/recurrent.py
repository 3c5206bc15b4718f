"""The loop of a recurrent layer. Each step is some kernels:

    product    z [B, G*H] = h @ w_hh.T + b_hh         the kernel of any matrix product of this shape
    gates      z = function(x of this step + z)       gates with a function of their own, 4 at a time
    units      h, c, y = unit(x, z, h, c)             4 units at a time

z and h live in the workspace, dense whatever the layout of the result, so that the product is an ordinary
one; c lives where the result keeps its last value. The cells overwrite h in place, and copy it to y.

Why apart: a processor overlaps neighbouring turns of a loop only as far as it can look ahead. The chain of a
unit (exp and division of a gate, then those of tanh; some 170 cycles, one operation after another) is too
long for that, and behind the tile of a product it is worse. Short loops of short chains overlap: the cells of
a GRU take two thirds of the time that they take in one loop (64 units, batch 1, Zen 4).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from cloud.compiler.expr import Arg, Expr, Fn, call
from cloud.compiler.ir import Node, Value
from cloud.compiler.kernels import maths
from cloud.compiler.kernels.contract import EMITTERS as PRODUCTS
from cloud.compiler.kernels.expression import helpers, vector
from cloud.compiler.kernels.vector import LANES, load, store
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.recurrent import CELLS, Cell, Recurrent
from cloud.compiler.plan import aligned
from cloud.compiler.wat import Function, Kernel, const, get

ITEM_BYTES = 4
TURN = 4  # vectors
# Gates and states count beside one; a cell waits for each function, and these have shorter chains.
_SPECIAL = {Fn.SIGMOID: maths.gate, Fn.TANH: maths.gate_tanh}
_BIASED = MatMul(epilogue=call(Fn.ADD, Arg(0), Arg(1)))


@dataclass(frozen=True, slots=True)
class _Layer:
    """The shape of one loop. ``rows``: of the batch."""

    kind: str
    steps: int
    rows: int
    hidden: int
    batch_first: bool
    reverse: bool

    @property
    def cell(self) -> Cell:
        return CELLS[self.kind]

    @property
    def state_bytes(self) -> int:
        """One h, or one c."""
        return self.rows * self.hidden * ITEM_BYTES

    @property
    def z_bytes(self) -> int:
        return self.state_bytes * self.cell.gates

    @property
    def row_bytes(self) -> int:
        """From one row of the batch to the next, in the result."""
        return (self.steps if self.batch_first else 1) * self.hidden * ITEM_BYTES

    @property
    def step_bytes(self) -> int:
        """From one step to the next, in the result and in the order of time."""
        nbytes = (1 if self.batch_first else self.rows) * self.hidden * ITEM_BYTES
        return -nbytes if self.reverse else nbytes


def recurrent_kernel(node: Node) -> Kernel:
    """``<cell>_<steps>x<rows>x<hidden>(projected, w, b, h[, c], result, workspace)``."""
    layer = _layer(node)
    product, cells = _product(layer), _cells(layer)
    tail = "_batch_first" * layer.batch_first + "_reverse" * layer.reverse
    given = ("h_given", "c_given")[: layer.cell.states]
    f = Function(
        f"{layer.kind}_{layer.steps}x{layer.rows}x{layer.hidden}{tail}",
        ("x", "w", "b", *given, "y", "z"),
    )
    f.set("h", _past("z", aligned(layer.z_bytes)))
    f.set("c", _past("y", layer.steps * layer.state_bytes))
    for state in given:
        f.emit(f"(memory.copy {get(state[0])} {get(state)} {const(layer.state_bytes)})")
    if layer.reverse:
        f.advance("x", -(layer.steps - 1) * layer.step_bytes * layer.cell.gates)
        f.advance("y", -(layer.steps - 1) * layer.step_bytes)
    spare = _past("h", aligned(layer.state_bytes))
    with f.loop(layer.steps):
        scratch = (spare,) if product.scratch_bytes else ()
        f.emit(f"(call ${product.name} {' '.join((*map(get, ('h', 'w', 'b', 'z')), *scratch))})")
        f.emit(f"(call ${cells.name} {' '.join(map(get, ('x', 'z', 'h', 'c', 'y')))})")
        f.advance("x", layer.step_bytes * layer.cell.gates)
        f.advance("y", layer.step_bytes)
    needed = aligned(layer.z_bytes) + aligned(layer.state_bytes) + product.scratch_bytes
    return f.kernel(scratch_bytes=needed, helpers=(product, cells))


def _layer(node: Node) -> _Layer:
    op = node.op
    assert isinstance(op, Recurrent)
    first, second, _ = node.operands[0].shape
    steps, rows = (second, first) if op.batch_first else (first, second)
    return _Layer(op.cell, steps, rows, node.result.shape[-1], op.batch_first, op.reverse)


def _product(layer: _Layer) -> Kernel:
    """``(h, w, b, z[, workspace])``."""
    width = layer.hidden * layer.cell.gates
    operands = (
        Value("h", (layer.rows, layer.hidden)),
        Value("w", (width, layer.hidden)),
        Value("b", (width,)),
    )
    kernel = PRODUCTS[MatMul](Node(Value("z", (layer.rows, width)), _BIASED, operands))
    assert kernel is not None
    return kernel


def _cells(layer: _Layer) -> Kernel:
    """``<cell>_cells_<rows>x<hidden>(x, z, h, c, y)``: one step of every unit of every row."""
    apart = f"_{layer.row_bytes}_apart" if layer.rows > 1 and layer.batch_first else ""
    f = Function(f"{layer.kind}_cells_{layer.rows}x{layer.hidden}{apart}", ("x", "z", "h", "c", "y"))
    gap_bytes = layer.row_bytes - layer.hidden * ITEM_BYTES
    others = (layer.cell.gates - 1) * layer.hidden * ITEM_BYTES
    with f.loop(layer.rows):
        _gates(f, layer)
        for lanes in _vectors(f, layer.hidden):
            _units(f, layer, lanes)
        f.advance("x", others + gap_bytes * layer.cell.gates)
        f.advance("z", others)
        f.advance("y", gap_bytes)
    expressions = [one for one in (layer.cell.c, layer.cell.h) if one is not None]
    called = {one.name: one for expr in expressions for one in helpers(expr)}
    return f.kernel(helpers=tuple(called.values()))


def _vectors(f: Function, size: int) -> Iterator[int]:
    """Write the loop over ``size`` numbers, and what is left of them: gives the lanes of each.

    Several vectors a turn: each turn also asks whether the run is to be interrupted.
    """
    vectors, lanes = divmod(size, LANES)
    turns, rest = divmod(vectors, TURN)
    if turns:
        with f.loop(turns):
            for _ in range(TURN):
                yield LANES
    for _ in range(rest):
        yield LANES
    if lanes:
        yield lanes


def _gates(f: Function, layer: _Layer) -> None:
    """z = function(x + z) of one row; neighbouring gates with the same function are one loop."""
    start = 0
    for fn, several in groupby(layer.cell.functions):
        count = len(tuple(several)) * layer.hidden
        if fn is not None:
            for pointer in ("x", "z"):
                f.set(f"{pointer}_gate", _past(pointer, start * ITEM_BYTES))
            for lanes in _vectors(f, count):
                f.set("gate", f"(f32x4.add {load('x_gate', 0, lanes)} {load('z_gate', 0, lanes)})", "v128")
                f.set("gate", vector(f, call(fn, Arg(0)), [get("gate")], ["f32"], _SPECIAL), "v128")
                _store(f, "z_gate", "gate", lanes)
                for pointer in ("x", "z"):
                    f.advance(f"{pointer}_gate", lanes * ITEM_BYTES)
        start += count


def _units(f: Function, layer: _Layer, width: int) -> None:
    """``width`` units of one row; then the pointers move to the next units."""
    hidden_bytes = layer.hidden * ITEM_BYTES
    arguments = []
    for side in ("x", "z"):
        for gate, fn in enumerate(layer.cell.functions):
            arguments.append(f"{side}{gate}")
            if side == "z" or fn is None:
                f.set(arguments[-1], load(side, gate * hidden_bytes, width), "v128")
    for state in ("h", "c")[: layer.cell.states]:
        arguments.append(f"{state}_value")
        f.set(arguments[-1], load(state, 0, width), "v128")
    if layer.cell.unit_c is not None:
        _assign(f, "c", layer.cell.unit_c, arguments, width)
    _assign(f, "h", layer.cell.unit_h, arguments, width)
    _store(f, "y", "h_value", width)
    for pointer in ("x", "z", "h", "c", "y"):
        f.advance(pointer, width * ITEM_BYTES)


def _assign(f: Function, state: str, expr: Expr, arguments: list[str], width: int) -> None:
    value = vector(f, expr, [get(one) for one in arguments], ["f32"] * len(arguments), _SPECIAL)
    f.set(f"{state}_value", value, "v128")
    _store(f, state, f"{state}_value", width)


def _store(f: Function, pointer: str, value: str, width: int) -> None:
    for line in store(pointer, 0, value, width):
        f.emit(line)


def _past(pointer: str, nbytes: int) -> str:
    return f"(i32.add {get(pointer)} {const(nbytes)})"


EMITTERS: Mapping[type, Callable[[Node], Kernel | None]] = {Recurrent: recurrent_kernel}
