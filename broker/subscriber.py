"""SUBSCRIBE and UNSUBSCRIBE of one client, and when all of them were answered."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from broker.routes import Routes

log = logging.getLogger(__name__)


class Asking(Protocol):
    """The two packets, sent at once. Both return the packet id that the answer will carry."""

    def subscribe(self, pattern: str, qos: int, identifier: int | None) -> int:
        """SUBSCRIBE to one relative filter."""
        ...

    def unsubscribe(self, pattern: str) -> int:
        """UNSUBSCRIBE."""
        ...


class Subscriber:
    """Keeps the broker's subscriptions what :class:`Routes` says, one packet per filter.

    Every SUBSCRIBE asks for the retained messages (retain handling 0), also one for a filter that stands
    already: a handler that joins later wants them, and to the others a fact repeated is the same fact.
    """

    def __init__(self, routes: Routes, on_refused: Callable[[str], None]) -> None:
        self._routes, self._on_refused = routes, on_refused
        self._wire: Asking | None = None
        self._with_identifiers = True
        self._unanswered: dict[int, str] = {}
        self._all_answered: asyncio.Future[None] | None = None
        self._orphans: dict[str, None] = {}

    def connected(self, wire: Asking, *, identifiers: bool) -> "asyncio.Future[None]":
        """Subscribe to everything and drop what a kept session should forget.

        The future is done when every answer is there. ``identifiers``: the broker knows them.
        """
        self._wire, self._with_identifiers = wire, identifiers
        self._all_answered = asyncio.get_running_loop().create_future()
        self.forget(tuple(self._orphans))
        self._orphans.clear()
        self.listen(self._routes.filters)
        self._settle()
        return self._all_answered

    def disconnected(self) -> None:
        """Answers to what was asked will not come."""
        self._wire, self._all_answered = None, None
        self._unanswered.clear()

    def listen(self, patterns: Iterable[str]) -> None:
        """Ask for filters, now or at the next connection."""
        for pattern in patterns:
            self._orphans.pop(pattern, None)
            if self._wire is not None:
                identifier = self._routes.identify(pattern) if self._with_identifiers else None
                packet_id = self._wire.subscribe(pattern, self._routes.qos(pattern), identifier)
                self._unanswered[packet_id] = pattern

    def forget(self, patterns: Iterable[str]) -> None:
        """Nobody listens to these any more."""
        for pattern in patterns:
            if self._wire is None:
                self._orphans[pattern] = None
            else:
                self._unanswered[self._wire.unsubscribe(pattern)] = ""

    def answered(self, packet_id: int, refused: str) -> None:
        """SUBACK or UNSUBACK. ``refused``: the broker's reason when it did not grant the filter."""
        pattern = self._unanswered.pop(packet_id, "")
        if pattern:
            self._routes.answered(pattern, granted=not refused)
        if pattern and refused:
            reason = f"the broker refused the subscription {pattern!r}: {refused}"
            log.error("%s", reason)
            self._on_refused(reason)
        self._settle()

    def _settle(self) -> None:
        if not self._unanswered and self._all_answered is not None and not self._all_answered.done():
            self._all_answered.set_result(None)
