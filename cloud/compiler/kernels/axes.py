"""Walking along axes: what the kernels of reductions, softmax and normalisation share.

Axes of one position vanish and neighbours that are treated alike merge, so that any shape becomes a few
alternating groups. Only the last one matters for how vectors are filled:

    [.. kept, reduced]     across: a vector holds neighbours of one row, and its lanes are joined at the end
    [.. reduced, kept]     along: a vector holds neighbours of the kept axis; rows are joined lane by lane

A vector that sticks out of its row is loaded whole (arrays may be read a little past their end); lanes that
do not belong to the row are replaced by a number that changes nothing, and only the others are stored.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

from cloud.compiler.ir import Shape
from cloud.compiler.kernels.vector import LANES, shuffle, store
from cloud.compiler.wat import Function, get

ITEM_BYTES = 4


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring axes as one: ``size`` positions, ``step`` bytes from one to the next."""

    size: int
    step: int
    reduced: bool


def groups(shape: Shape, axes: Sequence[int]) -> tuple[Group, ...]:
    """The shape as alternating kept and reduced groups, outermost first; none for a single number."""
    found: list[Group] = []
    step = ITEM_BYTES
    for axis in reversed(range(len(shape))):
        size, reduced = shape[axis], axis in axes
        if size > 1 and found and found[-1].reduced == reduced:
            found[-1] = Group(found[-1].size * size, found[-1].step, reduced)
        elif size > 1:
            found.append(Group(size, step, reduced))
        step *= size
    return tuple(reversed(found))


@dataclass(frozen=True, slots=True)
class Extent:
    """A shape around one group of axes, as [outer, reduced, inner]."""

    outer: int
    reduced: int
    inner: int

    def __str__(self) -> str:
        return f"{self.outer}x{self.reduced}x{self.inner}"


def extent(shape: Shape, axis: int, axes: int = 1) -> Extent:
    """The shape around ``axes`` axes, from ``axis`` on."""
    return Extent(prod(shape[:axis]), prod(shape[axis : axis + axes]), prod(shape[axis + axes :]))


@contextmanager
def nest(f: Function, loops: Sequence[Group], pointer: str) -> Iterator[str]:
    """One loop for each group; gives the local that points to where they have come to.

    The body may not move that; ``pointer`` itself ends up behind the last position.
    """
    if not loops:
        yield pointer
        return
    first, *rest = loops
    with f.loop(first.size):
        at = pointer
        if rest:
            at = f"{pointer}_{len(rest)}"
            f.set(at, get(pointer))
        with nest(f, rest, at) as inner:
            yield inner
        f.advance(pointer, first.step)


def splat(value: str, dtype: str = "f32") -> str:
    """A vector of one constant."""
    shape = "f32x4" if dtype == "f32" else "i32x4"
    return f"(v128.const {shape} {' '.join([value] * LANES)})"


def sweep(f: Function, length: int, width: int, *pointers: str) -> Iterator[list[int]]:
    """Go along a row of ``length`` numbers, ``width`` vectors at a time; the pointers move on after the body.

    Gives how many lanes of each vector are the row's; the body is written for whole blocks, then for an end.
    """
    whole, rest = divmod(length, width * LANES)
    if whole:
        with f.loop(whole):
            yield [LANES] * width
            for pointer in pointers:
                f.advance(pointer, width * LANES * ITEM_BYTES)
    if rest:
        yield lanes_of(rest)
        for pointer in pointers:
            f.advance(pointer, rest * ITEM_BYTES)


def lanes_of(length: int) -> list[int]:
    """``length`` numbers as vectors: the lanes that are used of each."""
    return [min(LANES, length - start) for start in range(0, length, LANES)]


def keep(lanes: int, vector: str, neutral: str) -> str:
    """The first ``lanes`` of a vector; the others are those of the vector ``neutral``."""
    if lanes == LANES:
        return vector
    mask = " ".join(["-1"] * lanes + ["0"] * (LANES - lanes))
    return f"(v128.bitselect {vector} {neutral} (v128.const i32x4 {mask}))"


def by_pairs(vectors: Sequence[str], step: Callable[[str, str], str]) -> str:
    """One expression of many: neighbours first, for short chains and little rounding."""
    while len(vectors) > 1:
        pairs = [step(x, y) for x, y in zip(vectors[::2], vectors[1::2], strict=False)]
        vectors = [*pairs, *vectors[len(pairs) * 2 :]]
    return vectors[0]


def join(f: Function, vector: str, step: Callable[[str, str], str]) -> None:
    """Fold the lanes of a local; every lane holds the result."""
    for lanes in ((2, 3, 0, 1), (1, 0, 3, 2)):
        turned = shuffle((lanes[0], lanes[1], lanes[2], lanes[3]), get(vector), get(vector))
        f.set(vector, step(get(vector), turned), "v128")


def store_vector(f: Function, pointer: str, offset: int, vector: str, lanes: int = LANES) -> None:
    """Write the first ``lanes`` numbers of a local."""
    for line in store(pointer, offset, vector, lanes):
        f.emit(line)
