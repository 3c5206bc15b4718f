"""A TinyDB storage that a power cut can't corrupt.

TinyDB's own storage overwrites its file in place and truncates last, so a kill in between leaves half of
the new text in front of half of the old one. Here every write makes a whole new file:

    state.json.tmp   1. written, synced
    state.json.1     2. the generation before: ``state.json`` is renamed to it
    state.json       3. the newest: ``state.json.tmp`` is renamed to it, and the folder is synced
    state.json.bad      the last file that could not be read, kept for a person

A file is one header line and a JSON body, and the header carries a SHA-256 over the generation number and
the body. So a torn, truncated, flipped or empty file is *known* to be bad: it is set aside, the generation
before is used, and :attr:`AtomicStorage.damage` says so. A crash between 2 and 3 leaves no ``state.json``
but a good ``state.json.1``: that is no damage, merely a write that nobody had been told was done.

When both generations are bad the store starts empty and reports it: a device that forgot its models can be
told again, a device that refuses to boot must be visited.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydb.storages import Storage

from edge.store.folders import sync_folder
from shared.errors import Unavailable

Tables = dict[str, dict[str, Any]]

_HEADER = re.compile(rb"shoal-state 1 ([0-9]{1,18}) ([0-9a-f]{64})\n")
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class StoreUnwritable(Unavailable):
    """The state could not be written (read-only, no permission, a failing disk). The old state stays."""


class StoreFull(StoreUnwritable):
    """There is no room for the new state. The old state stays."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that could not be read when the store was opened.

    ``used_generation``: what was used in its place; None: nothing was left, the store started empty.
    """

    file: str
    reason: str
    used_generation: int | None


class _Unsound(Exception):
    """The bytes of a file are not what its header promises."""


class AtomicStorage(Storage):
    """Holds all tables of a TinyDB in the two newest generations of one file.

    Readable by the owner only (0600), as it holds the device's key. Not safe for two processes; see
    :class:`edge.store.state.DeviceState`, which keeps the second one out.
    """

    def __init__(self, path: str | Path) -> None:
        """Open or create. ``damage`` holds what was unreadable. Raises :class:`StoreUnwritable`."""
        self._newest = Path(path)
        self._previous = self._newest.with_name(f"{self._newest.name}.1")
        self._draft = self._newest.with_name(f"{self._newest.name}.tmp")
        self._bad = self._newest.with_name(f"{self._newest.name}.bad")
        self._uncommitted: str | None = None
        self._nested = False
        with _typed_errors(self._newest):
            self._newest.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.damage = self._open()

    def read(self) -> Tables | None:
        """A copy of all tables, as a restart would find them; None while there is nothing.

        Parsed from the cached text each time: TinyDB changes what it gets in place *before* it writes, and a
        write that fails must not leave its traces in memory.
        """
        body = self._body if self._uncommitted is None else self._uncommitted
        return None if not body else json.loads(body)

    def write(self, data: Tables) -> None:
        """Make ``data`` the newest generation; durable when this returns, or at the end of the transaction.

        Raises :class:`StoreFull` or :class:`StoreUnwritable` with the old state intact, and ``ValueError`` or
        ``TypeError`` for what JSON can't say.
        """
        body = json.dumps(data, separators=(",", ":"), allow_nan=False)
        if self._nested:
            self._uncommitted = body
        elif body != self._body:
            self._commit(body)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything written inside becomes durable together, by one write; nothing does if it raises."""
        if self._nested:
            yield
            return
        self._nested = True
        try:
            yield
            if self._uncommitted is not None and self._uncommitted != self._body:
                self._commit(self._uncommitted)
        finally:
            self._nested, self._uncommitted = False, None

    def keep_twice(self) -> None:
        """Write the present state once more, so that the generation before says the same."""
        self._commit(self._body)

    def _open(self) -> tuple[Damage, ...]:
        self._generation, self._body, self._newest_is_good = 0, "", False
        unsound: list[tuple[Path, str]] = []
        for path in (self._newest, self._previous):
            try:
                self._generation, self._body = _sound(path.read_bytes())
                self._newest_is_good = path == self._newest
                break
            except FileNotFoundError:
                continue
            except (_Unsound, OSError) as error:  # OSError: the disk can't give the bytes back
                unsound.append((path, str(error)))
        for path, _ in reversed(unsound):  # the newest last, since only one is kept
            with suppress(OSError):  # a disk that became read-only: it is still reported
                os.replace(path, self._bad)
        used = self._generation or None
        return tuple(Damage(path.name, reason, used) for path, reason in unsound)

    def _commit(self, body: str) -> None:
        generation = self._generation + 1
        with _typed_errors(self._newest):
            try:
                _write_synced(self._draft, _signed(generation, body))
            except OSError:
                with suppress(OSError):
                    self._draft.unlink()  # half a file would only take the room that is missing
                raise
            if self._newest_is_good:  # a bad file must never push out the generation we live on
                os.replace(self._newest, self._previous)
                self._newest_is_good = False
            os.replace(self._draft, self._newest)
            self._generation, self._body, self._newest_is_good = generation, body, True
            sync_folder(self._newest.parent)


def _signed(generation: int, body: str) -> bytes:
    content = body.encode()
    return b"shoal-state 1 %d %s\n" % (generation, _digest(b"%d" % generation, content)) + content


def _sound(data: bytes) -> tuple[int, str]:
    """Generation and body of a file's bytes. Raises :class:`_Unsound`."""
    header = _HEADER.match(data)
    if header is None:
        raise _Unsound("empty file" if not data else "no header")
    content = data[header.end() :]
    if _digest(header[1], content) != header[2]:
        raise _Unsound("the checksum does not match")
    return int(header[1]), content.decode()


def _digest(generation: bytes, content: bytes) -> bytes:
    return hashlib.sha256(generation + b"\n" + content).hexdigest().encode()


def _write_synced(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb", buffering=0) as file:
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]
        os.fsync(handle)


@contextmanager
def _typed_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = StoreFull if error.errno in _NO_ROOM else StoreUnwritable
        raise kind(f"can't keep the device's state in {path}: {error.strerror or error}") from error
