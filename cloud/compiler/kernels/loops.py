"""Loop nests over arrays that are walked through by pointers.

An axis has a size, and a step in bytes for each pointer that moves along it. An order names the axes from the
outermost loop to the innermost, each with the number of positions that go together: the same axis twice is a
loop over blocks and one inside the block.

    (("row", 4), ("channel", 8), ("row", 1), ("column", 4))     4 rows of the image, 8 channels, row by row,
                                                                4 columns: the leaf gets a tile of 4 x 8

Pointers are bumped in place, and moved back where a loop is done; what is left over at the end of an axis
gets a leaf of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cloud.compiler.wat import Function

Steps: TypeAlias = Mapping[str, int]
Leaf: TypeAlias = Callable[[Mapping[str, int]], None]


@dataclass(frozen=True, slots=True)
class Axis:
    """``steps``: pointer -> bytes from one position to the next; one that stands still may be missing."""

    size: int
    steps: Steps


def nest(f: Function, axes: Mapping[str, Axis], order: Sequence[tuple[str, int]], leaf: Leaf) -> Steps:
    """Write the loops. ``leaf`` is told how many positions of each axis to do, and leaves the pointers.

    Returns how far the pointers have moved in the end.
    """
    return _nest(f, axes, order, leaf, {name: axis.size for name, axis in axes.items()})


def move(f: Function, steps: Steps) -> None:
    """Bump several pointers; a step of zero is no instruction."""
    for pointer, nbytes in steps.items():
        if nbytes:
            f.advance(pointer, nbytes)


def even_block(size: int, wanted: int) -> int:
    """The largest divisor up to ``wanted``: no odd block, no second copy of the code.

    If it is small, everything where that is not much more, else what was wanted.
    """
    found = max(one for one in range(1, min(size, wanted) + 1) if size % one == 0)
    if 2 * found >= min(size, wanted):
        return found
    return size if 2 * size <= 3 * wanted else wanted


def _nest(
    f: Function,
    axes: Mapping[str, Axis],
    order: Sequence[tuple[str, int]],
    leaf: Leaf,
    sizes: Mapping[str, int],
) -> Steps:
    if not order:
        leaf(sizes)
        return {}
    (name, block), *inner = order
    steps = axes[name].steps
    whole, rest = divmod(sizes[name], block)
    moved: Steps = {}
    if whole:
        with f.loop(whole):
            inside = _nest(f, axes, inner, leaf, {**sizes, name: block})
            if whole > 1 or rest:
                move(f, _sum(inside, -1, steps, block))
            else:
                moved = inside
        if whole > 1 or rest:
            moved = _sum({}, 1, steps, whole * block)
    if rest:
        moved = _sum(_nest(f, axes, inner, leaf, {**sizes, name: rest}), 1, moved, 1)
    return moved


def _sum(x: Steps, times_x: int, y: Steps, times_y: int) -> Steps:
    pointers = dict.fromkeys((*x, *y))
    return {one: times_x * x.get(one, 0) + times_y * y.get(one, 0) for one in pointers}
