"""Transposed convolution: every input pixel adds the kernel, times itself, to its place in the result.

Result pixel s * q + r (stride s, phase r) sees taps r, r + s, r + 2s, .. of the pixels q, q - 1, q - 2, ..

    kernel of 4, stride 2        phase 0    w0 x[q] + w2 x[q - 1]
                                 phase 1    w1 x[q] + w3 x[q - 1]

so each phase is a small convolution of the image itself, without a multiplication by zero. With a stride of 2
one operation has all phases. Otherwise, and where a phase has so few outputs that they do not fill vectors,
they are one convolution with s * s times as many outputs, which are then interleaved.
"""

from cloud.compiler.ir import Value
from cloud.compiler.lowering.call import Builder
from cloud.compiler.lowering.convolution import Convolution, biased, convolve, padded, panels
from cloud.compiler.ops.image import LANES, Border, Conv, Phases
from cloud.compiler.ops.movement import Expand, Flip, Pad, Slice


def transposed(c: Convolution) -> Value:
    """[B, OH, OW, O]."""
    return _by_phases(c) if c.dilation == (1, 1) else _spread_out(c)


def _spread_out(c: Convolution) -> Value:
    """With dilation phases see different pixels: zeros between the pixels, and the kernel turned round."""
    build, (channels, lanes, *kernel) = c.build, c.w.shape
    w = build.reshape(c.w, (c.groups, channels // c.groups, lanes, *kernel))
    w = build.reshape(build.permute(w, (0, 2, 1, 3, 4)), (c.groups * lanes, channels // c.groups, *kernel))
    high, wide = c.reach[0] - c.border.top, c.reach[1] - c.border.left
    border = Border(high, high + c.output_padding[0], wide, wide + c.output_padding[1])
    x = padded(build, c.x, border, c.stride)
    y = convolve(build, x, build(Flip((2, 3)), w), (1, 1), c.dilation, c.groups)
    return biased(build, y, c.bias)


def _by_phases(c: Convolution) -> Value:
    """One convolution for all phases, whose result is cut by ``border.top`` rows, as torch's padding says."""
    build, (sy, sx) = c.build, c.stride
    w, phases = _phase_weights(c), _phases(c)
    (top, above), (left, before) = divmod(c.border.top, sy), divmod(c.border.left, sx)
    last = ((c.border.top + c.size[0] - 1) // sy, (c.border.left + c.size[1] - 1) // sx)
    taps = w.shape[2] - 1, w.shape[3] - 1
    border = Border(taps[0] - top, last[0] - c.x.shape[1] + 1, taps[1] - left, last[1] - c.x.shape[2] + 1)
    x = padded(build, c.x, border)
    if phases is not None:
        y = build(Conv(c.w.shape[1], phases=phases), x, panels(build, w, phases.count))
        return biased(build, y, c.bias)
    y = convolve(build, x, w, (1, 1), (1, 1), c.groups)
    y = _interleaved(c, biased(build, y, _phase_bias(c)))
    return _cut(build, _cut(build, y, 1, above, c.size[0]), 2, before, c.size[1])


def _phases(c: Convolution) -> Phases | None:
    """Where two phases an axis take turns without a rest, and fill vectors."""
    pairs = [*zip(c.stride, c.size, strict=True)]
    if c.groups > 1 or c.stride == (1, 1) or any(stride > 2 or size % stride for stride, size in pairs):
        return None
    shifts = [border % stride for border, stride in zip((c.border.top, c.border.left), c.stride, strict=True)]
    return Phases(*c.stride, *shifts) if c.w.shape[1] % LANES == 0 else None


def _turned(c: Convolution) -> tuple[int, ...]:
    """Axes of the weights along which the second phase comes first, for the first is cut off."""
    phases = _phases(c)
    if phases is None:
        return ()
    return tuple(axis for axis, shift in ((4, phases.down), (6, phases.right)) if shift)


def _phase_weights(c: Convolution) -> Value:
    """[C, O / groups, kh, kw] -> [groups * phases * O / groups, C / groups, taps, taps], last tap first."""
    build, (sy, sx), (channels, lanes, high, wide) = c.build, c.stride, c.w.shape
    my, mx = -(-high // sy), -(-wide // sx)
    w = c.w
    if (my * sy, mx * sx) != (high, wide):
        w = build(Pad((0,) * 4, (0, 0, my * sy - high, mx * sx - wide)), w)
    w = build.reshape(w, (c.groups, channels // c.groups, lanes, my, sy, mx, sx))
    w = build(Flip((3, 5, *_turned(c))), w)
    w = build.permute(w, (0, 4, 6, 2, 1, 3, 5))
    return build.reshape(w, (c.groups * sy * sx * lanes, channels // c.groups, my, mx))


def _phase_bias(c: Convolution) -> Value | None:
    """The bias of every output of every phase."""
    if c.bias is None:
        return None
    build, phases, lanes = c.build, c.stride[0] * c.stride[1], c.w.shape[1]
    bias = build.reshape(c.bias, (c.groups, 1, lanes))
    wide = build(Expand((c.groups, phases, lanes)), bias) if phases > 1 else bias
    return build.reshape(wide, (c.groups * phases * lanes,))


def _interleaved(c: Convolution, y: Value) -> Value:
    """[B, Q, R, groups * phases * (O / groups)] -> [B, Q * s, R * s, O]."""
    build, (sy, sx), lanes = c.build, c.stride, c.w.shape[1]
    batch, high, wide, _ = y.shape
    y = build.reshape(y, (batch, high, wide, c.groups, sy, sx, lanes))
    y = build.permute(y, (0, 1, 4, 2, 5, 3, 6))
    return build.reshape(y, (batch, high * sy, wide * sx, c.groups * lanes))


def _cut(build: Builder, y: Value, axis: int, start: int, size: int) -> Value:
    return y if y.shape[axis] == size else build(Slice(axis, start, start + size), y)
