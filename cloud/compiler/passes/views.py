"""Where a permuted, reshaped or sliced array's numbers lie in the array that it came from.

    qkv [32, 3, 4, 16] -> permute(1, 2, 0, 3) -> slice 0 -> [4, 32, 16]:  offset 0, steps 16, 192, 1

An axis is a list of *parts*, (size, step), slowest first: merging axes strings their parts together,
splitting one cuts a part in two, so a reshape forth and back finds the steps that it started with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TypeAlias

from cloud.compiler.ir import Op, Shape
from cloud.compiler.ops.movement import Permute, Reshape, Slice, Strided

Part: TypeAlias = tuple[int, int]
Axis: TypeAlias = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class View:
    """Each axis's parts, and the number that the first element is of the array underneath."""

    axes: tuple[Axis, ...]
    offset: int = 0

    def strided(self) -> Strided | None:
        """One step for each axis; None if an axis has no single one."""
        if any(len(axis) != 1 for axis in self.axes):
            return None
        return Strided(
            tuple(size for ((size, _),) in self.axes), tuple(step for ((_, step),) in self.axes), self.offset
        )


def whole(shape: Shape) -> View:
    """An array itself."""
    steps = [prod(shape[index + 1 :]) for index in range(len(shape))]
    return View(tuple(((size, step),) for size, step in zip(shape, steps, strict=True)))


def through(view: View, op: Op) -> View | None:
    """What ``op`` makes of a view; None where that is no view."""
    match op:
        case Permute(axes):
            return replace(view, axes=tuple(view.axes[axis] for axis in axes))
        case Reshape(to):
            return _reshaped(view, to)
        case Slice(axis, start, stop, step):
            return _sliced(view, axis, range(start, stop, step))
        case _:
            return None


def _sliced(view: View, axis: int, positions: range) -> View | None:
    if len(view.axes[axis]) != 1:
        return None
    ((_, step),) = view.axes[axis]
    taken: Axis = ((len(positions), step * positions.step),)
    axes = (*view.axes[:axis], taken, *view.axes[axis + 1 :])
    return View(axes, view.offset + positions.start * step)


def _reshaped(view: View, to: Shape) -> View | None:
    """All parts in a row, cut anew from the fastest on."""
    parts = [part for axis in view.axes for part in axis if part[0] != 1]
    axes: list[Axis] = []
    for size in reversed(to):
        axis: list[Part] = []
        left = size
        while left > 1:
            have, step = parts.pop()
            if left % have == 0:
                axis.insert(0, (have, step))
                left //= have
            elif have % left == 0:
                axis.insert(0, (left, step))
                parts.append((have // left, step * left))
                left = 1
            else:
                return None
        axes.append(_joined(axis))
    return View(tuple(reversed(axes)), view.offset)


def _joined(axis: Sequence[Part]) -> Axis:
    """Parts that continue each other are one."""
    found: list[Part] = []
    for size, step in axis:
        if found and found[-1][1] == size * step:
            found[-1] = (found[-1][0] * size, step)
        else:
            found.append((size, step))
    return tuple(found) or ((1, 0),)
