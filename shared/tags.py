"""What travels with data so that its home can say where it may be: labels, regions, tags.

Regions are a tree, written as paths (``eu/de/berlin``): what may be in ``eu`` may be in ``eu/de``.

Source: labels as a lattice, and derived data under the join of their inputs, as in Denning (CACM 19:5, 1976).
"""

from collections.abc import Iterable
from enum import StrEnum
from functools import reduce

import msgspec

from shared.ids import is_id

ANY = "*"
LEVELS_MAX = 8


class Label(StrEnum):
    """How much harm the wrong reader does, in this order. Compares by rank, not by the alphabet."""

    PUBLIC = "public"
    INTERNAL = "internal"
    PERSONAL = "personal"
    SENSITIVE = "sensitive"

    @property
    def rank(self) -> int:
        """0 for PUBLIC to 3 for SENSITIVE."""
        return _RANKS[self.value]

    def __lt__(self, other: str) -> bool:
        return self.rank < Label(other).rank

    def __le__(self, other: str) -> bool:
        return self.rank <= Label(other).rank

    def __gt__(self, other: str) -> bool:
        return self.rank > Label(other).rank

    def __ge__(self, other: str) -> bool:
        return self.rank >= Label(other).rank


_RANKS = {"public": 0, "internal": 1, "personal": 2, "sensitive": 3}


class Tag(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What travels with data. ``home`` and ``allowed``: the regions it may be in; ``home`` empty: it has
    none, because it was derived from data of different homes. ``expires_at_unix_s`` 0: never.
    """

    label: Label
    home: str = ""
    allowed: tuple[str, ...] = ()
    purposes: tuple[str, ...] = (ANY,)
    expires_at_unix_s: float = 0.0

    @property
    def regions(self) -> tuple[str, ...]:
        """Home and allowed, none inside another, in order."""
        return _outermost((self.home, *self.allowed))


# Regions --------------------------------------------------------------------------------------------


def is_region(path: str) -> bool:
    """True for one to eight ids with slashes between them, and for ``*``: everywhere."""
    levels = path.split("/")
    return path == ANY or (len(levels) <= LEVELS_MAX and all(map(is_id, levels)))


def within(region: str, outer: str) -> bool:
    """Whether ``region`` is ``outer`` or inside of it. Nowhere (empty) is inside of everywhere only."""
    if outer in (ANY, region):
        return outer != ""
    return outer != "" and region.startswith(f"{outer}/")


def touches(region: str, other: str) -> bool:
    """Whether a node that is somewhere in ``region`` may be in ``other``; unknown (empty) may be anywhere."""
    return region == "" or within(region, other) or within(other, region)


def outwards(region: str) -> tuple[str, ...]:
    """Everything that a region is inside of, itself first: ``eu/de`` -> eu/de, eu, everywhere."""
    levels = region.split("/")
    return (*("/".join(levels[:depth]) for depth in range(len(levels), 0, -1)), ANY)


def _outermost(regions: Iterable[str]) -> tuple[str, ...]:
    found = set(regions) - {""}
    return tuple(
        sorted(one for one in found if not any(within(one, other) for other in found if other != one))
    )


# Tags -----------------------------------------------------------------------------------------------


def inherited(tags: Iterable[Tag | None]) -> Tag | None:
    """The tag of what was made from data with these tags: the strictest of all, in every respect.

    None when one of the inputs has none, or there is no input: what is not known to be allowed is not.
    """
    found = list(tags)
    if not found or None in found:
        return None
    return reduce(_joined, [_canonical(tag) for tag in found if tag is not None])


def _canonical(tag: Tag) -> Tag:
    return msgspec.structs.replace(tag, allowed=tag.regions, purposes=_sorted(tag.purposes))


def _joined(one: Tag, two: Tag) -> Tag:
    ends = [tag.expires_at_unix_s for tag in (one, two) if tag.expires_at_unix_s]
    return Tag(
        label=max(one.label, two.label),
        home=one.home if one.home == two.home else "",
        allowed=_outermost(_deeper(a, b) for a in one.allowed for b in two.allowed),
        purposes=_common(one.purposes, two.purposes),
        expires_at_unix_s=min(ends, default=0.0),
    )


def _deeper(a: str, b: str) -> str:
    """The one that is inside of the other; empty when they have nothing in common."""
    return a if within(a, b) else b if within(b, a) else ""


def _common(one: tuple[str, ...], two: tuple[str, ...]) -> tuple[str, ...]:
    if ANY in one or ANY in two:
        return _sorted(two if ANY in one else one)
    return _sorted(set(one) & set(two))


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    found = set(names)
    return (ANY,) if ANY in found else tuple(sorted(found))
