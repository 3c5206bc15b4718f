"""Sets of whole numbers as half-open ranges: sorted, disjoint, not touching. ``((0, 3), (7, 9))``: 0-2, 7, 8.

What is stored, missing or dropped of a numbered stream is such a set. All functions take and return the
normal form, except that :func:`union` and :func:`subtract` accept their second operand in any order.
"""

from collections.abc import Iterable

Range = tuple[int, int]
Ranges = tuple[Range, ...]


def union(ours: Ranges, theirs: Iterable[Range]) -> Ranges:
    """Everything in either."""
    merged: list[Range] = []
    for first, end in sorted((*ours, *theirs)):
        if first >= end:
            continue
        if merged and first <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((first, end))
    return tuple(merged)


def subtract(ours: Ranges, theirs: Iterable[Range]) -> Ranges:
    """What is in ``ours`` and not in ``theirs``."""
    left: list[Range] = []
    gone = union((), theirs)
    for first, end in ours:
        for away, back in gone:
            if back <= first or away >= end:
                continue
            if first < away:
                left.append((first, away))
            first = back
        if first < end:
            left.append((first, end))
    return tuple(left)


def within(ours: Ranges, first: int, end: int) -> Ranges:
    """The part between ``first`` and ``end``."""
    cut = ((max(first, one), min(end, other)) for one, other in ours)
    return tuple((one, other) for one, other in cut if one < other)


def size(ours: Iterable[Range]) -> int:
    """How many numbers."""
    return sum(end - first for first, end in ours)
