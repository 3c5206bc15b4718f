"""The rounds of a job that are over: for the report, and to know an update again long after.

A receipt can be lost, and a device that was away asks again much later. A job's ``answered`` knows the newest
update of each client only; the rows of the rounds know all of them, as far as they are kept: at the bound the
oldest rounds lose their clients, and keep their numbers.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from cloud.federated.rows import counts, with_late
from shared.learning import RoundView, UpdateHeader

ROWS_KEPT = 100_000  # clients, in all rounds


@dataclass(slots=True)
class History:
    """``views``: oldest first. ``last``: client -> the newest round in which it was asked. ``trimmed``: so
    many of the oldest rounds have lost their clients."""

    views: list[RoundView] = field(default_factory=list)
    last: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    trimmed: int = 0

    @classmethod
    def of(cls, views: Iterable[RoundView]) -> "History":
        """As it was kept."""
        history = cls()
        for view in views:
            history.add(view)
        return history

    def add(self, view: RoundView) -> None:
        """One more round is over."""
        self.views.append(view)
        self.rows += len(view.clients)
        self.last |= {row.client: view.row.round for row in view.clients}
        while self.rows > ROWS_KEPT and self.trimmed < len(self.views) - 1:
            old = self.views[self.trimmed]
            self.rows -= len(old.clients)
            self.views[self.trimmed] = RoundView(row=old.row, clients=())
            self.trimmed += 1

    def find(self, number: int) -> RoundView | None:
        """A round by its number."""
        index = self._index(number)
        return None if index is None else self.views[index]

    def late(self, number: int, client: str) -> None:
        """This client's answer came when its round was closed; the report of the newest round says so."""
        if self.views and self.views[-1].row.round == number:
            self.views[-1] = with_late(self.views[-1], client)

    def counted(self, number: int, client: str, header: UpdateHeader, overlap: int) -> bool:
        """Whether this very update counts in that round, or in one of the ``overlap`` rounds after it."""
        index = self._index(number)
        if index is None:
            return False
        return any(counts(view, client, header) for view in self.views[index : index + 1 + overlap])

    def check(self) -> None:
        """Invariants."""
        assert self.rows == sum(len(view.clients) for view in self.views)
        assert self.rows <= ROWS_KEPT or self.trimmed == len(self.views) - 1

    def _index(self, number: int) -> int | None:
        """No round is left out and none is there twice, so a number is a place."""
        index = number - self.views[0].row.round if self.views else -1
        return index if 0 <= index < len(self.views) else None
