"""The disk of the coordinator: append-only logs, one folder for each job.

    learning/<job>/job.log                          one Entry for each move; the last state is the state
                   1-train-0.log                    round, task, attempt: each accepted update as it came
                   version-7.state                  parameters, and what the server's step remembers
    learning/artifacts/<digest>.shoal               snapshots and deltas, as devices fetch them
    learning/clients.log                            clients that speak through an application

    a log:  u32 length | u32 CRC-32 | payload      again and again; a torn tail is cut off

Why not the database: an update is its bytes, up to megabytes of them, and it has to be durable before its
receipt. In a log that is one write and one sync for the bytes and the record of them, they can't disagree,
and a job that ended is a folder to delete. The price: the coordinator's folder belongs to one process (it is
locked), so a second cloud can take over only with that folder in its hands.

A move that many things change is still one record, so a restart finds it done or not done.
"""

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from zlib import crc32

import msgspec

from cloud.federated.records import Answer
from shared.errors import Unavailable, Unreadable

Sync = Callable[[int], None]

_FRAME = struct.Struct("<II")
_HEAD = struct.Struct("<I")
FRAME_BYTES_MAX = 1 << 30
REWRITE_BYTES = 4 << 20
_FRAMES_AT_ONCE = 256  # an operating system takes 1,024 pieces in one call

_answers = msgspec.msgpack.Decoder(Answer)


class Log:
    """One append-only file. Methods block."""

    def __init__(self, path: Path, sync: Sync = os.fsync) -> None:
        """Whatever follows the last sound record is cut off with the next append."""
        self.path, self._sync = path, sync
        self._new = not path.exists()
        self.length = sum(_FRAME.size + len(one) for one in _frames(path))

    def payloads(self) -> Iterator[bytes]:
        """Every record, oldest first."""
        return _frames(self.path)

    def append(self, payloads: Sequence[bytes], *, durable: bool = True) -> None:
        """All of them, durable when this returns unless that is not wanted; raises ``OSError``, and then none
        of them counts."""
        end = self.length
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, end)
            for first in range(0, len(payloads), _FRAMES_AT_ONCE):
                end += _write(descriptor, payloads[first : first + _FRAMES_AT_ONCE], end)
            if durable:
                self._sync(descriptor)
        finally:
            os.close(descriptor)
        if self._new and durable:
            sync_folder(self.path.parent, self._sync)
            self._new = False
        self.length = end

    def rewrite(self, payloads: Sequence[bytes]) -> None:
        """These records in place of all others: all of them, or nothing has changed."""
        draft = Log(self.path.with_suffix(".tmp"), self._sync)
        draft.length = 0
        draft.append(payloads)
        draft.path.replace(self.path)
        sync_folder(self.path.parent, self._sync)
        self.length, self._new = draft.length, False


def _write(descriptor: int, payloads: Sequence[bytes], offset: int) -> int:
    """How many bytes that were. They are megabytes in a round: they are handed over as they lie in memory."""
    pieces = [piece for one in payloads for piece in (_FRAME.pack(len(one), crc32(one)), one)]
    size = sum(map(len, pieces))
    written = os.pwritev(descriptor, pieces, offset)
    if written < size:
        raise OSError(f"only {written} of {size} bytes could be written")
    return size


def _frames(path: Path) -> Iterator[bytes]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        while len(head := file.read(_FRAME.size)) == _FRAME.size:
            length, check = _FRAME.unpack(head)
            payload = file.read(length) if length <= FRAME_BYTES_MAX else b""
            if len(payload) < length or crc32(payload) != check:
                return
            yield payload


def answer_record(answer: Answer, data: bytes) -> bytes:
    """An accepted update as one record."""
    head = msgspec.msgpack.encode(answer)
    return _HEAD.pack(len(head)) + head + data


def read_answer(record: bytes) -> tuple[Answer, bytes]:
    """The other way. Raises :class:`Unreadable`."""
    end = _HEAD.size + int.from_bytes(record[: _HEAD.size], "little")
    try:
        return _answers.decode(record[_HEAD.size : end]), record[end:]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Unreadable(f"a record of another kind: {error}") from None


def write_whole(path: Path, data: bytes, sync: Sync | None) -> None:
    """The file, whole or not at all; durable where ``sync`` is given."""
    draft = path.with_suffix(".tmp")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        if sync is not None:
            sync(descriptor)
    finally:
        os.close(descriptor)
    draft.replace(path)
    if sync is not None:
        sync_folder(path.parent, sync)


def sync_folder(folder: Path, sync: Sync) -> None:
    """New names in it are durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def refused(error: OSError) -> Unavailable:
    """What the disk said, for a person."""
    return Unavailable(f"the disk refuses: {error.strerror or error}")
