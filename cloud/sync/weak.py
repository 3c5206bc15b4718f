"""WEAK values: the newest one that arrived, in memory, handed to the broker once and never asked about.

For what is worth nothing a second later. Nothing of it survives a restart, is acknowledged or repeated; what
could not be sent is counted.
"""

from collections import Counter
from dataclasses import dataclass, field

from cloud.sync.records import Sharing
from shared.versions import Entry

WEAK_MAX = 10_000


@dataclass(slots=True)
class Weak:
    """Values by name, with who shares them. At the bound the oldest goes. ``dropped``: by node."""

    values: dict[str, tuple[Entry, Sharing]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)

    def put(self, entry: Entry, sharing: Sharing) -> None:
        """The newest value is this one."""
        self.values.pop(entry.name, None)
        self.values[entry.name] = (entry, sharing)
        if len(self.values) > WEAK_MAX:
            del self.values[next(iter(self.values))]

    def get(self, name: str) -> Entry | None:
        """The value, if there is one."""
        return self.values[name][0] if name in self.values else None

    def shared_with(self, node: str) -> list[Entry]:
        """Everything that this node may have."""
        return [entry for entry, sharing in self.values.values() if node in sharing.targets]

    def check(self) -> None:
        """Invariants."""
        assert len(self.values) <= WEAK_MAX
