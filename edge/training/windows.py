"""Readings in order of time -> examples: what a window looks like, and what comes after it.

    reading      0 1 2 3 4 5 6 7 8 ...        window 4, ahead 2, stride 2
    x            [0 1 2 3]                y   5
                     [2 3 4 5]                7

Windows overlap, so that a window held out must not share a reading with one trained on. The record is cut
into blocks of eight windows; each block is held out or not for good, by its place in time, and windows that
reach over a border between the two kinds are left out.
"""

from dataclasses import dataclass

import numpy as np

from edge.training.examples import Array, BadData, Examples, held_out

BLOCK_WINDOWS = 8


@dataclass(frozen=True, slots=True)
class Windows:
    """``fields``: of a reading, all of which are in x; y is the first one, ``ahead`` readings after the end
    of the window. ``ahead`` 0: y is x itself, for models that rebuild what they see."""

    fields: tuple[str, ...]
    length: int
    ahead: int = 1
    stride: int = 1

    @property
    def span(self) -> int:
        """Readings that one example is made of."""
        return self.length + self.ahead


@dataclass(frozen=True, slots=True)
class Readings:
    """``values`` [n, fields] float32; ``first``: how many readings there were before them, ever."""

    fields: tuple[str, ...]
    values: Array
    first: int = 0


def windows_of(readings: Readings, windows: Windows, held_out_ratio: float, seed: str) -> Examples:
    """x [n, length, fields], y [n, 1] or as x, float32. Raises :class:`BadData` while there are too few."""
    values = _columns(readings, windows)
    if len(values) < windows.span:
        raise BadData(f"{len(values)} readings are recorded; one example takes {windows.span}")
    first = -readings.first % windows.stride  # the same windows, whatever has left the record meanwhile
    starts = np.arange(first, len(values) - windows.span + 1, windows.stride)
    x = values[starts[:, None] + np.arange(windows.length)]
    y = x if windows.ahead == 0 else values[starts + windows.span - 1][:, :1]
    block = BLOCK_WINDOWS * windows.span
    begins, ends = readings.first + starts, readings.first + starts + windows.span - 1
    held_begin = held_out(begins // block, held_out_ratio, seed)
    held_end = held_out(ends // block, held_out_ratio, seed)
    held, kept = held_begin & held_end, ~held_begin & ~held_end
    return Examples(x[kept], y[kept], x[held], y[held])


def _columns(readings: Readings, windows: Windows) -> Array:
    missing = [name for name in windows.fields if name not in readings.fields]
    if missing:
        raise BadData(f"no reading has {', '.join(missing)}; recorded are {', '.join(readings.fields)}")
    values = readings.values[:, [readings.fields.index(name) for name in windows.fields]]
    if not np.isfinite(values).all():
        raise BadData("a recorded reading is not finite")
    return values
