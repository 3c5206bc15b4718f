"""Convolution in ATen."""

from collections.abc import Mapping

from cloud.compiler.ir import Value
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering
from cloud.compiler.lowering.convolution import (
    Convolution,
    biased,
    convolve,
    from_image,
    padded,
    to_image,
)
from cloud.compiler.lowering.transposed import transposed
from cloud.compiler.lowering.volume import conv3d

__all__ = ["LOWERINGS", "from_image", "to_image"]


def _forward(aten: AtenCall, build: Builder) -> Value:
    """``conv2d(x, w, bias, stride, padding, dilation, groups)``."""
    return _convolved(Convolution(aten, build, ("stride", "padding", "dilation", "groups")))


def _volume(aten: AtenCall, build: Builder) -> Value:
    """``conv3d(x, w, bias, stride, padding, dilation, groups)``."""
    return conv3d(aten, build, _forward)


def _backward(aten: AtenCall, build: Builder) -> Value:
    """``conv_transpose2d(x, w, bias, stride, padding, output_padding, groups, dilation)``."""
    c = Convolution(aten, build, ("stride", "padding", "output_padding", "groups", "dilation"))
    return c.result(transposed(c))


def _either(aten: AtenCall, build: Builder) -> Value:
    """``convolution(x, w, bias, stride, padding, dilation, transposed, output_padding, groups)``."""
    names = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
    c = Convolution(aten, build, names)
    return c.result(transposed(c)) if c.transposed else _convolved(c)


def _convolved(c: Convolution) -> Value:
    x = padded(c.build, c.x, c.border)
    y = convolve(c.build, x, c.w, c.stride, c.dilation, c.groups)
    return c.result(biased(c.build, y, c.bias))


LOWERINGS: Mapping[str, Lowering] = {
    "conv1d": _forward,
    "conv2d": _forward,
    "conv3d": _volume,
    "conv_transpose1d": _backward,
    "conv_transpose2d": _backward,
    "convolution": _either,
}
