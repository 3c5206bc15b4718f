"""Numbered records in the bytes of a file, and what is readable when some of the bytes are wrong.

    record    length u32 | crc32 u32 (of the sequence and the payload) | sequence u64 | payload

Sequences are consecutive, which is how a scan knows what it does not find:

- bytes at the end that are no record: a torn write, of which nobody was told that it is durable. If its
  header is whole and fits, the record counts as damaged: it may have been promised.
- bytes in the middle that are no record: a flipped bit. The scan goes on at the next place where a record
  with a plausible sequence and a right checksum begins, and what lies between is damaged.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from struct import Struct

from shared.ranges import Range, Ranges, union

RECORD_BYTES_MAX = 64 * 1024
_HEADER = Struct("<IIQ")
_JUMP_MAX = 1 << 32  # a sequence further ahead than this is no sequence


@dataclass(slots=True)
class Scan:
    """The good records of a file's bytes: sequence -> where its payload is."""

    data: bytes
    found: dict[int, tuple[int, int]] = field(default_factory=dict)
    first: int = 0
    end: int = 0
    damaged: Ranges = ()
    torn_bytes: int = 0


def records(first: int, payloads: Sequence[bytes]) -> Iterator[bytes]:
    """The bytes of records, header and payload in turn. Raises ``ValueError`` for one that is too long."""
    for sequence, payload in enumerate(payloads, first):
        if len(payload) > RECORD_BYTES_MAX:
            raise ValueError(f"a record of {len(payload)} bytes; the limit is {RECORD_BYTES_MAX}")
        yield _HEADER.pack(len(payload), _checksum(sequence, payload), sequence)
        yield payload


def scanned(data: bytes, first: int) -> Scan:
    """What is readable in a file's bytes, and what between is damaged. ``first``: what its name says."""
    scan = Scan(data)
    at, expected, clean = 0, first, True
    damaged: list[Range] = []
    while at < len(data):
        record = _record(data, at, expected)
        if record is None:
            clean = False
            at = _next_record(data, at + 1, expected)
            continue
        sequence, length = record
        if not scan.found and clean:
            scan.first = sequence  # emptied in place before: what was there is settled
        elif sequence > expected:
            damaged.append((expected, sequence))
        if not scan.found and not clean:
            scan.first = first
        scan.found[sequence] = at + _HEADER.size, length
        at, expected, clean = at + _HEADER.size + length, sequence + 1, True
        scan.torn_bytes = len(data) - at
    if not scan.found:
        scan.first, scan.torn_bytes = first, len(data)
    if scan.torn_bytes and _was_whole(data, len(data) - scan.torn_bytes, expected):
        damaged.append((expected, expected + 1))
        expected += 1
    scan.end, scan.damaged = expected, union((), damaged)
    return scan


def _record(data: bytes, at: int, expected: int) -> tuple[int, int] | None:
    """Sequence and length of the good record at ``at``, if there is one."""
    if at + _HEADER.size > len(data):
        return None
    length, checksum, sequence = _HEADER.unpack_from(data, at)
    end = at + _HEADER.size + length
    if length > RECORD_BYTES_MAX or end > len(data) or not 0 <= sequence - expected < _JUMP_MAX:
        return None
    good = checksum == _checksum(sequence, data[at + _HEADER.size : end])
    return (sequence, length) if good else None


def _next_record(data: bytes, at: int, expected: int) -> int:
    """Where the next good record begins; the end where there is none."""
    while at + _HEADER.size <= len(data):
        if _record(data, at, expected) is not None:
            return at
        at += 1
    return len(data)


def _was_whole(data: bytes, at: int, expected: int) -> bool:
    """Whether exactly one record of the right number ends the file, with bytes that are not its own."""
    if at + _HEADER.size > len(data):
        return False
    length, _, sequence = _HEADER.unpack_from(data, at)
    return bool(sequence == expected and at + _HEADER.size + length == len(data))


def _checksum(sequence: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(sequence.to_bytes(8, "little")))
