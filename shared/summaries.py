"""Short summaries of many entries, so that two replicas find out cheaply where they differ.

    vector   for each origin, the last write seen in any entry: tells what the other certainly lacks
    root     a 16-ary Merkle tree over the hashes of the keys: tells whether anything at all differs

                 ""                      a node covers the keys whose hash begins with its prefix;
          /    /  ...  \\                 its hash is that of its children's, a leaf's that of its entries
        "0"  "1"  ...  "f"               (tombstones do not count: they may be forgotten at different times)

A vector speaks for a whole replica only where nothing was lost in between; the tree always tells the truth.
So the vector is tried first, and the tree is walked where the roots still differ.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b

from shared.versions import PRINT_BYTES, Entry, Vector, fingerprint, joined, merged, packed_entry

LEAF_NAMES_MAX = 16
DEPTH_MAX = 16
_HEX = "0123456789abcdef"
_AFTER_HEX = "g"


def place_of(name: str) -> str:
    """Where a key stands in the tree: 16 hexadecimal digits."""
    return blake2b(name.encode(), digest_size=DEPTH_MAX // 2).hexdigest()


@dataclass(slots=True)
class Tree:
    """The summary of a set of entries at one moment. ``places`` are sorted; ``prints`` stand beside them."""

    places: list[str]
    names: list[str]
    prints: list[bytes]
    vector: Vector
    hashes: dict[str, bytes] = field(default_factory=dict)  # of nodes that were asked for

    @property
    def root(self) -> bytes:
        """The hash of everything; empty for nothing."""
        return self.hash("")

    def hash(self, prefix: str) -> bytes:
        """The hash of the keys below ``prefix``; empty for none."""
        first, after = self._span(prefix)
        if first == after:
            return b""  # and not worth keeping: a stranger may ask for any prefix
        if prefix not in self.hashes:
            self.hashes[prefix] = self._hash(prefix, first, after)
        return self.hashes[prefix]

    def _hash(self, prefix: str, first: int, after: int) -> bytes:
        if self._is_leaf(prefix, first, after):
            return _digest([b"leaf", *(self._line(at) for at in range(first, after))])
        return _digest([b"node", *(self.hash(prefix + digit) for digit in _HEX)])

    def children(self, prefix: str) -> tuple[bytes, ...] | None:
        """The hashes of the sixteen children; None where this is a leaf here."""
        if self._is_leaf(prefix, *self._span(prefix)):
            return None
        return tuple(self.hash(prefix + digit) for digit in _HEX)

    def leaves(self, prefix: str) -> dict[str, bytes]:
        """Every key below ``prefix`` with its fingerprint."""
        first, after = self._span(prefix)
        return dict(zip(self.names[first:after], self.prints[first:after], strict=True))

    def _span(self, prefix: str) -> tuple[int, int]:
        return bisect_left(self.places, prefix), bisect_left(self.places, prefix + _AFTER_HEX)

    def _is_leaf(self, prefix: str, first: int, after: int) -> bool:
        return after - first <= LEAF_NAMES_MAX or len(prefix) >= DEPTH_MAX

    def _line(self, at: int) -> bytes:
        return self.places[at].encode() + self.prints[at]


def _digest(parts: Iterable[bytes]) -> bytes:
    state = blake2b(digest_size=PRINT_BYTES)
    for part in parts:
        state.update(len(part).to_bytes(2, "big") + part)
    return state.digest()


@dataclass(slots=True)
class Replica:
    """Entries by name, and their fingerprints. ``changes`` grows with each change, so that summaries can be
    kept while nothing happens."""

    entries: dict[str, Entry] = field(default_factory=dict)
    prints: dict[str, bytes] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    size_bytes: int = 0
    changes: int = 0

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def get(self, name: str) -> Entry:
        """The entry, or one that knows nothing."""
        return self.entries.get(name) or Entry(name)

    def put(self, entry: Entry) -> None:
        """Hold this entry in place of the one before."""
        self.entries[entry.name] = entry
        packed = packed_entry(entry)
        if entry.name not in self.places:
            self.places[entry.name] = place_of(entry.name)
        self.prints[entry.name] = fingerprint(packed)
        self.size_bytes += len(packed) - self.sizes.get(entry.name, 0)
        self.sizes[entry.name] = len(packed)
        self.changes += 1

    def merge(self, entry: Entry) -> bool:
        """Take in what another replica holds. True: something was new."""
        before = self.entries.get(entry.name)
        after = entry if before is None else merged(before, entry)
        if after is before:
            return False
        self.put(after)
        return True

    def forget(self, name: str) -> None:
        """No longer know of it at all."""
        del self.entries[name], self.prints[name], self.places[name]
        self.size_bytes -= self.sizes.pop(name)
        self.changes += 1

    def tree(self, names: Iterable[str]) -> Tree:
        """The summary of those of ``names`` that are here."""
        here = [name for name in names if name in self.entries]
        vector = joined(*(self.entries[name].vector for name in here))
        rows = sorted((self.places[name], name) for name in here if not self.entries[name].erased)
        ordered = [name for _, name in rows]
        return Tree([place for place, _ in rows], ordered, [self.prints[name] for name in ordered], vector)
