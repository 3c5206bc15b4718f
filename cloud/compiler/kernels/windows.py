"""What the kernels of convolutions share: where operands are, the border of zeros, the epilogue at the store.

Every array of a convolution is a pointer that moves along the axes batch, row, column and channel of the
result. A broadcast extra does not move along some of them, a stride makes the image move faster, and a halo
makes rows of the result farther apart: all of it is steps, so that there is one loop nest.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from cloud.compiler.expr import Arg, Expr
from cloud.compiler.ir import Node, Shape
from cloud.compiler.kernels.expression import vector
from cloud.compiler.kernels.loops import Axis, move
from cloud.compiler.kernels.vector import LANES, VECTOR_BYTES, ZERO, load, store
from cloud.compiler.ops.image import ONE_PHASE, Border, Conv, Depthwise, Phases
from cloud.compiler.ops.winograd import WinogradConv
from cloud.compiler.wat import Function, const, get

F32_BYTES = 4
IMAGE_AXES = ("batch", "row", "column", "channel")
AT_HOME: Mapping[str, str] = {}
LONG_FILL_BYTES = 512  # from here on memory.fill is faster than stores, its call included


@dataclass(frozen=True, slots=True)
class Window:
    """A convolution's operands. ``interior``: [B, OH, OW, channels] of a phase's result, without the halo."""

    x: Shape
    w: Shape
    extras: tuple[Shape, ...]
    extra_dtypes: tuple[str, ...]
    result: Shape
    interior: Shape
    stride: tuple[int, int]
    dilation: tuple[int, int]
    halo: Border
    epilogue: Expr
    phases: Phases = ONE_PHASE

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the addresses that the kernel takes."""
        return ("x", "w", *self.extra_names, "y")

    @property
    def extra_names(self) -> tuple[str, ...]:
        """Pointers to what the epilogue reads."""
        return tuple(f"e{index}" for index in range(len(self.extras)))

    def name(self, kind: str) -> str:
        """Sizes to read, and a digest of everything that the text depends on."""
        sizes = "x".join(map(str, self.interior))
        return f"{kind}_{sizes}_{hashlib.sha256(repr(self).encode()).hexdigest()[:8]}"

    def axes(self) -> dict[str, Axis]:
        """One phase's axes, with the steps of the image, the extras and the result."""
        batch, row, column, channel = strides(self.x)
        steps = {"x": (batch, row * self.stride[0], column * self.stride[1], channel)}
        for name, (batch, row, column, channel) in self._results().items():
            steps[name] = (batch, row * self.phases.rows, column * self.phases.columns, channel)
        return {
            name: Axis(size, {pointer: at[index] for pointer, at in steps.items()})
            for index, (name, size) in enumerate(zip(IMAGE_AXES, self.interior, strict=True))
        }

    def phase_axes(self, panels_bytes: int) -> dict[str, Axis]:
        """The axes ``above`` and ``beside`` over the phases. ``panels_bytes``: of the weights of one."""
        phases, results = self.phases, self._results()
        column = self.x[3] * F32_BYTES
        above = {"x": phases.down * self.x[2] * column, "w": phases.columns * panels_bytes}
        beside = {"x": phases.right * column, "w": panels_bytes}
        return {
            "above": Axis(phases.rows, {**above, **{name: at[1] for name, at in results.items()}}),
            "beside": Axis(phases.columns, {**beside, **{name: at[2] for name, at in results.items()}}),
        }

    def _results(self) -> dict[str, tuple[int, ...]]:
        """Bytes between neighbours of the result and of the extras."""
        return {
            "y": strides(self.result),
            **dict(zip(self.extra_names, map(strides, self.extras), strict=True)),
        }


def window_of(node: Node) -> Window:
    """The operands of a node of :class:`Conv`, :class:`Depthwise` or :class:`WinogradConv`."""
    op = node.op
    assert isinstance(op, Conv | Depthwise | WinogradConv)
    batch, height, width, channels = node.result.shape
    phases = ONE_PHASE if isinstance(op, Depthwise) else op.phases
    high, wide = (height - op.halo.height) // phases.rows, (width - op.halo.width) // phases.columns
    return Window(
        x=node.operands[0].shape,
        w=node.operands[1].shape,
        extras=tuple(one.shape for one in node.operands[2:]),
        extra_dtypes=tuple(one.dtype for one in node.operands[2:]),
        result=node.result.shape,
        interior=(batch, high, wide, channels),
        stride=op.stride,
        dilation=(1, 1) if isinstance(op, WinogradConv) else op.dilation,
        halo=op.halo,
        epilogue=op.epilogue if op.epilogue is not None else Arg(0),
        phases=phases,
    )


def strides(shape: Shape) -> tuple[int, ...]:
    """Bytes between neighbours along batch, row, column, channel; 0 along an axis that is broadcast."""
    padded = (1,) * (len(IMAGE_AXES) - len(shape)) + shape
    found, step = [], F32_BYTES
    for size in reversed(padded):
        found.append(step if size > 1 else 0)
        step *= size
    return tuple(reversed(found))


def flattened(axes: Mapping[str, Axis]) -> dict[str, Axis]:
    """Rows and batches that every pointer walks through without a jump become more columns."""
    axes = dict(axes)
    for outer in ("row", "batch"):
        steps, inner = axes[outer].steps, axes["column"]
        if axes[outer].size == 1:
            continue
        if inner.size > 1 and any(
            steps.get(one, 0) != step * inner.size for one, step in inner.steps.items()
        ):
            break
        axes["column"] = Axis(inner.size * axes[outer].size, inner.steps if inner.size > 1 else steps)
        axes[outer] = Axis(1, {})
    return axes


def write_border(f: Function, result: Shape, border: Border) -> None:
    """Zero the border of the image at ``y``, and move ``y`` to its first inner pixel.

    What is right of one row and left of the next is one run.
    """
    if border == Border():
        return
    batch, height, width, channels = result
    pixel = channels * F32_BYTES
    first = (border.top * width + border.left) * pixel
    last = (border.bottom * width + border.right) * pixel
    row = (width - border.width) * pixel
    rows = height - border.height
    f.set("edge", get("y"))
    with f.loop(batch):
        _zeros(f, first)
        f.advance("edge", row)
        if rows > 1:
            with f.loop(rows - 1):
                _zeros(f, border.width * pixel)
                f.advance("edge", row)
        _zeros(f, last)
    f.advance("y", first)


def finish(
    f: Function,
    window: Window,
    axes: Mapping[str, Axis],
    total: str,
    at: Mapping[str, int],
    lanes: int,
    places: Mapping[str, str] = AT_HOME,
) -> None:
    """The epilogue of four channels, stored. ``total``: the local with their sums.

    ``at``: how many positions along each axis from where the pointers are. ``lanes``: how many of the four
    channels exist. ``places``: locals that take the place of pointers.
    """
    args = [get(total)]
    for name, shape in zip(window.extra_names, window.extras, strict=True):
        pointer = places.get(name, name)
        f.set(f"{name}_value", _load_extra(pointer, _offset(axes, at, name), strides(shape)[-1]), "v128")
        args.append(get(f"{name}_value"))
    f.set("result", vector(f, window.epilogue, args, ("f32", *window.extra_dtypes)), "v128")
    for line in store(places.get("y", "y"), _offset(axes, at, "y"), "result", min(lanes, LANES)):
        f.emit(line)


def _offset(axes: Mapping[str, Axis], at: Mapping[str, int], pointer: str) -> int:
    return sum(axes[axis].steps.get(pointer, 0) * positions for axis, positions in at.items())


def tap_steps(window: Window) -> tuple[int, int]:
    """Bytes of the image from one row of the kernel to the next, and from one column to the next."""
    width, channels = window.x[2:]
    pixel = channels * F32_BYTES
    return window.dilation[0] * width * pixel, window.dilation[1] * pixel


def _load_extra(pointer: str, offset: int, channel_step: int) -> str:
    return load(pointer, offset) if channel_step else f"(v128.load32_splat offset={offset} {get(pointer)})"


def _zeros(f: Function, nbytes: int) -> None:
    """Zeros at ``edge``, which moves behind them."""
    if nbytes >= LONG_FILL_BYTES:
        f.emit(f"(memory.fill {get('edge')} {const(0)} {const(nbytes)})")
    else:
        f.set("zero", ZERO, "v128")
        vectors, rest = divmod(nbytes, VECTOR_BYTES)
        for index in range(vectors):
            f.emit(store("edge", index * VECTOR_BYTES, "zero")[0])
        if rest:
            for line in store("edge", vectors * VECTOR_BYTES, "zero", rest // F32_BYTES):
                f.emit(line)
    move(f, {"edge": nbytes})
