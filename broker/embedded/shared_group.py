"""A shared subscription: each message goes to one member (MQTT 5, section 4.8.2).

The group owns its backlog; a member only ever holds what is on its wire. A member that stalls therefore
delays at most its own window, and when it is lost, that window (QoS 1) comes back to the front of the
backlog and goes to somebody else. QoS 2 stays with the chosen member, as the specification demands: a
second member could see it twice.

    dispatch ─► next member with room, in turn ─► its window
                   │ nobody has room                 │ connection lost
                   ▼                                 ▼
                backlog ◄─────────── take_back (front)
                   └─ feed: whenever a member has room again
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from broker.embedded.config import BrokerLimits
from broker.embedded.holdings import Holdings
from broker.embedded.message import Message
from broker.embedded.outbox import Outbox
from broker.embedded.session import Session, Subscription
from broker.embedded.stats import Counters


@dataclass(frozen=True, slots=True)
class Member:
    """One session in the group."""

    session: Session
    outbox: Outbox
    qos: int
    retain_as_published: bool
    ids: tuple[int, ...]


class SharedGroup:
    """The members of one ``$share/group/filter``. ``may_receive`` is asked for what waited in the backlog."""

    __slots__ = (
        "_backlog", "_bytes", "_clock", "_counters", "_holdings", "_limits", "_may_receive", "_turn",
        "members",
    )  # fmt: skip

    def __init__(
        self,
        limits: BrokerLimits,
        counters: Counters,
        clock: Callable[[], float],
        may_receive: Callable[[Session, str], bool],
        holdings: Holdings,
    ) -> None:
        self._limits, self._counters, self._clock, self._may_receive = limits, counters, clock, may_receive
        self._holdings = holdings
        self.members: dict[Session, Member] = {}
        self._backlog: deque[Message] = deque()
        self._bytes = 0
        self._turn = 0

    def join(self, session: Session, subscription: Subscription) -> None:
        """Add a member, or renew its options. Its outbox is pumped (and fed) once it knows: after SUBACK."""
        if session not in self.members:
            session.outbox.feeders.append(self)
        options = (subscription.qos, subscription.retain_as_published, subscription.ids)
        self.members[session] = Member(session, session.outbox, *options)

    def leave(self, session: Session) -> None:
        """Remove a member. The last one takes the backlog with it (counted)."""
        del self.members[session]
        session.outbox.feeders.remove(self)
        if not self.members:
            self._counters.dropped_session_ended += len(self._backlog)
            for message in self._backlog:
                self._release(message)
            self._backlog.clear()

    def dispatch(self, message: Message, members: Sequence[Member]) -> None:
        """Give the message to the next of ``members`` with room, or keep it, or drop and count it."""
        if self._backlog and message.qos:
            self._keep(message)  # it must not overtake
        elif not self._hand_over(message, members):
            if message.qos and any(member.qos for member in members):
                self._keep(message)
            else:
                self._counters.dropped_offline += 1

    def feed(self) -> None:
        """Hand out the backlog, oldest first, as far as there is room."""
        backlog = self._backlog
        while backlog:
            message = backlog[0]
            expired = message.expires_at is not None and message.expires_at <= self._clock()
            if expired:
                self._counters.dropped_expired += 1
            elif not self._hand_over(message, self._admitted(message.topic)):
                return
            backlog.popleft()
            self._release(message)

    def take_back(self, messages: Iterable[Message]) -> None:
        """What a lost member had not acknowledged, oldest first: it is next."""
        taken = list(messages)
        self._backlog.extendleft(reversed(taken))
        for message in taken:
            self._hold(message)
        self.feed()

    def _hand_over(self, message: Message, members: Sequence[Member]) -> bool:
        count, turn = len(members), self._turn
        for step in range(count):
            member = members[(turn + step) % count]
            qos = min(message.qos, member.qos)
            if member.outbox.has_room_for(message) if qos else _listens(member.outbox):
                self._turn = (turn + step + 1) % count
                retain = message.retain and member.retain_as_published
                member.outbox.deliver(message, qos, retain, member.ids, self)
                return True
        return False

    def _keep(self, message: Message) -> None:
        full = len(self._backlog) >= self._limits.queue_messages_max
        if full or not self._holdings.admit(self._bytes, message):
            self._counters.dropped_queue_full += 1
            return
        self._backlog.append(message)
        self._hold(message)

    def _hold(self, message: Message) -> None:
        self._bytes += message.size_bytes
        self._holdings.hold(message)

    def _release(self, message: Message) -> None:
        self._bytes -= message.size_bytes
        self._holdings.release(message)

    def _admitted(self, topic: str) -> list[Member]:
        return [member for member in self.members.values() if self._may_receive(member.session, topic)]


def _listens(outbox: Outbox) -> bool:
    return outbox.link is not None and not outbox.link.congested
