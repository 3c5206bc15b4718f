"""How one array is another with its axes in another order, and with axes of size one more or less.

    x [B, H, W, C]      permute to [B, C, H, W]       axes (0, 3, 1, 2)
    x [B, 1, L, C]      the signal [B, C, L]          axes (0, 3, 2): axis 1 of x, of size one, is left out
    x [B, C]            as an image [B, C, 1, 1]      axes (0, 1, None, None)

Permutations, squeezes and unsqueezes in a row are one arrangement, and a computation that does not care for
the order of axes can be done on x instead.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import prod

from cloud.compiler.ir import Shape, Value
from cloud.compiler.lowering.call import Builder


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Axis i of the array is axis ``axes[i]`` of ``source``, or a new one of size 1; the rest has size 1."""

    source: Value
    axes: tuple[int | None, ...]

    @property
    def shape(self) -> Shape:
        """Of the array that this stands for."""
        return tuple(1 if axis is None else self.source.shape[axis] for axis in self.axes)

    @property
    def is_plain(self) -> bool:
        """Whether it is the source itself."""
        return self.axes == tuple(range(len(self.source.shape)))

    @property
    def is_in_order(self) -> bool:
        """Whether the source's axes follow one another as they lie in memory."""
        real = [axis for axis in self.axes if axis is not None]
        return real == sorted(real)

    def permuted(self, axes: tuple[int, ...]) -> "Arrangement":
        """This, with its axes in another order."""
        return Arrangement(self.source, tuple(self.axes[axis] for axis in axes))

    def reshaped(self, to: Shape) -> "Arrangement | None":
        """This under another shape, if only axes of size one come and go."""
        mine = list(zip(self.axes, self.shape, strict=True))
        if [size for size in to if size != 1] != [size for _, size in mine if size != 1]:
            return None
        axes: list[int | None] = []
        for size in to:
            while size != 1 and mine[0][1] == 1:
                mine.pop(0)
            matched = bool(mine) and mine[0][1] == size
            axes.append(mine.pop(0)[0] if matched else None)
        return Arrangement(self.source, tuple(axes))

    def without(self, axes: tuple[int, ...], keepdims: bool) -> tuple[int | None, ...]:
        """The axes that are left of an array of this arrangement when some are reduced to one position."""
        return tuple(axis for at, axis in enumerate(self.axes) if keepdims or at not in axes)

    def realised(self, build: Builder) -> Value:
        """The array itself: a permutation where something moves, and a reshape."""
        kept = [axis for axis in self.axes if axis is not None]
        left_out = [axis for axis in range(len(self.source.shape)) if axis not in kept]
        order = [axis for axis in (*kept, *left_out) if self.source.shape[axis] != 1]
        if order == sorted(order):
            return build.reshape(self.source, self.shape)
        return build.reshape(build.permute(self.source, (*kept, *left_out)), self.shape)

    def brought_back(self, build: Builder, operand: Value) -> Value:
        """An operand that broadcasts to this array, so that it broadcasts to the source instead."""
        missing = len(self.axes) - len(operand.shape)
        there = {
            axis: at - missing for at, axis in enumerate(self.axes) if axis is not None and at >= missing
        }
        rank = len(self.source.shape)
        axes = tuple(there.get(axis) for axis in range(rank))
        found = Arrangement(operand, axes)
        while len(found.axes) > 1 and found.shape[0] == 1:
            found = Arrangement(operand, found.axes[1:])
        return found.realised(build)


def plain(value: Value) -> Arrangement:
    """A value as its own source."""
    return Arrangement(value, tuple(range(len(value.shape))))


def regrouped(made: Arrangement, to: Shape) -> tuple[Shape, tuple[int, ...]] | None:
    """A reshape that splits and joins axes, done on the source: its shape there, and the order that results.

    None when it joins axes that are no neighbours in the source.
    """
    pieces: list[tuple[int, Shape, list[int]]] = []  # first axis of the source, sizes, places in the result
    taken = 0
    for inner, outer in _groups(made.shape, to):
        axes = [made.axes[at] for at in inner if made.shape[at] != 1]
        real = [axis for axis in axes if axis is not None]
        if any(not _neighbours(made.source.shape, x, y) for x, y in pairwise(real)):
            return None
        pieces.append((real[0] if real else -1, outer, list(range(taken, taken + len(outer)))))
        taken += len(outer)
    pieces.sort(key=lambda piece: piece[0])
    order = [at for _, _, places in pieces for at in places]
    shape = tuple(size for _, sizes, _ in pieces for size in sizes)
    return shape, tuple(order.index(at) for at in range(len(order)))


def _neighbours(shape: Shape, first: int, second: int) -> bool:
    return first < second and prod(shape[first + 1 : second]) == 1


def _groups(one: Shape, other: Shape) -> list[tuple[range, Shape]]:
    """The shortest runs of axes of both with equal products."""
    found: list[tuple[range, Shape]] = []
    i = j = 0
    while i < len(one) or j < len(other):
        start, begin = i, j
        i, j = min(i + 1, len(one)), min(j + 1, len(other))
        while (x := prod(one[start:i])) != (y := prod(other[begin:j])):
            i, j = (i + 1, j) if x < y else (i, j + 1)
        found.append((range(start, i), other[begin:j]))
    return found
