"""Append-only logs of numbered records that survive power cuts: what waits to be sent lives here.

    {log}.{first}.seg             records (see :mod:`edge.store.records`), from sequence ``first`` on
    {log}.{first}.{end}.gone      empty: these records were given up to make room

One write and one sync per log make any number of records durable together; the newest file of a log is
appended to. A file that reaches ``segment_bytes`` is closed and a new one begun; a whole file is what is
deleted. When everything in the newest file has been forgotten it is emptied in place: so a file may begin
later than its name says. A file that is missing between two others is damage, unless a ``.gone`` file says
otherwise.
"""

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from edge.store.atomic import StoreFull, StoreUnwritable
from edge.store.folders import sync_folder
from edge.store.records import Scan, records, scanned
from shared.ranges import Range, Ranges, subtract, union

SEGMENT_BYTES = 256 * 1024
_CACHED_FILES = 4
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NAME = re.compile(r"([a-z0-9.-]{1,200}?)\.(\d{20})(?:\.(\d{20}))?\.(seg|gone)")


@dataclass(frozen=True, slots=True)
class Segment:
    """One file: records ``first`` to ``end - 1`` of a log, as far as they are not damaged."""

    log: str
    first: int
    end: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Lot:
    """Records to append to one log: ``payloads`` are numbered from ``first`` on."""

    log: str
    first: int
    payloads: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was found in the folder. ``segments``, ``gone``: by log and sequence; ``damaged``: per log.

    ``torn_bytes``: cut off at the ends; nobody was told that they are durable.
    """

    segments: tuple[Segment, ...]
    gone: tuple[Segment, ...]
    damaged: dict[str, Ranges]
    torn_bytes: int


@dataclass(slots=True)
class _File:
    path: Path
    log: str
    name_first: int  # what its name says
    first: int
    end: int
    bytes: int
    handle: int = -1

    def fact(self) -> Segment:
        return Segment(self.log, self.first, self.end, self.bytes)


class Segments:
    """The logs of one folder. Not safe for two threads: whoever calls sees to one call at a time.

    Methods raise :class:`StoreFull` or :class:`StoreUnwritable`; nothing of the call is durable then.
    """

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder, self._segment_bytes = folder, segment_bytes
        self._files: dict[str, list[_File]] = {}  # log -> its files, the oldest first
        self._gone: dict[str, list[tuple[Path, Range]]] = {}
        self._scans: dict[tuple[Path, int], Scan] = {}

    # Opening ----------------------------------------------------------------------------------------

    def recover(self) -> Recovered:
        """Read the folder (made if it is not there). Call once, first. Only files without a record go."""
        with _typed_errors(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            names = sorted(os.listdir(self._folder))
        for name in names:
            match = _NAME.fullmatch(name)
            if match is not None:
                self._remember(self._folder / name, match)
        damaged: dict[str, Ranges] = {}
        torn = 0
        for log in sorted(set(self._files) | set(self._gone)):
            bad, torn_here = self._examine(log)
            torn += torn_here
            if bad:
                damaged[log] = bad
        segments = tuple(one.fact() for files in self._files.values() for one in files)
        gone = tuple(
            Segment(log, first, end, 0) for log, marks in self._gone.items() for _, (first, end) in marks
        )
        return Recovered(segments, gone, damaged, torn)

    def _remember(self, path: Path, match: re.Match[str]) -> None:
        log, first = match[1], int(match[2])
        if match[4] == "gone" and match[3] is not None:
            self._gone.setdefault(log, []).append((path, (first, int(match[3]))))
        elif match[4] == "seg" and match[3] is None:
            self._files.setdefault(log, []).append(_File(path, log, first, first, first, 0))

    def _examine(self, log: str) -> tuple[Ranges, int]:
        """Fill in what the files of a log hold; its damaged ranges and torn bytes."""
        files = self._files.get(log, [])
        bad: list[Range] = []
        torn = 0
        expected: int | None = None
        for place, one in enumerate(files):
            scan = _scan_of(one)
            after = files[place + 1].name_first if place + 1 < len(files) else scan.end
            one.first, one.end, one.bytes = scan.first, min(scan.end, after), len(scan.data)
            bad += [one for one in scan.damaged if one[0] < after]
            torn += scan.torn_bytes
            if expected is not None and expected < one.first:
                bad.append((expected, one.first))
            expected = max(expected or 0, one.end)
            if one.end < after:
                bad.append((one.end, after))
        self._files[log] = [one for one in files if one.end > one.first]
        for one in files:
            if one.end <= one.first:
                with suppress(OSError):  # a disk that is read-only may keep it
                    one.path.unlink()
        known = [span for _, span in self._gone.get(log, [])]
        return subtract(union((), bad), known), torn

    # Writing ----------------------------------------------------------------------------------------

    def append(self, lots: Sequence[Lot]) -> tuple[Segment, ...]:
        """Make records durable, all or none of them; the files that they went to, as they are now."""
        before: list[tuple[_File, int, int]] = []
        created = False
        with _typed_errors(self._folder):
            try:
                for lot in lots:
                    one, new = self._open_for(lot)
                    created = created or new
                    before.append((one, one.end, one.bytes))
                    self._write(one, lot)
                for one in {id(one): one for one, _, _ in before}.values():
                    os.fdatasync(one.handle)
                if created:
                    sync_folder(self._folder)
            except OSError:
                for one, end, size in reversed(before):
                    self._undo(one, end, size)
                raise
        return tuple(one.fact() for one in {id(one): one for one, _, _ in before}.values())

    def _open_for(self, lot: Lot) -> tuple[_File, bool]:
        files = self._files.setdefault(lot.log, [])
        if files and files[-1].handle >= 0 and files[-1].bytes < self._segment_bytes:
            return files[-1], False
        if files:
            self._close(files[-1])
        path = self._folder / f"{lot.log}.{lot.first:020}.seg"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        files.append(_File(path, lot.log, lot.first, lot.first, lot.first, 0, handle))
        return files[-1], True

    def _write(self, one: _File, lot: Lot) -> None:
        data = b"".join(records(lot.first, lot.payloads))
        left = memoryview(data)
        while left:
            left = left[os.write(one.handle, left) :]
        if one.bytes == 0:
            one.first = lot.first
        one.end = lot.first + len(lot.payloads)
        one.bytes += len(data)

    def _undo(self, one: _File, end: int, size: int) -> None:
        """Half of a write would only take the room that is missing. What can't be cut off is closed: the
        next file begins where the good records ended, and a scan believes the next file."""
        one.end, one.bytes = end, size
        try:
            os.ftruncate(one.handle, size)
        except OSError:
            self._close(one)

    def discard(self, log: str, first: int) -> Segment | None:
        """Give up the file of a log that begins at ``first``, and remember that it was given up."""
        for one in self._files.get(log, []):
            if one.first == first:
                with _typed_errors(self._folder):
                    mark = self._folder / f"{log}.{one.first:020}.{one.end:020}.gone"
                    os.replace(one.path, mark)
                    os.truncate(mark, 0)
                    sync_folder(self._folder)
                self._close(one)
                self._files[log].remove(one)
                self._gone.setdefault(log, []).append((mark, (one.first, one.end)))
                return one.fact()
        return None

    def forget(self, log: str, until: int) -> None:
        """Delete what holds only records below ``until``: the cloud has them."""
        with _typed_errors(self._folder):
            files = self._files.get(log, [])
            while files and files[0].end <= until:
                one = files[0]
                if len(files) == 1 and one.handle >= 0:
                    if one.bytes:
                        os.ftruncate(one.handle, 0)
                        one.first, one.bytes = one.end, 0
                    break
                one.path.unlink(missing_ok=True)
                self._close(one)
                files.pop(0)
            kept = []
            for mark, (first, end) in self._gone.get(log, []):
                if end <= until:
                    mark.unlink(missing_ok=True)
                else:
                    kept.append((mark, (first, end)))
            self._gone[log] = kept

    def close(self, log: str) -> None:
        """Forget everything of a log and delete its files."""
        with _typed_errors(self._folder):
            for one in self._files.pop(log, []):
                self._close(one)
                one.path.unlink(missing_ok=True)
            for mark, _ in self._gone.pop(log, []):
                mark.unlink(missing_ok=True)

    # Reading ----------------------------------------------------------------------------------------

    def read(self, log: str, first: int, end: int) -> dict[int, bytes]:
        """The payloads of sequences ``first`` to ``end - 1``; those that are not readable are left out."""
        found: dict[int, bytes] = {}
        for one in self._files.get(log, []):
            if one.end <= first or one.first >= end:
                continue
            scan = self._scan(one)
            for sequence in range(max(first, one.first), min(end, one.end)):
                place = scan.found.get(sequence)
                if place is not None:
                    found[sequence] = scan.data[place[0] : place[0] + place[1]]
        return found

    def _scan(self, one: _File) -> Scan:
        key = one.path, one.bytes
        scan = self._scans.get(key)
        if scan is None:
            scan = _scan_of(one)
            while len(self._scans) >= _CACHED_FILES:
                del self._scans[next(iter(self._scans))]
            self._scans[key] = scan
        return scan

    # Files ------------------------------------------------------------------------------------------

    def shut(self) -> None:
        """Close every file. All was durable already."""
        for files in self._files.values():
            for one in files:
                self._close(one)

    def _close(self, one: _File) -> None:
        if one.handle >= 0:
            with suppress(OSError):
                os.close(one.handle)
            one.handle = -1


def _scan_of(one: _File) -> Scan:
    """What a file holds. All of it counts as damaged where the disk can't give the bytes back."""
    try:
        return scanned(one.path.read_bytes(), one.name_first)
    except OSError:
        return Scan(b"", first=one.name_first, end=one.name_first)


@contextmanager
def _typed_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = StoreFull if error.errno in _NO_ROOM else StoreUnwritable
        raise kind(f"can't keep telemetry in {folder}: {error.strerror or error}") from error
