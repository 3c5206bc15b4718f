"""Artifacts on the wire: chunks, their digests, what is signed, and which chunks are missing.

    |--- chunk 0 ---|--- chunk 1 ---|-- ... --|- last, shorter -|     size_bytes in all
      sha256           sha256                    sha256              -> chunk_digests, 32 bytes each
    |------------------------ sha256 -------------------------------| -> digest, the artifact's name

A manifest is signed once; every chunk is then proved by its own digest the moment it arrives, so a device
never stores a byte that the cloud did not sign, and one flipped bit costs one chunk.
"""

import re
from collections.abc import Iterable
from hashlib import sha256

import msgspec

from shared.errors import Unreadable
from shared.ids import is_id
from shared.messages import Manifest
from shared.package import ModuleKind
from shared.topics import CHUNK_BYTES, KIB, MIB

DIGEST_BYTES = 32
SIZE_BYTES_MAX = 1024 * MIB  # its manifest (341 KiB of digests) still fits the manifest's topic
CHUNK_BYTES_MIN = KIB
RANGES_MAX = 64

_DIGEST = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"[A-Za-z0-9._+-]{1,64}")
_NUMBERS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,7}")
_SIGNED = "shoal manifest 1"  # keeps this signature apart from any other made with the same key
_encoder = msgspec.msgpack.Encoder()


def is_digest(text: str) -> bool:
    """True for a SHA-256 in lower-case hex: the only thing that may name a file in a blob folder."""
    return _DIGEST.fullmatch(text) is not None


def is_version(text: str) -> bool:
    """True for a version that may stand in reports and on screens: 1 to 64 of letters, digits, ``._+-``."""
    return _VERSION.fullmatch(text) is not None


def chunk_index(text: str) -> int:
    """The chunk index in a topic level. Raises :class:`Unreadable`."""
    if not (text.isascii() and text.isdigit() and len(text) <= 7):
        raise Unreadable(f"{text[:16]!r} is not a chunk index")
    return int(text)


def chunk_count(manifest: Manifest) -> int:
    """How many chunks the artifact has; the last one may be shorter."""
    return -(-manifest.size_bytes // manifest.chunk_bytes)


def chunk_digest(manifest: Manifest, index: int) -> bytes:
    """The SHA-256 (32 bytes) that chunk ``index`` must have."""
    return manifest.chunk_digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]


def chunk_digests(data: bytes | memoryview, chunk_bytes: int) -> bytes:
    """The SHA-256 of each chunk of ``data``, one after the other."""
    view = memoryview(data)
    return b"".join(
        sha256(view[start : start + chunk_bytes]).digest() for start in range(0, len(view), chunk_bytes)
    )


def make_manifest(
    data: bytes | memoryview,
    *,
    name: str,
    version: str,
    kind: ModuleKind,
    chunk_bytes: int = CHUNK_BYTES,
    agent_version_min: str = "0",
) -> Manifest:
    """Describe ``data``; not signed yet."""
    return Manifest(
        digest=sha256(data).hexdigest(),
        name=name,
        version=version,
        kind=kind,
        size_bytes=len(data),
        chunk_bytes=chunk_bytes,
        chunk_digests=chunk_digests(data, chunk_bytes),
        agent_version_min=agent_version_min,
    )


def signed_bytes(manifest: Manifest) -> bytes:
    """What the signature covers: every other field, as one MessagePack array in the order of the struct.

    An array of fixed order and minimal integers has one encoding only, so signer and verifier agree
    without sending these bytes.
    """
    fields = (getattr(manifest, name) for name in Manifest.__struct_fields__ if name != "signature")
    return _encoder.encode((_SIGNED, *fields))


def check_manifest(manifest: Manifest, *, size_bytes_max: int = SIZE_BYTES_MAX) -> None:
    """Raise :class:`Unreadable` unless a manifest from the network is consistent and within limits."""
    complaint = _complaint(manifest, size_bytes_max)
    if complaint:
        raise Unreadable(f"manifest: {complaint}")


def _complaint(manifest: Manifest, size_bytes_max: int) -> str | None:
    if not is_digest(manifest.digest):
        return "the digest is not a SHA-256 in lower-case hex"
    if not is_id(manifest.name) or not is_version(manifest.version):
        return "unusable name or version"
    if not 1 <= manifest.size_bytes <= size_bytes_max:
        return f"{manifest.size_bytes} bytes; the limit is {size_bytes_max}"
    if not CHUNK_BYTES_MIN <= manifest.chunk_bytes <= CHUNK_BYTES:
        return f"chunks of {manifest.chunk_bytes} bytes; {CHUNK_BYTES_MIN} to {CHUNK_BYTES} are allowed"
    if len(manifest.chunk_digests) != chunk_count(manifest) * DIGEST_BYTES:
        return "the number of chunk digests does not match the size"
    return None


def runs_on(agent_version: str, version_min: str) -> bool:
    """Whether an agent of ``agent_version`` is new enough. Raises :class:`Unreadable` for nonsense."""
    return _numbers(agent_version) >= _numbers(version_min)


def _numbers(version: str) -> tuple[int, ...]:
    """``"1.2.0"`` -> (1, 2), so that 1.2 and 1.2.0 are equal."""
    if _NUMBERS.fullmatch(version) is None:
        raise Unreadable(f"{version[:32]!r} is not a version of the form 1.2.3")
    numbers = [int(part) for part in version.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


# Which chunks are missing -----------------------------------------------------------------------------


def ranges_of(indexes: Iterable[int], ranges_max: int = RANGES_MAX) -> tuple[tuple[int, int], ...]:
    """Half-open ranges that cover exactly ``indexes``, which may come in any order and repeat.

    At ``ranges_max`` it stops: what did not fit is simply asked for the next time. Widening ranges
    instead would fetch chunks again that are already here.
    """
    ranges: list[tuple[int, int]] = []
    for index in sorted(indexes):
        if ranges and index <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], index + 1))
        elif len(ranges) == ranges_max:
            break
        else:
            ranges.append((index, index + 1))
    return tuple(ranges)


def indexes_in(ranges: tuple[tuple[int, int], ...], count: int) -> list[int]:
    """The indexes in half-open ``ranges`` of an artifact of ``count`` chunks, ascending.

    Raises :class:`Unreadable` unless the ranges ascend, don't overlap, lie within ``count`` and are few:
    the work is bounded by ``count`` whatever a peer sends.
    """
    if len(ranges) > RANGES_MAX:
        raise Unreadable(f"{len(ranges)} ranges; at most {RANGES_MAX} are allowed")
    indexes: list[int] = []
    end = 0
    for start, stop in ranges:
        if not end <= start < stop <= count:
            raise Unreadable(f"range {start}..{stop} in an artifact of {count} chunks")
        indexes.extend(range(start, stop))
        end = stop
    return indexes
