"""How a batch of any size runs on modules that were compiled for a few sizes. Pure."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Part(NamedTuple):
    """Items ``start .. start + items`` run on the module of batch ``size``; ``size - items`` are padding."""

    size: int
    start: int
    items: int


def parts(items: int, sizes: Sequence[int]) -> Iterator[Part]:
    """Largest size first; padding only for a rest that is smaller than every size.

    >>> [tuple(part) for part in parts(70, (1, 32))][:3]
    [(32, 0, 32), (32, 32, 32), (1, 64, 1)]
    >>> [tuple(part) for part in parts(10, (8, 32))]
    [(8, 0, 8), (8, 8, 2)]
    """
    start = 0
    for size in sorted(sizes, reverse=True):
        while items - start >= size:
            yield Part(size, start, size)
            start += size
    if start < items:
        yield Part(min(sizes), start, items - start)
