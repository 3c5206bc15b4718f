"""Durable records in files that are used again and again: one record each, written over what was there.

    <number>.slot    u32 length of the head | u32 of the data | u32 CRC of both and of the head | head | data

A device makes one update durable in each round. A new file for each would be two syncs, of the file and of
its name, and both wait for the file system's journal; a file that has its name and its blocks already needs
neither, and takes a fifth of the time. Only a slot that is free is written over: a record that a power cut
tears is one that nobody was told of, and does not match its check. (Of the data, its owner has the check.)

Freeing is not synced. After a power cut a record may be back that was let go of; its owner has to bear that.
"""

import errno
import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from edge.store.folders import sync_folder
from shared.errors import Unreadable

_PREFIX = Struct("<III")
_PAIR = Struct("<II")
HEAD_BYTES_MAX = 1 << 20
REUSED_MAX = 4  # files beyond these, and larger ones than the next line says, are deleted when they are free
REUSED_BYTES_MAX = 1 << 20


class Record(NamedTuple):
    """``data`` may be anything: only the head was checked."""

    slot: int
    head: bytes
    data: bytes
    written_unix_s: float


class Slots:
    """A folder of slots. Methods block, and raise ``OSError`` where the disk refuses; any thread may call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used: dict[int, int] = {}  # slot -> where its data begins
        self._choosing = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def records(self) -> list[Record]:
        """Those with a sound head: they, and no others, are in use from now on."""
        self._used.clear()
        found = sorted(int(path.stem) for path in self._folder.glob("*.slot") if path.stem.isdecimal())
        return [record for slot in found for record in self._record(slot)]

    def write(self, head: bytes, data: bytes) -> int:
        """Durable when this returns; gives the slot."""
        lengths = _PAIR.pack(len(head), len(data))
        prefix = lengths + zlib.crc32(head, zlib.crc32(lengths)).to_bytes(4, "little")
        with self._choosing:
            slot = next(number for number in range(len(self._used) + 1) if number not in self._used)
            self._used[slot] = len(prefix) + len(head)
        try:
            self._write(self._path(slot), (prefix, head, data))
        except OSError:
            del self._used[slot]
            raise
        return slot

    def read(self, slot: int, start: int, length: int) -> bytes:
        """A piece of the data. Raises :class:`Unreadable` for a slot that is not in use."""
        if slot not in self._used:
            raise Unreadable(f"slot {slot} is free")
        descriptor = os.open(self._path(slot), os.O_RDONLY)
        try:
            return os.pread(descriptor, length, self._used[slot] + start)
        finally:
            os.close(descriptor)

    def free(self, slot: int) -> None:
        """It may be written over. Does nothing for one that is free."""
        if slot not in self._used:
            return
        path = self._path(slot)
        descriptor = os.open(path, os.O_WRONLY)
        try:
            os.pwrite(descriptor, bytes(_PREFIX.size), 0)
            reused = slot < REUSED_MAX and os.fstat(descriptor).st_size <= REUSED_BYTES_MAX
        finally:
            os.close(descriptor)
        if not reused:
            path.unlink(missing_ok=True)
        del self._used[slot]  # the last step: from here on somebody may write over it

    def _write(self, path: Path, pieces: tuple[bytes, ...]) -> None:
        new = not path.exists()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            if os.writev(descriptor, pieces) < sum(map(len, pieces)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        if new:
            sync_folder(self._folder)

    def _record(self, slot: int) -> Iterator[Record]:
        path = self._path(slot)
        try:
            content, written = path.read_bytes(), path.stat().st_mtime
        except OSError:
            return
        head_bytes, data_bytes, check = _PREFIX.unpack_from(content.ljust(_PREFIX.size, b"\0"))
        start = _PREFIX.size + head_bytes
        head, data = content[_PREFIX.size : start], content[start : start + data_bytes]
        sound = zlib.crc32(head, zlib.crc32(content[: _PAIR.size])) == check
        self._used[slot] = start
        if sound and 0 < head_bytes <= HEAD_BYTES_MAX and len(data) == data_bytes:
            yield Record(slot, head, data, written)
        else:
            self.free(slot)

    def _path(self, slot: int) -> Path:
        return self._folder / f"{slot}.slot"
