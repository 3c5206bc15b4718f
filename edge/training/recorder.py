"""Keeps the device's last readings on its disk: nothing else does, for telemetry leaves as soon as it may.

    readings.new    the newest, appended to
    readings.old    the ones before: when the new file is full it takes this one's place

Each file begins with a line of JSON (the fields, and how many readings there were before it, ever), then
rows of float32. Appending costs microseconds and no sync: a power cut takes the readings of some seconds.
Between half of ``rows_max`` and all of it are kept. A reading that lacks a field is not recorded.
"""

import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from edge.training.windows import Readings

ROWS_MAX = 200_000  # eleven days at a reading every five seconds
_HEADER_BYTES_MAX = 64 * 1024


class _Header(msgspec.Struct):
    fields: tuple[str, ...]
    first: int


class Recorder:
    """Of one device. ``fields``: what is kept of each reading. Any thread may call."""

    def __init__(self, folder: Path, fields: tuple[str, ...], rows_max: int = ROWS_MAX) -> None:
        self._new, self._old = folder / "readings.new", folder / "readings.old"
        self._fields, self._rows_max, self._lock = fields, max(2, rows_max // 2), threading.Lock()
        self._rows, self._first = 0, 0
        if fields:
            folder.mkdir(parents=True, exist_ok=True)
            self._resume()

    def record(self, values: Mapping[str, float]) -> bool:
        """Append one reading. False: a field is missing or not finite, or the disk refuses; it is lost."""
        row = [values.get(name, math.nan) for name in self._fields]
        if not row or not all(map(math.isfinite, row)):
            return False
        with self._lock:
            try:
                if self._rows >= self._rows_max:
                    self._rotate()
                with self._new.open("ab") as file:
                    file.write(np.array(row, "<f4").tobytes())
            except OSError:
                return False
            self._rows += 1
        return True

    @property
    def count(self) -> int:
        """Readings recorded so far, ever."""
        return self._first + self._rows

    def readings(self) -> Readings:
        """All that are kept, in order of time."""
        with self._lock:
            old, new = _read(self._old, self._fields), _read(self._new, self._fields)
        if new is None:
            return Readings(self._fields, np.zeros((0, len(self._fields)), np.float32))
        if old is None or old.first + len(old.values) != new.first:
            return new
        return Readings(self._fields, np.concatenate([old.values, new.values]), old.first)

    def _resume(self) -> None:
        """Go on where the last boot stopped, at a whole row; begin anew where the fields were others."""
        known = _read(self._new, self._fields)
        if known is None:
            old = _read(self._old, self._fields)
            self._begin(old.first + len(old.values) if old else 0)
            return
        self._rows, self._first = len(known.values), known.first
        with self._new.open("rb+") as file:
            header_bytes = len(file.readline())
            os.truncate(file.fileno(), header_bytes + 4 * len(self._fields) * self._rows)

    def _rotate(self) -> None:
        self._new.replace(self._old)
        self._begin(self._first + self._rows)

    def _begin(self, first: int) -> None:
        self._new.write_bytes(msgspec.json.encode(_Header(self._fields, first)) + b"\n")
        self._rows, self._first = 0, first


def _read(path: Path, fields: tuple[str, ...]) -> Readings | None:
    """None: it is not there, broken, or of other fields."""
    try:
        with path.open("rb") as file:
            header = msgspec.json.decode(file.readline(_HEADER_BYTES_MAX), type=_Header)
            rows = np.frombuffer(file.read(), np.uint8)
    except (OSError, msgspec.MsgspecError):
        return None
    if header.fields != fields or not fields:
        return None
    row_bytes = 4 * len(fields)
    whole = len(rows) // row_bytes * row_bytes
    return Readings(fields, rows[:whole].view("<f4").reshape(-1, len(fields)), header.first)
