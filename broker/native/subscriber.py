"""SUBSCRIBE and UNSUBSCRIBE of one connection, and when all of them were answered."""

import asyncio
import logging
from collections.abc import Callable, Sequence

import mqtt5

from broker.routes import Routes

log = logging.getLogger(__name__)

_FIRST_ID = 0x8000  # the lower half of the packet ids belongs to PUBLISH
_REFUSED_FROM = 0x80


class Subscriber:
    """Asks the broker for filters. ``wire_filter`` puts the root in front of one.

    Every SUBSCRIBE asks for the retained messages (retain handling 0), also one for a filter that stands
    already: a handler that joins later wants them, and to the others a fact repeated is the same fact.
    """

    def __init__(
        self, routes: Routes, wire_filter: Callable[[str], str], on_refused: Callable[[str], None]
    ) -> None:
        self._routes, self._wire_filter, self._on_refused = routes, wire_filter, on_refused
        self._write: Callable[[bytes], None] | None = None
        self._with_identifiers = True
        self._next_id = _FIRST_ID
        self._unanswered: dict[int, str] = {}
        self._all_answered: asyncio.Future[None] | None = None
        self._orphans: dict[str, None] = {}

    def connected(self, write: Callable[[bytes], None], *, identifiers: bool) -> "asyncio.Future[None]":
        """Subscribe to everything and drop what a kept session should forget.

        The future is done when every answer is there. ``identifiers``: the broker knows them.
        """
        self._write, self._with_identifiers = write, identifiers
        self._all_answered = asyncio.get_running_loop().create_future()
        for pattern in self._routes.filters:
            self.subscribe(pattern)
        for pattern in self._orphans:
            self._unsubscribe(pattern)
        self._orphans.clear()
        self._settle()
        return self._all_answered

    def disconnected(self) -> None:
        """Answers to what was asked will not come."""
        self._write, self._all_answered = None, None
        self._unanswered.clear()

    def subscribe(self, pattern: str) -> None:
        """Ask for one filter, now or at the next connection."""
        self._orphans.pop(pattern, None)
        if self._write is None:
            return
        packet_id = self._packet_id(pattern)
        wanted = mqtt5.TopicFilter(
            self._wire_filter(pattern),
            max_qos=mqtt5.QoS(self._routes.qos(pattern)),
            retain_as_published=False,  # so that the flag says "was there when we subscribed"
        )
        identifier = self._routes.identify(pattern) if self._with_identifiers else None
        self._write(mqtt5.SubscribePacket(packet_id, [wanted], subscription_id=identifier).write())

    def forget(self, patterns: Sequence[str]) -> None:
        """Nobody listens to these any more."""
        for pattern in patterns:
            if self._write is None:
                self._orphans[pattern] = None
            else:
                self._unsubscribe(pattern)

    def answered(self, packet: mqtt5.SubAckPacket | mqtt5.UnsubAckPacket) -> None:
        """SUBACK or UNSUBACK: one filter each."""
        pattern = self._unanswered.pop(packet.packet_id, None)
        if pattern is not None and isinstance(packet, mqtt5.SubAckPacket):
            code = packet.reason_codes[0]
            self._routes.answered(pattern, granted=int(code) < _REFUSED_FROM)
            if int(code) >= _REFUSED_FROM:
                reason = f"the broker refused the subscription {pattern!r}: {code.name}"
                log.error("%s", reason)
                self._on_refused(reason)
        self._settle()

    def _settle(self) -> None:
        if not self._unanswered and self._all_answered is not None and not self._all_answered.done():
            self._all_answered.set_result(None)

    def _unsubscribe(self, pattern: str) -> None:
        assert self._write is not None
        packet_id = self._packet_id(pattern)
        self._write(mqtt5.UnsubscribePacket(packet_id, [self._wire_filter(pattern)]).write())

    def _packet_id(self, pattern: str) -> int:
        packet_id = self._next_id
        while packet_id in self._unanswered:
            packet_id = _after(packet_id)
        self._next_id = _after(packet_id)
        self._unanswered[packet_id] = pattern
        return packet_id


def _after(packet_id: int) -> int:
    return packet_id + 1 if packet_id < 0xFFFF else _FIRST_ID
