"""The replica on the device's disk: every save is one record of a :class:`StateJournal`."""

from pathlib import Path

import msgspec

from edge.store.journal import StateJournal
from edge.sync.events import Restored, Save, Saved
from shared.versions import Entry

LOG_BYTES_MIN = 1 << 20  # a smaller log is not worth a new snapshot


class _Change(msgspec.Struct, frozen=True, array_like=True):
    """One save. A snapshot is the save that leads from nothing to everything."""

    entries: tuple[Entry, ...]
    dirty: frozenset[str]
    clean: frozenset[str]
    forgotten: tuple[str, ...]
    term: int
    cleared: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Change)


class ReplicaDisk:
    """Opened once; then one save at a time. ``trouble``: what was damaged; empty: nothing.

    Raises what :class:`StateJournal` does.
    """

    def __init__(self, folder: Path) -> None:
        self._journal = StateJournal(folder, "replica")
        found = self._journal.recover()
        self._changes = [found.snapshot] if found.snapshot is not None else []
        self._changes += found.changes
        bad = found.damaged
        self.restored, unreadable = _folded(self._changes)
        self._changes = []
        self.trouble = f"replica: {bad + unreadable} records were unreadable" if bad + unreadable else ""
        self._entries = {one.name: one for one in self.restored.entries}
        self._dirty = set(self.restored.dirty)

    def save(self, save: Save) -> Saved:
        """Durable when this returns."""
        change = _Change(save.entries, save.dirty, save.clean, save.forgotten, save.term, save.cleared)
        self._journal.append(_encoder.encode(change))
        self._entries.update((one.name, one) for one in save.entries)
        _mark(self._dirty, change)
        for name in save.forgotten:
            self._entries.pop(name, None)
        if self._journal.log_bytes > max(LOG_BYTES_MIN, 2 * self._journal.snapshot_bytes):
            self._journal.replace(self._snapshot(save.term, save.cleared))
        return Saved()

    def _snapshot(self, term: int, cleared: int) -> bytes:
        entries = tuple(self._entries.values())
        return _encoder.encode(_Change(entries, frozenset(self._dirty), frozenset(), (), term, cleared))

    def close(self) -> None:
        """Let go of the files."""
        self._journal.close()


def _mark(dirty: set[str], change: _Change) -> None:
    dirty -= {one.name for one in change.entries}
    dirty -= change.clean
    dirty -= set(change.forgotten)
    dirty |= change.dirty


def _folded(changes: list[bytes]) -> tuple[Restored, int]:
    """All changes, one after the other; and how many can't be read."""
    entries: dict[str, Entry] = {}
    dirty: set[str] = set()
    term = cleared = unreadable = 0
    for packed in changes:
        try:
            change = _decoder.decode(packed)
        except msgspec.MsgspecError:
            unreadable += 1
            continue
        entries.update((one.name, one) for one in change.entries)
        for name in change.forgotten:
            entries.pop(name, None)
        _mark(dirty, change)
        term, cleared = max(term, change.term), max(cleared, change.cleared)
    return Restored(tuple(entries.values()), frozenset(dirty), term, cleared), unreadable
