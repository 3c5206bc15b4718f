"""Messages that wait for the broker: bounded by number and bytes, facts compacted, the stale dropped.

    put ──> [ key: topic of a fact, or a number ] ──take──> sent
            ^ requeue (what was in flight when the session was lost goes back to the front)

A newer fact replaces the older one of its topic: nobody needs to hear what used to be true. The newer one
goes to the back, so that the order between topics stays the order of publishing.
"""

from collections.abc import Callable, Iterable

import msgspec

from broker.bus import NO_PROPERTIES, BusStats, Properties


class Outgoing(msgspec.Struct):
    """A message on its way out. ``number`` grows with each publish.

    ``expires_at``: None also at QoS 0, which leaves at once, with all its time.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = NO_PROPERTIES
    done: Callable[[], None] | None = None
    expires_at: float | None = None
    number: int = 0

    def expiry_s(self, now: float) -> int | None:
        """Whole seconds it is still worth keeping, rounded up; 0 or less: expired; None: no limit."""
        return self.properties.expiry_s if self.expires_at is None else -int((now - self.expires_at) // 1)


class Outbox:
    """A bounded queue in order of publishing. Full means :meth:`put` says False and keeps nothing."""

    def __init__(self, messages_max: int, bytes_max: int, stats: BusStats) -> None:
        self._messages_max, self._bytes_max, self._stats = messages_max, bytes_max, stats
        self._waiting: dict[str | int, Outgoing] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def bytes_waiting(self) -> int:
        """Payload and topic bytes of everything inside."""
        return self._bytes

    @property
    def oldest(self) -> int | None:
        """Number of the message at the front."""
        return next(iter(self._waiting.values())).number if self._waiting else None

    def put(self, message: Outgoing) -> bool:
        """Queue at the back, in place of an older fact of the same topic."""
        key = _key(message)
        older = self._waiting.get(key)
        bytes_after = self._bytes + _size(message) - (_size(older) if older is not None else 0)
        if bytes_after > self._bytes_max or (older is None and len(self._waiting) >= self._messages_max):
            self._stats.dropped_full += 1
            return False
        if older is not None:
            del self._waiting[key]
            self._stats.compacted += 1
        self._waiting[key] = message
        self._bytes = bytes_after
        return True

    def take(self, now: float) -> Outgoing | None:
        """Remove the next message that is still worth sending; count those that are not."""
        while self._waiting:
            message = self._waiting.pop(next(iter(self._waiting)))
            self._bytes -= _size(message)
            if message.expires_at is None or message.expires_at > now:
                return message
            self._stats.dropped_expired += 1
        return None

    def requeue(self, messages: Iterable[Outgoing]) -> None:
        """Put back at the front, in order, what was taken before. May exceed the bound by the window."""
        back: dict[str | int, Outgoing] = {}
        for message in messages:
            back.pop(_key(message), None)
            back[_key(message)] = message
        for key in [key for key in back if key in self._waiting]:
            del back[key]
            self._stats.compacted += 1
        self._waiting = {**back, **self._waiting}
        self._bytes = sum(map(_size, self._waiting.values()))


def _key(message: Outgoing) -> str | int:
    return message.topic if message.retain else message.number


def _size(message: Outgoing) -> int:
    return len(message.topic) + len(message.payload)
