"""Updates on the disk until their receipt, and what the encoding of the last accepted one left out.

    <number>.slot          MessagePack of what an update is, and its bytes: durable (edge/training/slots.py)
    <job>.rest             u32 CRC | float32: to be added to the next update (error feedback)
    <job>.<digest>.rest    the same, of an update whose receipt has not come

A rest takes the place of the one before only when the update that it belongs to was accepted: what a late
or refused update said was not added to anything, so nothing of it may be counted as sent. (The local training
that it described is lost with it, as in plain averaging.)

The update last written stays in memory, if it is small, and so does its rest, which reaches the disk only
with :meth:`Updates.keep`, some seconds later: where rounds are short, the next one has replaced it by then.
A process that dies takes such a rest with it. Then nothing is added to the next update, and never what an
accepted update has said already: with the receipt, the rest before it leaves the disk.
"""

import struct
import threading
import zlib
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from edge.training.events import Stored, UpdateKey
from edge.training.slots import Record, Slots
from shared.errors import Unavailable, Unreadable
from shared.ids import checked_id
from shared.learning import PART_BYTES, UPDATE_BYTES_MAX, UpdateHeader
from shared.vectors import F32, Vector

_CRC = struct.Struct("<I")  # against a power cut; nobody else writes here
_NAME_DIGITS = 32
MEMORY_BYTES_MAX = 16 << 20  # of a rest, and of an update's bytes


class _Head(msgspec.Struct, frozen=True):
    """What an update is. ``rests``: it says the rest of the update before, and has one of its own."""

    job: str
    round: int
    ask: str
    header: UpdateHeader
    rests: bool = False


class _Newest(NamedTuple):
    """The update last written. ``rest`` None: nothing was to be added to it, and nothing is to be kept."""

    key: UpdateKey
    header: UpdateHeader
    data: bytes
    rest: Vector | None


class _Rest(NamedTuple):
    """What the last accepted update of a job left out."""

    job: str
    vector: Vector


class Updates:
    """The folder of one device. Methods block; all but :meth:`part` and :meth:`settle` are for a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._slots = folder, Slots(folder)
        self._held: dict[UpdateKey, tuple[int, UpdateHeader]] = {}  # its slot; all that wait
        self._newest: _Newest | None = None
        self._kept: _Rest | None = None
        self._unkept = False  # whether ``_kept`` is in memory only
        self._resting: set[UpdateKey] = set()  # that wait for a receipt, and have a rest
        self._files_change = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def restore(self, unix_s: float) -> tuple[Stored, ...]:
        """What waits, sound and whole, at that time; everything else is cleared away.

        What is in memory is forgotten: call it when a process begins.
        """
        self._newest, self._kept, self._unkept = None, None, False
        self._held.clear()
        self._resting.clear()
        stored = []
        for record in self._slots.records():
            one = self._sound(record, unix_s)
            if one is None or one.key in self._held:
                self._slots.free(record.slot)
            else:
                self._held[one.key] = record.slot, one.header
                stored.append(one)
        kept = {self._rest(one.key.job, one.key.digest) for one in stored}
        for path in self._folder.iterdir():
            pending = path.suffix == ".rest" and path.stem.count(".") > 0
            if path not in kept and (pending or path.suffix == ".tmp"):
                path.unlink(missing_ok=True)
        return tuple(stored)

    def put(self, stored: Stored, data: bytes, rest: Vector | None) -> None:
        """Make an update durable. Raises :class:`Unavailable` when the disk refuses or it is too long."""
        if len(data) > UPDATE_BYTES_MAX:
            raise Unavailable(f"the update has {len(data)} bytes; at most {UPDATE_BYTES_MAX} can be sent")
        key = stored.key
        head = msgspec.msgpack.encode(_Head(key.job, key.round, stored.ask, stored.header, rest is not None))
        raw = None if rest is None else np.ascontiguousarray(rest, F32)
        small = len(data) <= MEMORY_BYTES_MAX and (raw is None or raw.nbytes <= MEMORY_BYTES_MAX)
        try:
            with self._files_change:
                self._write_waiting()
                if raw is not None and not small:
                    _write_rest(self._rest(key.job, key.digest), raw)
            self._held[key] = self._slots.write(head, data), stored.header
        except OSError as error:
            raise Unavailable(f"the update can't be kept: {error.strerror}") from None
        self._newest = _Newest(key, stored.header, data, raw) if small else None
        if raw is not None:
            self._resting.add(key)

    def keep(self) -> None:
        """What is in memory is on the disk when this returns. Raises ``OSError``."""
        with self._files_change:
            self._write_waiting()
            self._write_kept()

    def part(self, key: UpdateKey, index: int) -> tuple[UpdateHeader, bytes]:
        """The header and one part's bytes. Raises :class:`Unavailable` when the file is gone."""
        newest, start = self._newest, index * PART_BYTES
        if newest is not None and newest.key == key:
            return newest.header, newest.data[start : start + PART_BYTES]
        try:
            slot, header = self._held[key]
            return header, self._slots.read(slot, start, PART_BYTES)
        except (KeyError, OSError, Unreadable) as error:
            raise Unavailable(f"the update can't be read: {error}") from None

    def settle(self, key: UpdateKey, accepted: bool) -> None:
        """Remove the update; keep or drop its rest."""
        with self._files_change:
            newest = self._newest if self._newest is not None and self._newest.key == key else None
            rest = self._rest(key.job, key.digest)
            if accepted and (key in self._resting or rest.exists()):
                # Renamed over another file, it would be flushed to the disk at once. After a crash in
                # between, the update is still here: its receipt comes again.
                self._rest(key.job).unlink(missing_ok=True)
                self._accept(key.job, rest, newest)
            rest.unlink(missing_ok=True)
            if key in self._held:
                self._slots.free(self._held.pop(key)[0])
            self._resting.discard(key)
            if newest is not None:
                self._newest = None

    def _accept(self, job: str, path: Path, newest: _Newest | None) -> None:
        """Its rest, in memory or in that file, is the one to add from now on."""
        if newest is not None and newest.rest is not None:
            if self._kept is not None and self._kept.job != job:
                with suppress(OSError):  # a full disk: then nothing is added to the next one of that job
                    self._write_kept()
            self._kept, self._unkept = _Rest(job, newest.rest), True
            return
        if self._kept is not None and self._kept.job == job:
            self._kept, self._unkept = None, False
        if path.exists():
            path.replace(self._rest(job))

    def _write_waiting(self) -> None:
        """The rest of the newest update, while there is no receipt of it."""
        newest = self._newest
        if newest is not None and newest.rest is not None:
            path = self._rest(newest.key.job, newest.key.digest)
            if not path.exists():
                _write_rest(path, newest.rest)

    def _write_kept(self) -> None:
        if self._kept is not None and self._unkept:
            _write_rest(self._rest(self._kept.job), self._kept.vector)
        self._unkept = False

    def rest(self, job: str, n_params: int) -> Vector | None:
        """What the last accepted update left out [n_params]; None: nothing, or of another model."""
        kept = self._kept
        if kept is not None and kept.job == job:
            return kept.vector if kept.vector.size == n_params else None
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
        with self._files_change:
            self._rest(job).unlink(missing_ok=True)
            if self._kept is not None and self._kept.job == job:
                self._kept, self._unkept = None, False

    def _sound(self, record: Record, unix_s: float) -> Stored | None:
        try:
            head = msgspec.msgpack.decode(record.head, type=_Head)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        if sha256(record.data).hexdigest() != head.header.digest:
            return None
        key = UpdateKey(head.job, head.round, head.header.digest)
        if head.rests:
            self._resting.add(key)
        return Stored(key, head.header, head.ask, max(0.0, unix_s - record.written_unix_s))

    def _rest(self, job: str, digest: str = "") -> Path:
        pending = f".{digest[:_NAME_DIGITS]}" if digest else ""
        return self._folder / f"{checked_id(job)}{pending}.rest"


def _write_rest(path: Path, rest: Vector) -> None:
    """Whole or not at all. It is not synced: one that a power cut took fails its check, and is none."""
    draft = path.with_name(f"{path.name}.tmp")
    with draft.open("wb") as file:
        file.write(_CRC.pack(zlib.crc32(rest.data)))
        file.write(rest.data)
    draft.replace(path)
