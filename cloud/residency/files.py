"""The audit log as files: what is where, and how each is read.

    log.json                which log this is, and the key that signs its heads
    records/000000000000.jsonl   4,096 records, one a line, in the canonical form; the name is the first index
    records/000000004096.jsonl   the next ones, ...
    heads.jsonl             the signed heads, one a line

Plain lines, so that ``grep`` and ``jq`` read the log as well as we do.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from shared.errors import ShoalError
from shared.transparency import Head

SEGMENT_RECORDS = 4096
RECORD_BYTES_MAX = 4 << 20


class AuditDamaged(ShoalError):
    """The audit log is not what its heads say. Nothing is added to it any more: that would hide it."""


class Identity(msgspec.Struct, frozen=True):
    """``log``: sixteen hex digits; ``key``: the Ed25519 public key (hex) of its heads."""

    log: str
    key: str


_heads = msgspec.json.Decoder(Head)
_identities = msgspec.json.Decoder(Identity)


def records_folder(folder: Path) -> Path:
    """Where the records are."""
    return folder / "records"


def heads_file(folder: Path) -> Path:
    """Where the heads are."""
    return folder / "heads.jsonl"


def identity_file(folder: Path) -> Path:
    """Where the log says which one it is."""
    return folder / "log.json"


def segment_file(folder: Path, index: int) -> Path:
    """The file that holds record ``index``."""
    return records_folder(folder) / f"{index - index % SEGMENT_RECORDS:012d}.jsonl"


def segments(folder: Path) -> list[Path]:
    """The files with records that exist, in order."""
    return sorted(records_folder(folder).glob("*.jsonl"))


def lines(data: bytes) -> tuple[list[bytes], bytes]:
    """The whole lines, and what stands behind the last newline."""
    *whole, rest = data.split(b"\n")
    return whole, rest


def read_lines(path: Path) -> list[bytes]:
    """The whole lines of a file; none of one that is not there."""
    return lines(path.read_bytes())[0] if path.exists() else []


def read_identity(folder: Path) -> Identity | None:
    """Which log it is; None for an empty folder. Raises :class:`AuditDamaged`."""
    path = identity_file(folder)
    if not path.exists():
        return None
    try:
        return _identities.decode(path.read_bytes())
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise AuditDamaged(f"{path} can't be read: {error}") from None


def head_of(line: bytes) -> Head:
    """One line of ``heads.jsonl``. Raises :class:`AuditDamaged`."""
    try:
        return _heads.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise AuditDamaged(f"a line of heads.jsonl can't be read: {error}") from None


def head_line(head: Head) -> bytes:
    """As it is kept."""
    return msgspec.json.encode(head) + b"\n"


def all_lines(folder: Path) -> Iterator[bytes]:
    """Every whole record, a segment at a time."""
    for path in segments(folder):
        yield from read_lines(path)


# Writing --------------------------------------------------------------------------------------------


def append_synced(path: Path, at: int, data: bytes) -> None:
    """Write ``data`` at offset ``at`` and make it durable; on failure the file is as long as before."""
    fresh = not path.exists()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        try:
            _write_all(handle, at, data)
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, at)
            raise
    finally:
        os.close(handle)
    if fresh:
        sync_folder(path.parent)


def _write_all(handle: int, at: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(handle, left, at)
        left, at = left[written:], at + written


def sync_folder(path: Path) -> None:
    """Make new names durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
