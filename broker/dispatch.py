"""From a topic on the wire to the handlers, and from the handlers to the acknowledgement."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from broker.bus import BusStats, Delivery
from broker.routes import Routes

log = logging.getLogger(__name__)
A = TypeVar("A")
Holds = list["asyncio.Future[None]"]


class Dispatcher:
    """Strips the root and calls the handlers. What a handler raises is logged, counted, and its own loss."""

    def __init__(self, root: str, routes: Routes, stats: BusStats) -> None:
        self._prefix, self._strip = f"{root}/", len(root) + 1
        self._routes, self._stats = routes, stats

    def dispatch(
        self, full_topic: str, payload: bytes, retained: bool, identifiers: Sequence[int]
    ) -> Holds | None:
        """Deliver one message. Returns what the acknowledgement has to wait for, if anything."""
        stats = self._stats
        stats.received += 1
        if not full_topic.startswith(self._prefix):
            stats.unroutable += 1
            return None
        topic = full_topic[self._strip :]
        targets = self._routes.targets(topic, identifiers)
        if not targets:  # nobody listens, or another copy of the message is the one that counts
            stats.unroutable += not self._routes.targets(topic)
            return None
        delivery, holds = Delivery(topic, payload, retained), None
        for target in targets:
            if not target.open:  # closed by the handler before it
                continue
            try:
                hold = target.handler(delivery)
            except Exception:
                stats.handler_errors += 1
                log.exception("a handler failed on a message on %s", topic)
                continue
            if hold is not None:
                holds = [*(holds or ()), hold]
        return holds


class Acknowledger(Generic[A]):
    """Sends acknowledgements in the order of arrival ([MQTT-4.6.0-2]), each once its holds are done.

    One per connection: packet ids mean nothing to the next one, so late holds must not reach it.
    """

    def __init__(self, send: Callable[[A], None]) -> None:
        self._send = send
        self._waiting: deque[tuple[A, Holds]] = deque()
        self._called_by: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def settle(self, acknowledgement: A, holds: Holds | None) -> None:
        """Send as soon as ``holds`` are done and everything before it was sent."""
        if not holds and not self._waiting:
            self._send(acknowledgement)
            return
        self._waiting.append((acknowledgement, holds or []))
        for hold in holds or ():
            # A handler without room holds thousands of messages by one future: that calls us once.
            if hold is not self._called_by or hold.done():
                hold.add_done_callback(self._advance)
                self._called_by = hold

    def close(self) -> None:
        """The connection is gone: send nothing more. The broker will repeat what we did not acknowledge."""
        self._waiting.clear()

    def _advance(self, _: "asyncio.Future[None]") -> None:
        while self._waiting and all(hold.done() for hold in self._waiting[0][1]):
            self._send(self._waiting.popleft()[0])
