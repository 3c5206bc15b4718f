"""The retained messages: the newest one of each topic, bounded in number and bytes, gone when they expire."""

from collections.abc import Callable, Iterable, Iterator

from broker.embedded.config import BrokerLimits
from broker.embedded.message import Message
from broker.embedded.topics import TopicTree, has_wildcard, tree_bytes


class RetainedStore:
    """Facts by topic. ``bytes_held`` counts packets, and estimates what their places in the tree take."""

    __slots__ = ("_count_put", "_limits", "_mortal", "_tree", "bytes_held")

    def __init__(self, limits: BrokerLimits) -> None:
        self._limits = limits
        self._tree: TopicTree[Message] = TopicTree()
        self._mortal: set[str] = set()  # topics whose message has an expiry: all that a sweep looks at
        self.bytes_held = 0
        self._count_put = 0  # numbers what is put, from 1

    def __len__(self) -> int:
        return len(self._tree)

    def has_room_for(self, message: Message) -> bool:
        """True when :meth:`put` would keep the store within its limits."""
        if not message.payload:
            return True
        old = self._tree.get(message.topic)
        grown = self.bytes_held + _bytes_of(message) - (_bytes_of(old) if old else 0)
        return grown <= self._limits.retained_bytes_max and (
            old is not None or len(self._tree) < self._limits.retained_messages_max
        )

    def put(self, message: Message) -> None:
        """Keep this message as the newest of its topic; an empty payload clears the topic instead."""
        self._remove(message.topic)
        if message.payload:
            message.forget_encodings()
            self._count_put += 1
            message.retained_number = self._count_put
            self._tree.put(message.topic, message)
            self.bytes_held += _bytes_of(message)
            if message.expires_at is not None:
                self._mortal.add(message.topic)

    def covered_by(self, topic_filter: str, clock: Callable[[], float]) -> Iterator[Message]:
        """The living messages a new subscription is owed, found one by one.

        The store may change while the iterator waits: what was removed does not turn up, nor what was put
        after this call, which the subscriber has then heard already.
        """
        newest = self._count_put
        return (
            message
            for message in self._find(topic_filter)
            if message.retained_number <= newest
            and (message.expires_at is None or clock() < message.expires_at)
        )

    def _find(self, topic_filter: str) -> Iterable[Message]:
        if has_wildcard(topic_filter):
            return self._tree.covered_by(topic_filter)
        message = self._tree.get(topic_filter)
        return () if message is None else (message,)

    def sweep(self, now: float) -> int:
        """Remove what has expired; how many that were. Readers skip the dead; this gives memory back."""
        dead = [
            topic
            for topic in self._mortal
            if (message := self._tree.get(topic))
            and message.expires_at is not None
            and message.expires_at <= now
        ]
        for topic in dead:
            self._remove(topic)
        return len(dead)

    def _remove(self, topic: str) -> None:
        old = self._tree.pop(topic)
        if old is not None:
            self.bytes_held -= _bytes_of(old)
            self._mortal.discard(topic)


def _bytes_of(message: Message) -> int:
    return message.size_bytes + tree_bytes(message.topic)
