"""The register tile of convolutions: 4 pixels x 8 outputs, weights in panels.

            w: one panel, 8 outputs of each tap side by side, [K][8]
              ┌─────────┬─────────┐
    pixel 0   │ 4 sums  │ 4 sums  │     8 sums + 2 vectors of w + 4 of x: what 16 registers hold
    pixel 1   │         │         │
    pixel 2   │         │         │     each step: the x of one tap and channel, in all lanes, times 8 weights
    pixel 3   │         │         │
              └─────────┴─────────┘

A number of x is spread over a vector by the load itself, which costs the units that multiply and add nothing:
1.1 times faster than shuffles of four numbers (whole models, Zen 5; ``vector.spread`` tells how).

The branch that is never taken ends the basic block after each step: Cranelift keeps loads in order but sinks
pure operations to the end of their block, and would spill. The flag comes from memory, so that nobody can
fold it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from cloud.compiler.kernels.vector import LANES, VECTOR_BYTES, ZERO, add, load, multiply, spread
from cloud.compiler.ops.image import PANEL
from cloud.compiler.wat import Function, assign, const, get

PIXELS = 4
UNROLL = 8  # steps in one round of the innermost loop
STEP_BYTES = PANEL * 4  # of weights
ITEM_BYTES = 4


@dataclass(frozen=True, slots=True)
class PanelTile:
    """``pixels`` of x, ``pixel_bytes`` apart at ``$x_at``, times ``outputs`` of the panel at ``$w_at``.

    ``pointers``: of each pixel, instead of ``$x_at`` and a distance that is part of the text.
    """

    f: Function
    pixels: int
    outputs: int
    pixel_bytes: int = 0
    pointers: tuple[str, ...] = ()

    @property
    def vectors(self) -> int:
        """Of outputs: one or two."""
        return -(-self.outputs // LANES)

    def sum(self, pixel: int, index: int) -> str:
        """The local that holds four sums of a pixel."""
        return _sum(pixel, index)

    @contextmanager
    def sums(self) -> Iterator[str]:
        """Sums from zero; inside, :meth:`steps`. Gives the label that the branches pretend to leave for."""
        for pixel in range(self.pixels):
            for index in range(self.vectors):
                self.f.set(self.sum(pixel, index), ZERO, "v128")
        with self.f.block() as done:
            yield done

    def steps(self, done: str, count: int, x_offset: int = 0, w_offset: int = 0) -> None:
        """``count`` neighbouring numbers of x: every sum += x * w."""
        for index in range(count):
            for one in range(self.vectors):
                at = w_offset + index * STEP_BYTES + one * VECTOR_BYTES
                self.f.set(f"w{one}", load("w_at", at), "v128")
            for pixel in range(self.pixels):
                pointer = self.pointers[pixel] if self.pointers else "x_at"
                at = pixel * self.pixel_bytes + x_offset + index * ITEM_BYTES
                spread(self.f, f"x{pixel}", pointer, at, first=index == 0)
            for pixel in range(self.pixels):
                for line in _products(pixel, self.vectors):
                    self.f.emit(line)
            self.f.emit(f"(br_if ${done} {get('never')})")


@lru_cache(maxsize=64)
def _products(pixel: int, vectors: int) -> tuple[str, ...]:
    """Sums of a pixel += x * w. Kept, for a model writes the same few again and again."""
    return tuple(
        assign(_sum(pixel, one), add(get(_sum(pixel, one)), multiply(get(f"x{pixel}"), get(f"w{one}"))))
        for one in range(vectors)
    )


def _sum(pixel: int, index: int) -> str:
    return f"sum{pixel}_{index}"


def tile_width(columns: int) -> int:
    """Pixels of a tile. Two tiles of three are as fast as one of four and one of two, and less code."""
    return 3 if columns in (3, 6, 9) else PIXELS


def load_never(f: Function) -> None:
    """The flag that is always zero."""
    f.set("never", f"(i32.load {const(0)})")
