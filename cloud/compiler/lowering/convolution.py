"""One call of a convolution operator: its settings in two dimensions, and the layouts around it.

NCHW becomes NHWC in front of each operation and NCHW again behind it: the layout pass makes the permutations
between two operations disappear, and those of weights depend on parameters only and are hoisted. A signal is
an image of height 1.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

from cloud.compiler.expr import Arg, Fn, call
from cloud.compiler.ir import Shape, Value
from cloud.compiler.lowering.call import AtenCall, Builder
from cloud.compiler.ops.image import NO_BORDER, PANEL, Border, Conv, Depthwise, PadImage
from cloud.compiler.ops.movement import Expand, Pad

Pair: TypeAlias = tuple[int, int]
TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


class Convolution:
    """Arguments of a call. Pairs are of height and width.

    ``w``: [O, C / groups, kh, kw]; of a transposed convolution [C, O / groups, kh, kw].
    """

    def __init__(self, aten: AtenCall, build: Builder, names: Sequence[str]) -> None:
        """``names``: of the arguments behind the bias, in order. Raises for three dimensions."""
        weight: Value = aten.argument(1, "weight")
        self.spatial = len(weight.shape) - 2
        if self.spatial > 2:
            raise aten.refuse("there are one and two dimensions, and conv3d forwards")
        given = {name: aten.argument(3 + at, name) for at, name in enumerate(names)}
        self.build = build
        self.w = build.reshape(weight, (*weight.shape[:2], *self._pair(weight.shape[2:], 1)))
        self.x = to_image(build, aten.argument(0, "input"), self.spatial)
        self.bias: Value | None = aten.argument(2, "bias")
        self.transposed = bool(given.get("transposed"))
        self.groups: int = given.get("groups") or 1
        self.stride = self._pair(given.get("stride"), 1)
        self.dilation = self._pair(given.get("dilation"), 1)
        self.output_padding = self._pair(given.get("output_padding"), 0)
        self.reach = _products(self.dilation, (self.w.shape[2] - 1, self.w.shape[3] - 1))
        self.border = self._border(given.get("padding"))
        self.shape = aten.shape
        self.size = self._pair(aten.shape[-self.spatial :], 1)

    def result(self, y: Value) -> Value:
        """[B, H, W, O] in torch's shape."""
        return from_image(self.build, y, self.shape)

    def _pair(self, argument: Any, default: int) -> Pair:
        """torch's None, number, list of one or of one for each axis. A signal has no height."""
        values = argument if isinstance(argument, tuple | list) else (argument,)
        high, wide = (default if one is None else int(one) for one in (values[0], values[-1]))
        return (high if self.spatial == 2 else default, wide)

    def _border(self, padding: Any) -> Border:
        """What torch's padding, in numbers or words, adds on each side."""
        if padding == "same":
            high, wide = self.reach
            return Border(high // 2, high - high // 2, wide // 2, wide - wide // 2)
        high, wide = self._pair(None if padding == "valid" else padding, 0)
        return Border(high, high, wide, wide)


def convolve(build: Builder, x: Value, w: Value, stride: Pair, dilation: Pair, groups: int = 1) -> Value:
    """x [B, H, W, C] and torch's w [O, C / groups, kh, kw] -> [B, OH, OW, O], without padding."""
    channels, outputs = x.shape[3], w.shape[0]
    if groups == channels > 1:
        kernel = build.permute(build.reshape(w, (outputs, *w.shape[2:])), (1, 2, 0))
        return build(Depthwise(stride, dilation), _repeated(build, x, outputs // channels), kernel)
    return build(Conv(outputs, stride, dilation, groups), x, panels(build, w, groups))


def padded(build: Builder, x: Value, border: Border, spread: Pair = (1, 1)) -> Value:
    """Zeros around an image and between its pixels, if there are any."""
    if border == NO_BORDER and spread == (1, 1):
        return x
    return build(PadImage(border, spread), x)


def biased(build: Builder, y: Value, bias: Value | None) -> Value:
    """A number for each channel, added."""
    return y if bias is None else build.pointwise(call(Fn.ADD, Arg(0), Arg(1)), y, bias)


def to_image(build: Builder, x: Value, spatial: int) -> Value:
    """[B, C, H, W], [B, C, L] or one item of either -> [B, H, W, C]."""
    batch = x.shape[:1] if len(x.shape) == spatial + 2 else (1,)
    channels, *sizes = x.shape[-spatial - 1 :]
    image = build.reshape(x, (*batch, channels, *[1] * (2 - spatial), *sizes))
    return build.permute(image, TO_NHWC)


def from_image(build: Builder, x: Value, shape: Shape) -> Value:
    """[B, H, W, C] -> torch's shape of the same."""
    return build.reshape(build.permute(x, TO_NCHW), shape)


def panels(build: Builder, w: Value, groups: int) -> Value:
    """Torch's weights in the layout of :class:`Conv`."""
    outputs, channels, height, width = w.shape
    lanes = outputs // groups
    missing = -lanes % PANEL
    grouped = build.reshape(w, (groups, lanes, channels, height, width))
    if missing:
        grouped = build(Pad((0,) * 5, (0, missing, 0, 0, 0)), grouped)
    count = (lanes + missing) // PANEL
    split = build.reshape(grouped, (groups * count, PANEL, channels, height, width))
    return build.permute(split, (0, 3, 4, 2, 1))


def _repeated(build: Builder, x: Value, times: int) -> Value:
    """Each channel several times, side by side."""
    if times == 1:
        return x
    *image, channels = x.shape
    wide = build(Expand((*image, channels, times)), build.reshape(x, (*image, channels, 1)))
    return build.reshape(wide, (*image, channels * times))


def _products(x: Pair, y: Pair) -> Pair:
    return (x[0] * y[0], x[1] * y[1])
