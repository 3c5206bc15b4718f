"""The broker without sockets: who is connected, what happens when they go, and what a publish does.

    CONNECT ─► open ─► connected ──lost──► offline ──session expiry──► ended
                 ▲          │                 │  └─will delay─► will published
                 └──────────┴── CONNECT ──────┘  (resumed, taken over, or ended first by clean start)

The only thing it needs from outside is a :class:`Clock`; an event loop is one, and so is the one in the
tests.
"""

from dataclasses import replace

from broker.embedded import wire
from broker.embedded.access import Authenticator, Authorizer, Identity
from broker.embedded.config import BrokerLimits
from broker.embedded.holdings import Holdings
from broker.embedded.message import Message
from broker.embedded.retained import RetainedStore
from broker.embedded.router import Router
from broker.embedded.session import NEVER_S, Clock, LastWill, Peer, Session
from broker.embedded.stats import BrokerStats, Counters, totals
from broker.embedded.topics import SHARE_PREFIX
from broker.embedded.wire import Fault


class Broker:
    """Sessions, retained messages and routing of one broker."""

    def __init__(
        self, limits: BrokerLimits, authenticate: Authenticator, authorizer: Authorizer, clock: Clock
    ) -> None:
        self.limits, self.authenticate, self.authorizer, self.clock = limits, authenticate, authorizer, clock
        self.counters = Counters()
        self.retained = RetainedStore(limits)
        self.holdings = Holdings(limits)
        self.router = Router(authorizer, limits, self.counters, clock.time, self.holdings)
        self.sessions: dict[str, Session] = {}
        self.clients_connected = 0
        self._clients_connected_max = 0
        self._started_at = clock.time()
        self._stopping = False

    # --- sessions -------------------------------------------------------------------------------------

    def open(self, identity: Identity, clean_start: bool, peer: Peer) -> tuple[Session, bool]:
        """The session of this client, and whether it existed before. The peer is not attached to it yet.

        Raises:
            Fault: the client id belongs to another user, or a limit is reached.
        """
        session = self.sessions.get(identity.client_id)
        if session is not None and session.identity.username != identity.username:
            raise Fault(wire.CLIENT_ID_NOT_VALID, "this client id belongs to another user")
        if (session is None or session.peer is None) and self.clients_connected >= self.limits.clients_max:
            raise Fault(wire.SERVER_BUSY, "too many clients")
        if session is None and len(self.sessions) >= self.limits.sessions_max:
            raise Fault(wire.QUOTA_EXCEEDED, "too many sessions")
        if session is not None and not self._take_over(session, clean_start):
            session = None
        resumed = session is not None
        if session is None:
            session = Session(identity, self.limits, self.counters, self.clock.time, self.holdings)
            self.sessions[identity.client_id] = session
        session.peer = peer
        self.clients_connected += 1
        self._clients_connected_max = max(self._clients_connected_max, self.clients_connected)
        return session, resumed

    def lost(self, session: Session, peer: Peer) -> None:
        """The connection of this session has ended, however it did; a connection taken over has none."""
        if session.peer is not peer:
            return
        self._detach(session)
        if self._stopping:
            return
        if session.last_will is not None:
            delay_s = min(session.last_will.delay_s, session.expiry_s)
            if delay_s:
                session.will_timer = self.clock.call_later(delay_s, self._execute, session)
            else:
                self._execute(session)
        if session.expiry_s == 0:
            self._end(session)
        elif session.expiry_s != NEVER_S:
            session.expiry_timer = self.clock.call_later(session.expiry_s, self._expire, session)

    def _take_over(self, session: Session, clean_start: bool) -> bool:
        """Section 3.1.4: the older connection goes. True when its session goes on.

        Its will goes out, unless the session goes on and the will was to be delayed.
        """
        peer, goes_on = session.peer, not clean_start and session.expiry_s > 0
        session.cancel_timers()
        if peer is not None:
            self.counters.sessions_taken_over += 1
            self._detach(session)
            peer.close(wire.SESSION_TAKEN_OVER, "another connection uses this client id")
        if not goes_on:
            self._end(session)
        elif session.last_will is not None and session.last_will.delay_s == 0:
            self._execute(session)
        session.last_will = None
        return goes_on

    def _detach(self, session: Session) -> None:
        session.peer = None
        self.clients_connected -= 1
        session.outbox.detach()

    def _expire(self, session: Session) -> None:
        self.counters.sessions_expired += 1
        self._end(session)

    def _end(self, session: Session) -> None:
        session.cancel_timers()
        self._execute(session)  # the end of the session is the latest moment for a delayed will
        for filter in list(session.subscriptions):
            self.router.unsubscribe(session, filter)
        session.outbox.discard()
        del self.sessions[session.identity.client_id]

    # --- messages -------------------------------------------------------------------------------------

    def publish(self, message: Message) -> int:
        """Deliver and, if asked to, retain; the reason code for the publisher."""
        if message.retain and (refusal := self.admit(message)):
            return refusal
        return self.deliver(message)

    def admit(self, message: Message) -> int:
        """Reason code 0, or why :meth:`deliver` must not be called with this message."""
        if message.retain and not self.retained.has_room_for(message):
            self.counters.publishes_refused += 1
            return wire.QUOTA_EXCEEDED
        return wire.SUCCESS

    def deliver(self, message: Message) -> int:
        """What :meth:`publish` does with a message that is admitted; whether there was anybody to hear it."""
        found = self.router.route(message)
        if message.retain:
            self.retained.put(message)
        return wire.SUCCESS if found else wire.NO_MATCHING_SUBSCRIBERS

    def may_publish(self, identity: Identity, topic: str, retain: bool) -> bool:
        """The answer of the access rules; the broker's own topics are nobody else's.

        Nor is ``$share/...`` a topic to publish to: who subscribes to that means a group and would not hear.
        """
        if topic.startswith(("$SYS/", SHARE_PREFIX)):
            return False
        return self.authorizer.unconditional or self.authorizer.may_publish(identity, topic, retain)

    def _execute(self, session: Session) -> None:
        """Publish the will, once."""
        last_will, session.last_will = session.last_will, None
        if last_will is None:
            return
        message = last_will.message
        if not self.may_publish(session.identity, message.topic, message.retain):
            self.counters.wills_refused += 1
            return
        if last_will.lifetime_s is not None:
            message.expires_at = self.clock.time() + last_will.lifetime_s
        if self.publish(message) == wire.QUOTA_EXCEEDED:
            self.counters.wills_refused += 1

    # --- the whole ------------------------------------------------------------------------------------

    def bequeath(self, session: Session, last_will: LastWill | None, expiry_s: int) -> None:
        """What is to happen after this connection."""
        session.last_will, session.expiry_s = last_will, expiry_s

    def access_changed(self) -> None:
        """Ask the access rules anew from now on."""
        self.router.forget_plans()
        for session in self.sessions.values():
            if session.peer is not None:
                session.peer.forget_permissions()

    def shut_down(self) -> None:
        """Say goodbye to everyone. No will fires and no session expires any more."""
        self._stopping = True
        for session in self.sessions.values():
            session.cancel_timers()
            if session.peer is not None:
                session.peer.close(wire.SERVER_SHUTTING_DOWN, "the broker stops")

    def stats(self) -> BrokerStats:
        """A snapshot."""
        return BrokerStats(
            uptime_s=self.clock.time() - self._started_at,
            clients_connected=self.clients_connected,
            clients_connected_max=self._clients_connected_max,
            sessions=len(self.sessions),
            subscriptions=self.router.subscriptions,
            retained_messages=len(self.retained),
            retained_bytes=self.retained.bytes_held,
            queued_bytes=self.holdings.bytes_held,
            totals=totals(replace(self.counters)),
        )
