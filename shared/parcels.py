"""Values that are larger than one message: cut into parts under their digest, and put together where all are.

    room/picture                          {"@parcel": {digest, size_bytes, parts}}   the head: as other keys
    room/picture/.part/{digest}/000 ...   60 KiB each, HYBRID: announced, and fetched by who lacks them

A part's name says what is in it, so parts of two writes never mix, and a transfer that was cut goes on where
it was. The head is written last. A reader sees the value when every part is there and the SHA-256 is right.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from itertools import islice
from typing import Any

import msgspec

from shared.sync import VALUE_BYTES_MAX
from shared.versions import Entry

PART_BYTES = 60 * 1024
PARCEL_BYTES_MAX = 4 << 20
PARTS_AT_ONCE = 8
FIELD = "@parcel"
_DIGEST_CHARS = 32
_PART = re.compile(r"(.+)/\.part/([0-9a-f]{32})/([0-9]{3})")


class Parcel(msgspec.Struct, frozen=True):
    """What the head says. ``digest``: SHA-256 (hex) of the packed value."""

    digest: str
    size_bytes: int
    parts: int


def is_large(packed: bytes) -> bool:
    """Whether a packed value has to be cut up."""
    return len(packed) > VALUE_BYTES_MAX - 1024  # room for the names of its fields


def part_name(key: str, digest: str, index: int) -> str:
    """The key of one part."""
    return f"{key}/.part/{digest[:_DIGEST_CHARS]}/{index:03d}"


def head_of(name: str) -> str | None:
    """The key whose part this is; None: it is no part."""
    match = _PART.fullmatch(name)
    return match[1] if match else None


def cut(key: str, packed: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The head's value, and the parts by name. Raises ``ValueError`` for what is too large even so."""
    if len(packed) > PARCEL_BYTES_MAX:
        raise ValueError(f"{len(packed)} bytes; the limit is {PARCEL_BYTES_MAX}: send it as a model package")
    pieces = [packed[at : at + PART_BYTES] for at in range(0, len(packed), PART_BYTES)]
    parcel = Parcel(sha256(packed).hexdigest(), len(packed), len(pieces))
    return {FIELD: msgspec.to_builtins(parcel)}, dict(zip(part_names(key, parcel), pieces, strict=True))


def in_turns(names: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """A few at a time: whoever sends parts does not fill every queue with them."""
    waiting = iter(names)
    while some := tuple(islice(waiting, PARTS_AT_ONCE)):
        yield some


def parcel_in(value: Any) -> Parcel | None:
    """What a key's value says of its parts; None: it is a value of its own."""
    if not isinstance(value, dict) or value.keys() != {FIELD}:
        return None
    try:
        parcel = msgspec.convert(value[FIELD], Parcel)
    except msgspec.ValidationError:
        return None
    fits = 0 < parcel.size_bytes <= PARCEL_BYTES_MAX and parcel.parts == -(-parcel.size_bytes // PART_BYTES)
    return parcel if fits and re.fullmatch(r"[0-9a-f]{64}", parcel.digest) else None


def parcels_of(entry: Entry) -> set[Parcel]:
    """Every parcel that the entry still refers to, also in a conflict."""
    values = (write.fields[FIELD] for write in entry.writes if FIELD in write.fields)
    found = (parcel_in({FIELD: msgspec.msgpack.decode(value)}) for value in values)
    return {parcel for parcel in found if parcel is not None}


def part_names(key: str, parcel: Parcel) -> Iterator[str]:
    """The keys of all parts, in order."""
    return (part_name(key, parcel.digest, index) for index in range(parcel.parts))


def together(key: str, parcel: Parcel, read: Callable[[str], Any]) -> bytes | None:
    """The packed value; None while parts are missing, or when they are not what the digest says."""
    pieces = []
    for name in part_names(key, parcel):
        piece = read(name)
        if not isinstance(piece, bytes):
            return None
        pieces.append(piece)
    packed = b"".join(pieces)
    return packed if sha256(packed).hexdigest() == parcel.digest else None
