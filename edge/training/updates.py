"""Updates on the disk until their receipt, and what the encoding of the last accepted one left out.

    <job>.<round>.<digest>.update    u32 length | MessagePack of what it is | its bytes      durable
    <job>.rest                       u32 CRC | float32: to be added to the next update (error feedback)
    <job>.<digest>.rest              the same, of an update whose receipt has not come

A rest takes the place of the one before only when the update that it belongs to was accepted: what a late
or refused update said was not added to anything, so nothing of it may be counted as sent. (The local training
that it described is lost with it, as in plain averaging.) The rest is written before the update: if the
power fails between the two, the rest has no update, and is removed. A small rest is in memory as well.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np

from edge.training.events import Stored, UpdateKey
from shared.errors import Unavailable, Unreadable
from shared.ids import checked_id
from shared.learning import PART_BYTES, UPDATE_BYTES_MAX, UpdateHeader
from shared.vectors import F32, Vector

_LENGTH = struct.Struct("<I")
_CRC = struct.Struct("<I")  # against a power cut; nobody else writes here
_HEAD_BYTES_MAX = 1 << 20
_NAME_DIGITS = 32
REST_BYTES_MAX = 16 << 20  # in memory


class _Head(msgspec.Struct, frozen=True):
    """The beginning of a file."""

    job: str
    round: int
    ask: str
    header: UpdateHeader


class Updates:
    """The folder of one device. Methods block; all but :meth:`part` are for a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pending: tuple[UpdateKey, Vector] | None = None  # the rest last written
        self._kept: tuple[str, Vector] | None = None  # the rest last accepted, and its job
        folder.mkdir(parents=True, exist_ok=True)

    def restore(self, unix_s: float) -> tuple[Stored, ...]:
        """What waits, sound and whole, at that time; everything else is cleared away."""
        stored = tuple(self._sound(unix_s))
        kept = {self._path(one.key) for one in stored}
        kept |= {self._rest(one.key.job, one.key.digest) for one in stored}
        for path in self._folder.iterdir():
            pending = path.suffix == ".rest" and path.stem.count(".") > 0
            if path not in kept and (pending or path.suffix in (".tmp", ".update")):
                path.unlink(missing_ok=True)
        return stored

    def put(self, stored: Stored, data: bytes, rest: Vector | None) -> None:
        """Make an update durable. Raises :class:`Unavailable` when the disk refuses or it is too long."""
        if len(data) > UPDATE_BYTES_MAX:
            raise Unavailable(f"the update has {len(data)} bytes; at most {UPDATE_BYTES_MAX} can be sent")
        key = stored.key
        head = msgspec.msgpack.encode(_Head(key.job, key.round, stored.ask, stored.header))
        try:
            if rest is not None:
                raw = np.ascontiguousarray(rest, F32)
                _write(self._rest(key.job, key.digest), _CRC.pack(zlib.crc32(raw.data)), raw.data, sync=False)
                self._pending = (key, raw) if raw.nbytes <= REST_BYTES_MAX else None
            _write(self._path(key), _LENGTH.pack(len(head)) + head, data, sync=True)
            self._sync()
        except OSError as error:
            raise Unavailable(f"the update can't be kept: {error.strerror}") from None

    def part(self, key: UpdateKey, index: int) -> tuple[UpdateHeader, bytes]:
        """The header and one part's bytes. Raises :class:`Unavailable` when the file is gone."""
        try:
            with self._path(key).open("rb") as file:
                head, length = _head(file.read(_LENGTH.size + _HEAD_BYTES_MAX))
                file.seek(length + index * PART_BYTES)
                return head.header, file.read(PART_BYTES)
        except (OSError, Unreadable) as error:
            raise Unavailable(f"the update can't be read: {error}") from None

    def settle(self, key: UpdateKey, accepted: bool) -> None:
        """Remove the update; keep or drop its rest."""
        rest, pending = self._rest(key.job, key.digest), self._pending
        if accepted and rest.exists():
            # Renamed over another file, it would be flushed to the disk at once. After a crash in between,
            # the update is still here: its receipt comes again.
            self._rest(key.job).unlink(missing_ok=True)
            rest.replace(self._rest(key.job))
            self._kept = (key.job, pending[1]) if pending is not None and pending[0] == key else None
        rest.unlink(missing_ok=True)
        self._path(key).unlink(missing_ok=True)
        if pending is not None and pending[0] == key:
            self._pending = None

    def rest(self, job: str, n_params: int) -> Vector | None:
        """What the last accepted update left out [n_params]; None: nothing, or of another model."""
        kept = self._kept
        if kept is not None and kept[0] == job:
            return kept[1] if kept[1].size == n_params else None
        try:
            data = self._rest(job).read_bytes()
        except OSError:
            return None
        raw = data[_CRC.size :]
        if len(raw) != n_params * F32.itemsize or _CRC.pack(zlib.crc32(raw)) != data[: _CRC.size]:
            return None
        return np.frombuffer(raw, F32)

    def forget(self, job: str) -> None:
        """Nothing of this job is added to anything any more."""
        self._rest(job).unlink(missing_ok=True)
        if self._kept is not None and self._kept[0] == job:
            self._kept = None

    def _sound(self, unix_s: float) -> Iterator[Stored]:
        for path in sorted(self._folder.glob("*.update")):
            try:
                data = path.read_bytes()
                head, length = _head(data)
            except (OSError, Unreadable):
                continue
            key = UpdateKey(head.job, head.round, head.header.digest)
            if sha256(data[length:]).hexdigest() == head.header.digest and path == self._path(key):
                yield Stored(key, head.header, head.ask, max(0.0, unix_s - path.stat().st_mtime))

    def _path(self, key: UpdateKey) -> Path:
        return self._folder / f"{checked_id(key.job)}.{key.round:d}.{key.digest[:_NAME_DIGITS]}.update"

    def _rest(self, job: str, digest: str = "") -> Path:
        pending = f".{digest[:_NAME_DIGITS]}" if digest else ""
        return self._folder / f"{checked_id(job)}{pending}.rest"

    def _sync(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _head(data: bytes) -> tuple[_Head, int]:
    """What a file begins with, and the place of its data."""
    length = _LENGTH.size + int.from_bytes(data[: _LENGTH.size], "little")
    if len(data) < length or length > _HEAD_BYTES_MAX:
        raise Unreadable("an update that is cut short")
    try:
        return msgspec.msgpack.decode(data[_LENGTH.size : length], type=_Head), length
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Unreadable(f"no update: {error}") from None


def _write(path: Path, *pieces: bytes | memoryview, sync: bool) -> None:
    """Whole or not at all. A rest needs no sync: one that a power cut took fails its check, and is none."""
    draft = path.with_name(f"{path.name}.tmp")
    with draft.open("wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    draft.replace(path)
