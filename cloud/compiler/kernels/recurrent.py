"""The loop of a recurrent layer. Each step is some kernels:

    product    z [B, G*H] = h @ w_hh.T + b_hh         the kernel of any matrix product of this shape
    cells      h, c, y = cell(x of this step, z, h, c)

z and h live in the workspace, dense whatever the layout of the result, so that the product is an ordinary
one; c lives where the result keeps its last value. The cells overwrite h in place, and copy it to y.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from cloud.compiler.expr import Arg, Fn, call
from cloud.compiler.ir import Node, Value
from cloud.compiler.kernels.cells import write_cells
from cloud.compiler.kernels.contract import product_kernel
from cloud.compiler.kernels.product import product_of
from cloud.compiler.ops.contract import MatMul, Skewed
from cloud.compiler.ops.recurrent import CELLS, Cell, Recurrent
from cloud.compiler.plan import aligned
from cloud.compiler.wat import Function, Kernel, const, get

ITEM_BYTES = 4
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
    skewed: bool

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
    tail = "_batch_first" * layer.batch_first + "_reverse" * layer.reverse + "_skewed" * layer.skewed
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
    return _Layer(op.cell, steps, rows, node.result.shape[-1], op.batch_first, op.reverse, op.skewed)


def _product(layer: _Layer) -> Kernel:
    """``(h, w, b, z[, workspace])``."""
    width = layer.hidden * layer.cell.gates
    weights = (width, layer.hidden)
    operands = (
        Value("h", (layer.rows, layer.hidden)),
        Value("w", Skewed().shape(weights) if layer.skewed else weights),
        Value("b", (width,)),
    )
    op = replace(_BIASED, skewed=width if layer.skewed else 0)
    product = product_of(Node(Value("z", (layer.rows, width)), op, operands))
    return product_kernel(replace(product, often=True))


def _cells(layer: _Layer) -> Kernel:
    """``<cell>_cells_<rows>x<hidden>(x, z, h, c, y)``: one step of every unit of every row."""
    apart = f"_{layer.row_bytes}_apart" if layer.rows > 1 and layer.batch_first else ""
    f = Function(f"{layer.kind}_cells_{layer.rows}x{layer.hidden}{apart}", ("x", "z", "h", "c", "y"))
    unit_bytes = layer.hidden * ITEM_BYTES
    steps = {
        "x": layer.row_bytes * layer.cell.gates,
        "z": unit_bytes * layer.cell.gates,
        "h": unit_bytes,
        "c": unit_bytes,
        "y": layer.row_bytes,
    }
    f.set("never", f"(i32.load {const(0)})")
    with f.loop(layer.rows):
        write_cells(f, layer.kind, layer.hidden)
        for pointer, nbytes in steps.items():
            f.advance(pointer, nbytes)
    return f.kernel()


def _past(pointer: str, nbytes: int) -> str:
    return f"(i32.add {get(pointer)} {const(nbytes)})"


EMITTERS: Mapping[type, Callable[[Node], Kernel | None]] = {Recurrent: recurrent_kernel}
