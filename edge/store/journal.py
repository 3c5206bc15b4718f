"""A small state that changes often: a snapshot, and behind it the changes since, each durable when told so.

    {name}.{generation}.snap     one record: everything at one moment
    {name}.{generation}.log      records: what changed since

    record    length u32 | crc32 u32 | payload

A change is one write and one sync, whatever the size of the state. When the log has outgrown the snapshot
the owner writes a new one: the next generation's snapshot is written, synced and renamed into place, then its
log is begun, then the old files go. A crash in between leaves two generations, and the newest that is whole
is used. The end of a log that is no record is a torn write, of which nobody was told that it is durable: it
is cut off. A record in the middle that fails its checksum is passed over and reported, for those behind it
may have been promised.
"""

import errno
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

from edge.store.atomic import StoreFull, StoreUnwritable
from edge.store.folders import sync_folder

RECORD_BYTES_MAX = 64 << 20
_HEADER = Struct("<II")
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NAME = re.compile(r"(.+)\.(\d{12})\.(snap|log)")


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was on the disk. ``damaged``: records that could not be read; ``torn_bytes``: cut off."""

    snapshot: bytes | None
    changes: tuple[bytes, ...]
    damaged: int
    torn_bytes: int


class StateJournal:
    """One state in ``folder``. Not safe for two threads: whoever calls sees to one call at a time.

    Raises :class:`StoreFull` or :class:`StoreUnwritable`; nothing of the call is durable then, or nobody
    knows, and calling again is right.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._generation = 0
        self._log = -1
        self._end = 0
        self.snapshot_bytes = 0

    @property
    def log_bytes(self) -> int:
        """How much has been written since the snapshot."""
        return self._end

    def recover(self) -> Recovered:
        """Read what there is (the folder is made). Call once, first."""
        with _typed_errors(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            snapshot, damaged = self._newest_snapshot()
            changes, bad, good_bytes, size = self._changes()
            self._open(good_bytes)
            self._remove_others()
        return Recovered(snapshot, tuple(changes), damaged + bad, size - good_bytes)

    def append(self, payload: bytes) -> None:
        """One change: durable when this returns."""
        with _typed_errors(self._folder):
            try:
                _write(self._log, _record(payload))
                os.fdatasync(self._log)
            except OSError:
                # What was half written would hide what comes after it.
                with suppress(OSError):
                    os.ftruncate(self._log, self._end)
                    os.lseek(self._log, self._end, os.SEEK_SET)
                raise
            self._end += _HEADER.size + len(payload)

    def replace(self, snapshot: bytes) -> None:
        """Begin anew with this state: durable when this returns."""
        with _typed_errors(self._folder):
            draft = self._folder / f"{self._name}.tmp"
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                _write(handle, _record(snapshot))
                os.fsync(handle)
            finally:
                os.close(handle)
            self._generation += 1
            os.replace(draft, self._path("snap"))
            sync_folder(self._folder)
            self.snapshot_bytes = len(snapshot)
            self._open(0)
            self._remove_others()

    def close(self) -> None:
        """Nothing is written here: all was durable already."""
        if self._log >= 0:
            os.close(self._log)
            self._log = -1

    # Files ------------------------------------------------------------------------------------------

    def _path(self, kind: str) -> Path:
        return self._folder / f"{self._name}.{self._generation:012d}.{kind}"

    def _files(self) -> Iterator[tuple[Path, int, str]]:
        for entry in sorted(os.listdir(self._folder)):
            match = _NAME.fullmatch(entry)
            if match is not None and match[1] == self._name:
                yield self._folder / entry, int(match[2]), match[3]

    def _newest_snapshot(self) -> tuple[bytes | None, int]:
        snapshots = [(generation, path) for path, generation, kind in self._files() if kind == "snap"]
        damaged = 0
        for generation, path in reversed(snapshots):
            records, bad, _ = _records(path.read_bytes())
            if records and not bad:
                self._generation, self.snapshot_bytes = generation, len(records[0])
                return records[0], damaged
            damaged += 1
        # Without any, the oldest log is still worth reading.
        self._generation = min((one for _, one, kind in self._files() if kind == "log"), default=0)
        return None, damaged

    def _changes(self) -> tuple[list[bytes], int, int, int]:
        path = self._path("log")
        data = path.read_bytes() if path.exists() else b""
        records, bad, good_bytes = _records(data)
        return records, bad, good_bytes, len(data)

    def _open(self, end: int) -> None:
        self.close()
        self._log = os.open(self._path("log"), os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._log, end)
        os.lseek(self._log, end, os.SEEK_SET)
        os.fsync(self._log)
        sync_folder(self._folder)
        self._end = end

    def _remove_others(self) -> None:
        for path, generation, _ in list(self._files()):
            if generation != self._generation:
                path.unlink()


def _record(payload: bytes) -> bytes:
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def _write(handle: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


def _records(data: bytes) -> tuple[list[bytes], int, int]:
    """The good records, how many were bad, and where the last good one ends."""
    records: list[bytes] = []
    bad = lost = at = good_end = 0
    while at + _HEADER.size <= len(data):
        end = _good_end(data, at)
        if end:
            records.append(data[at + _HEADER.size : end])
            bad, lost, at, good_end = bad + lost, 0, end, end
        else:
            lost, at = 1, at + 1  # the torn end, unless a good one follows
    return records, bad, good_end


def _good_end(data: bytes, at: int) -> int:
    """Where the record ends that begins here; 0: none does."""
    length, crc = _HEADER.unpack_from(data, at)
    end: int = at + _HEADER.size + length
    if not 0 < length <= RECORD_BYTES_MAX or end > len(data):
        return 0
    return end if zlib.crc32(data[at + _HEADER.size : end]) == crc else 0


@contextmanager
def _typed_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = StoreFull if error.errno in _NO_ROOM else StoreUnwritable
        raise kind(f"can't keep the replica in {folder}: {error.strerror or error}") from error
