"""What lies in the blob folder, as the core knows it: what is kept, and what goes when.

A blob that no model needs any more is garbage. It stays for a grace period, because the next thing an
operator does after a bad release is to go back to the one before; it goes at once when its room is needed.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field


@dataclass(slots=True)
class Shelf:
    """``blobs``, ``parts``: digest -> bytes. ``garbage``: digest -> since when nobody needs it."""

    bytes_max: int
    grace_s: float
    blobs: dict[str, int] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    garbage: dict[str, float] = field(default_factory=dict)

    def restore(self, blobs: Mapping[str, int], parts: Mapping[str, int]) -> None:
        """Take stock of what the disk holds."""
        self.blobs, self.parts = dict(blobs), dict(parts)

    def begin(self, digest: str, size_bytes: int) -> None:
        """A part of (at most) this size is on its way."""
        self.parts[digest] = size_bytes

    def landed(self, digest: str, size_bytes: int) -> None:
        """The part has become a blob."""
        self.parts.pop(digest, None)
        self.blobs[digest] = size_bytes

    def forget(self, digest: str) -> None:
        """It is no longer on the disk."""
        for where in (self.blobs, self.parts, self.garbage):
            where.pop(digest, None)

    def sort(self, needed: Set[str], now: float) -> None:
        """See what is garbage, and since when."""
        held = self.blobs.keys() | self.parts.keys()
        self.garbage = {digest: self.garbage.get(digest, now) for digest in sorted(held - needed)}

    def expired(self, now: float) -> list[str]:
        """Garbage whose grace is over."""
        return [digest for digest, since in self.garbage.items() if now - since >= self.grace_s]

    def victims(self, digest: str, size_bytes: int) -> list[str] | None:
        """The garbage that must go, oldest first, so that ``digest`` fits; None: it can't be made to fit."""
        room = self.bytes_max - size_bytes - self.bytes_held(without=digest)
        victims = []
        for one in sorted(self.garbage, key=lambda digest: (self.garbage[digest], digest)):
            if room >= 0:
                break
            victims.append(one)
            room += self.blobs.get(one, 0) + self.parts.get(one, 0)
        return victims if room >= 0 else None

    def bytes_held(self, without: str = "") -> int:
        """What the blobs and the parts in the making take up."""
        sizes = (*self.blobs.items(), *self.parts.items())
        return sum(size for digest, size in sizes if digest != without)
