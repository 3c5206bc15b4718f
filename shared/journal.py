"""What is new but not yet on the disk, and what may be said once it is. One save at a time.

    write ──> fresh ──take──> saving ──saved──> replica (what others may hear of)
                ^                │                └─> the effects that waited for it
                └────failed──────┘

A burst shares a save: everything that is written while one is under way leaves with the next. ``then`` is how
acknowledgements, replies and reads wait: they are let go when all that was written before them is durable.
So a reader can't see what a power cut might still undo.
"""

from dataclasses import dataclass, field

from shared.core import Effect
from shared.summaries import Replica
from shared.versions import Entry


@dataclass(slots=True)
class Batch:
    """What one save makes durable, and what happens then. ``sources``: who sent us the newest state."""

    entries: dict[str, Entry] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)
    then: list[Effect] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    more: bool = False  # something else than entries is to be saved

    def __bool__(self) -> bool:
        return bool(self.entries or self.forgotten or self.then or self.more)


@dataclass(slots=True)
class Journal:
    """``replica`` is durable; ``next`` is not even on its way."""

    replica: Replica = field(default_factory=Replica)
    next: Batch = field(default_factory=Batch)
    saving: Batch | None = None

    def read(self, name: str) -> Entry:
        """The newest state, durable or not."""
        return self.newest(name) or Entry(name)

    def newest(self, name: str) -> Entry | None:
        """The newest state, durable or not; None: nobody ever wrote it."""
        for batch in (self.next, self.saving):
            if batch is not None and name in batch.entries:
                return batch.entries[name]
            if batch is not None and name in batch.forgotten:
                return None
        return self.replica.entries.get(name)

    def write(self, entry: Entry, source: str = "") -> None:
        """This is the newest state now."""
        self.next.entries[entry.name] = entry
        self.next.sources[entry.name] = source
        self.next.forgotten.discard(entry.name)

    def forget(self, name: str) -> None:
        """As if it had never been."""
        self.next.entries.pop(name, None)
        self.next.forgotten.add(name)

    def then(self, *effects: Effect) -> None:
        """To be done when everything written so far is durable."""
        self.next.then += effects

    def take(self) -> Batch:
        """The next save begins."""
        assert self.saving is None, "one save at a time"
        self.saving, self.next = self.next, Batch()
        return self.saving

    def saved(self) -> Batch:
        """It is durable."""
        assert self.saving is not None
        batch, self.saving = self.saving, None
        for name in batch.forgotten:
            if name in self.replica:
                self.replica.forget(name)
        for entry in batch.entries.values():
            self.replica.put(entry)
        return batch

    def failed(self) -> None:
        """It is not, or nobody knows: it belongs to the next save again."""
        assert self.saving is not None
        old, new, self.saving = self.saving, self.next, None
        gone = {name for name in old.forgotten if name not in new.entries}
        entries = {name: entry for name, entry in old.entries.items() if name not in new.forgotten}
        self.next = Batch(
            {**entries, **new.entries},
            gone | new.forgotten,
            old.then + new.then,
            {**old.sources, **new.sources},
            old.more or new.more,
        )

    def check(self) -> None:
        """Invariants."""
        for batch in (self.next, self.saving):
            assert batch is None or not batch.entries.keys() & batch.forgotten
