"""The arithmetic of a log that can't be changed unnoticed: Merkle trees, proofs, signed heads (RFC 6962).

    record 0   1   2   3   4       A leaf is SHA-256(00 | record), a node SHA-256(01 | left | right): a
         \\ /     \\ /     |        leaf can't pass for a node. The left half of n leaves is the largest
          \\_____/        |        power of two below n, so what is full never changes when records come.
             \\___________/
                  head             Inclusion: the hashes beside the way from a leaf to the head.
                                   Consistency: that an older head's tree is the beginning of a newer one.

Everybody who kept an old head is a witness: whoever changes or drops a record that it covered can't give a
consistency proof any more. So heads go to all devices, and devices keep theirs.

Verification follows RFC 9162, sections 2.1.3.2 and 2.1.4.2: RFC 6962 leaves it to the reader.
"""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

import msgspec

HASH_BYTES = 32
PATH_MAX = 64  # levels of the largest tree that we believe in
EMPTY = sha256(b"").digest()

Subtree = Callable[[int, int], bytes]  # the hash over the records [first, end)


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a log at a moment, signed with the cloud's key.

    ``log``: which log (a new one begins when the old one is lost); ``number`` counts its heads without a gap;
    ``size``: records covered; ``signature``: Ed25519 over :func:`signed_head_bytes`.
    """

    log: str
    number: int
    size: int
    root: bytes
    at_unix_s: float
    signature: bytes = b""


def signed_head_bytes(head: Head) -> bytes:
    """What the signature is over: every other field, in a form with one reading."""
    fields = [head.log, head.number, head.size, head.root.hex(), head.at_unix_s]
    return b"shoal audit head 1\n" + msgspec.json.encode(fields)


def leaf_hash(record: bytes) -> bytes:
    """RFC 6962, section 2.1."""
    return sha256(b"\x00" + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 6962, section 2.1."""
    return sha256(b"\x01" + left + right).digest()


def split(count: int) -> int:
    """The largest power of two below ``count``, which is at least 2: the size of the left half."""
    return 1 << ((count - 1).bit_length() - 1)


class Frontier:
    """A tree that only grows: the roots of its full subtrees, at most one per size. 32 bytes a level."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self.size = 0
        self._full: list[bytes] = []  # largest first
        for leaf in leaves:
            self.add(leaf)

    def add(self, leaf: bytes) -> None:
        """Append the hash of one record."""
        size = self.size
        while size & 1:
            leaf = node_hash(self._full.pop(), leaf)
            size >>= 1
        self._full.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The Merkle tree hash over everything so far."""
        if not self._full:
            return EMPTY
        *rest, found = self._full
        for left in reversed(rest):
            found = node_hash(left, found)
        return found


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The Merkle tree hash over the hashes of records."""
    return Frontier(leaves).root()


def subtrees(leaves: Sequence[bytes]) -> Subtree:
    """For proofs about a tree that fits into memory."""
    return lambda first, end: root_of(leaves[first:end])


# Proofs ---------------------------------------------------------------------------------------------


def inclusion_path(index: int, size: int, subtree: Subtree) -> tuple[bytes, ...]:
    """That record ``index`` is in the tree of ``size`` records: the hashes from the bottom up.

    Raises ``ValueError`` when it can't be.
    """
    if not 0 <= index < size:
        raise ValueError(f"no record {index} among {size}")
    path: list[bytes] = []
    first, end = 0, size
    while end - first > 1:
        middle = first + split(end - first)
        if index < middle:
            path.append(subtree(middle, end))
            end = middle
        else:
            path.append(subtree(first, middle))
            first = middle
    return tuple(reversed(path))


def consistency_path(old: int, size: int, subtree: Subtree) -> tuple[bytes, ...]:
    """That the tree of ``old`` records is the beginning of the one of ``size``.

    Raises ``ValueError`` when it can't be. Nothing needs to be shown for equal sizes.
    """
    if not 0 < old <= size:
        raise ValueError(f"{old} records are not the beginning of {size}")
    path: list[bytes] = []
    first, end, whole = 0, size, True
    while old != end:
        middle = first + split(end - first)
        if old <= middle:
            path.append(subtree(middle, end))
            end = middle
        else:
            path.append(subtree(first, middle))
            first, whole = middle, False
    if not whole:
        path.append(subtree(first, end))
    return tuple(reversed(path))


def included(leaf: bytes, index: int, size: int, root: bytes, path: Sequence[bytes]) -> bool:
    """Whether the path leads from the hash of record ``index`` to the root. RFC 9162, section 2.1.3.2."""
    if not 0 <= index < size or len(path) > PATH_MAX:
        return False
    at, last, found = index, size - 1, leaf
    for beside in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(beside, found)
            while not at & 1 and at != 0:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, beside)
        at, last = at >> 1, last >> 1
    return last == 0 and found == root


def consistent(old: int, old_root: bytes, size: int, root: bytes, path: Sequence[bytes]) -> bool:
    """Whether the path shows that the older tree is the beginning. RFC 9162, section 2.1.4.2."""
    if old == size:
        return not path and old_root == root
    if not 0 < old < size or not path or len(path) > PATH_MAX:
        return False
    full = old & (old - 1) == 0
    rest = list(path) if not full else [old_root, *path]
    at, last = old - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    found_old = found = rest[0]
    for beside in rest[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            found_old, found = node_hash(beside, found_old), node_hash(beside, found)
            while not at & 1 and at != 0:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, beside)
        at, last = at >> 1, last >> 1
    return last == 0 and found_old == old_root and found == root
