"""Windows over images: convolutions.

Images are NHWC, [batch, height, width, channels]; a signal has height 1.

A convolution reads no pixel outside its image: the zeros around it are a :class:`PadImage` in front, which a
pass turns into a ``halo`` of whoever computes the image. Weights come in the layout that the kernels read;
the lowering writes the permutations, which depend on parameters only and cost nothing at run time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from cloud.compiler.expr import Expr, dtype_of, evaluate
from cloud.compiler.ir import Array, Shape

LANES = 4  # numbers of a vector
PANEL = 8  # outputs whose weights lie side by side


@dataclass(frozen=True, slots=True)
class Border:
    """Pixels of zero around an image."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    @property
    def height(self) -> int:
        """Rows above and below."""
        return self.top + self.bottom

    @property
    def width(self) -> int:
        """Columns on both sides."""
        return self.left + self.right

    def around(self, image: Shape) -> Shape:
        """The shape of an image with this border."""
        batch, height, width, channels = image
        return (batch, height + self.height, width + self.width, channels)


NO_BORDER = Border()


@dataclass(frozen=True, slots=True)
class PadImage:
    """Zeros around an image, and between its rows and columns.

    ``spread``: distance of two neighbours in the result, 1 for no zeros between. A negative border cuts off.
    """

    border: Border
    spread: tuple[int, int] = (1, 1)

    def shape(self, *operands: Shape) -> Shape:
        """[B, top + spread * (H - 1) + 1 + bottom, .., C]. Raises ValueError when nothing would be left."""
        ((batch, height, width, channels),) = operands
        high, wide = self.spread[0] * (height - 1) + 1, self.spread[1] * (width - 1) + 1
        shape = self.border.around((batch, high, wide, channels))
        if min(shape) < 1:
            raise ValueError(f"{self.border} leaves nothing of an image of {high} x {wide}")
        return shape

    def dtype(self, *operands: str) -> str:
        """Images are of f32."""
        return _f32(operands)

    def evaluate(self, *operands: Array) -> Array:
        """An array of zeros, and the image placed in it."""
        (x,) = operands
        y = np.zeros(self.shape(x.shape), x.dtype)
        rows = self.border.top + self.spread[0] * np.arange(x.shape[1])
        columns = self.border.left + self.spread[1] * np.arange(x.shape[2])
        row = np.flatnonzero((rows >= 0) & (rows < y.shape[1]))
        column = np.flatnonzero((columns >= 0) & (columns < y.shape[2]))
        y[:, rows[row][:, None], columns[column]] = x[:, row[:, None], column]
        return y


@dataclass(frozen=True, slots=True)
class Phases:
    """Pixels of a result that take turns: pixel ``rows * i + a`` of a column belongs to phase a.

    Each phase is a convolution of the same image with weights of its own; the windows of phase a begin
    ``down * a`` rows and ``right * a`` columns farther on. That is what a transposed convolution does.
    """

    rows: int = 1
    columns: int = 1
    down: int = 0
    right: int = 0

    @property
    def count(self) -> int:
        """Phases of a pixel of the image."""
        return self.rows * self.columns

    def seen(self, x: Shape) -> Shape:
        """What one phase sees of an image."""
        down, right = self.down * (self.rows - 1), self.right * (self.columns - 1)
        return (x[0], x[1] - down, x[2] - right, x[3])

    def interleaved(self, one: Callable[[Array, int], Array], x: Array) -> Array:
        """The result of all phases, where ``one`` computes that of an image and the index of a phase."""
        _, high, wide, _ = self.seen(x.shape)
        parts = []
        for index in range(self.count):
            top, left = index // self.columns * self.down, index % self.columns * self.right
            parts.append(one(x[:, top : top + high, left : left + wide], index))
        batch, height, width, channels = parts[0].shape
        y = np.stack(parts, axis=3).reshape(batch, height, width, self.rows, self.columns, channels)
        y = y.transpose(0, 1, 3, 2, 4, 5)
        return y.reshape(batch, height * self.rows, width * self.columns, channels)


ONE_PHASE = Phases()


@dataclass(frozen=True, slots=True)
class Conv:
    """``epilogue(x * w, extras...)``: x [B, H, W, C], w [G * P, kh, kw, C / G, 8] -> [B, OH, OW, outputs].

    w holds P panels of eight outputs for each of the G groups: output o of a group has its weights in panel
    o // 8, lane o % 8; lanes beyond the group's outputs are never looked at. With ``phases`` (and then one
    group, and no stride) it holds P panels for each phase.
    ``epilogue``: Arg(0) is the convolution, Arg(1).. are the extras, each broadcast to [B, OH, OW, outputs].
    ``halo``: zeros written around the result.
    """

    outputs: int
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    epilogue: Expr | None = None
    halo: Border = NO_BORDER
    phases: Phases = ONE_PHASE

    def shape(self, *operands: Shape) -> Shape:
        """[B, OH, OW, outputs], halo included. Raises ValueError when the operands do not fit together."""
        x, w, *extras = operands
        panels = self.groups * self.phases.count * -(-self.outputs // self.groups // PANEL)
        if len(w) != 5 or (w[0], w[3] * self.groups, w[4]) != (panels, x[-1], PANEL):
            raise ValueError(f"conv: {operands} do not fit together")
        if self.phases != ONE_PHASE and (self.stride, self.groups) != ((1, 1), 1):
            raise ValueError(f"conv: {self} has phases, and a stride or groups")
        return self.halo.around(fitting(self._image(x, w), extras))

    def dtype(self, *operands: str) -> str:
        """Convolutions are of f32."""
        return convolved_dtype(self.epilogue, operands)

    def flops(self, *operands: Shape) -> int:
        """A multiply-add counts as two; the epilogue and padded lanes count nothing."""
        return 2 * prod(self._image(*operands[:2])) * prod(operands[1][1:4])

    def evaluate(self, *operands: Array) -> Array:
        """Windows times weights, then the epilogue."""
        x, w, *extras = operands
        parts = np.split(w, self.phases.count)
        y = self.phases.interleaved(lambda seen, index: self._windows(seen, parts[index]), x)
        return finished(y, self.epilogue, extras, self.halo)

    def _image(self, x: Shape, w: Shape) -> Shape:
        """The result without its halo."""
        seen, phases = self.phases.seen(x), self.phases
        batch, height, width, outputs = windowed(seen, w[1:3], self.stride, self.dilation, self.outputs)
        return (batch, height * phases.rows, width * phases.columns, outputs)

    def _windows(self, x: Array, w: Array) -> Array:
        """One phase."""
        kernel = w.shape[1:3]
        dense = np.moveaxis(w.reshape(self.groups, -1, *w.shape[1:]), -1, 2)  # [G, P, 8, kh, kw, C / G]
        dense = dense.reshape(self.groups, -1, *w.shape[1:4])[:, : self.outputs // self.groups]
        seen = windows(x, kernel, self.stride, self.dilation)
        seen = seen.reshape(*seen.shape[:3], self.groups, -1, *kernel)
        y: Array = np.einsum("bhwgcij,goijc->bhwgo", seen, dense, optimize=True)
        return y.reshape(*y.shape[:3], self.outputs)


@dataclass(frozen=True, slots=True)
class Depthwise:
    """Each channel by itself: x [B, H, W, C], w [kh, kw, C] -> [B, OH, OW, C]; the rest as in Conv."""

    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    epilogue: Expr | None = None
    halo: Border = NO_BORDER

    def shape(self, *operands: Shape) -> Shape:
        """[B, OH, OW, C], halo included. Raises ValueError when the operands do not fit together."""
        x, w, *extras = operands
        if len(w) != 3 or w[2] != x[-1]:
            raise ValueError(f"depthwise: {operands} do not fit together")
        image = windowed(x, w[:2], self.stride, self.dilation, x[-1])
        return self.halo.around(fitting(image, extras))

    def dtype(self, *operands: str) -> str:
        """Convolutions are of f32."""
        return convolved_dtype(self.epilogue, operands)

    def flops(self, *operands: Shape) -> int:
        """A multiply-add counts as two."""
        x, w = operands[:2]
        return 2 * prod(w[:2]) * prod(windowed(x, w[:2], self.stride, self.dilation, x[-1]))

    def evaluate(self, *operands: Array) -> Array:
        """Windows times weights, then the epilogue."""
        x, w, *extras = operands
        y = np.einsum("bhwcij,ijc->bhwc", windows(x, w.shape[:2], self.stride, self.dilation), w)
        return finished(y, self.epilogue, extras, self.halo)


def windowed(
    x: Shape, kernel: Shape, stride: tuple[int, int], dilation: tuple[int, int], channels: int
) -> Shape:
    """The shape of what a window makes of an image. Raises ValueError when it does not fit inside."""
    sizes = [
        (size - apart * (taps - 1) - 1) // step + 1
        for size, taps, step, apart in zip(x[1:3], kernel, stride, dilation, strict=True)
    ]
    if len(x) != 4 or min(sizes) < 1:
        raise ValueError(f"a window of {kernel} (dilation {dilation}) does not fit into an image {x}")
    return (x[0], *sizes, channels)


def windows(x: Array, kernel: Shape, stride: tuple[int, int], dilation: tuple[int, int]) -> Array:
    """[B, OH, OW, C, kh, kw]: what each window sees."""
    span = [apart * (taps - 1) + 1 for taps, apart in zip(kernel, dilation, strict=True)]
    seen = np.lib.stride_tricks.sliding_window_view(x, span, axis=(1, 2))
    return seen[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]


def fitting(image: Shape, extras: list[Shape]) -> Shape:
    """The image, if all extras broadcast to it. Raises ValueError."""
    if any(np.broadcast_shapes(image, one) != image for one in extras):
        raise ValueError(f"convolution: extras {extras} do not broadcast to {image}")
    return image


def _f32(operands: tuple[str, ...]) -> str:
    if set(operands) != {"f32"}:
        raise ValueError(f"an operation on images of {operands}")
    return "f32"


def convolved_dtype(epilogue: Expr | None, operands: tuple[str, ...]) -> str:
    """What an epilogue also reads may be a truth value."""
    result = dtype_of(epilogue, ("f32", *operands[2:])) if epilogue is not None else "f32"
    return _f32((*operands[:2], result))


def finished(y: Array, epilogue: Expr | None, extras: list[Array], halo: Border) -> Array:
    """The epilogue and the halo."""
    if epilogue is not None:
        y = np.broadcast_to(evaluate(epilogue, (y, *extras)), y.shape)
    return np.ascontiguousarray(np.pad(y, ((0, 0), (halo.top, halo.bottom), (halo.left, halo.right), (0, 0))))
