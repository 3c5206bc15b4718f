"""What one client may say after its CONNECT, and what the broker answers: one handler per packet type.

Handlers see decoded packets and the first byte of each (its low half carries DUP, QoS and RETAIN). A rule
that a client breaks is a raised :class:`Fault`; the connection turns it into a DISCONNECT with that reason
code.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import mqtt5

from broker.embedded import wire
from broker.embedded.broker import Broker
from broker.embedded.message import Message
from broker.embedded.session import Peer, Session, Subscription
from broker.embedded.topics import is_topic_filter, is_topic_name, split_shared
from broker.embedded.wire import Fault

_PERMISSIONS_CACHED_MAX = 1_024  # topics of one client whose verdict is kept; then the cache starts afresh
_REPLAY_SLICE = 1_000  # retained messages sent in one turn of the loop: a few milliseconds


class Conversation:
    """One connected client. Lives as long as its connection."""

    __slots__ = ("_aliases", "_broker", "_peer", "_permissions", "session")

    def __init__(self, broker: Broker, peer: Peer, session: Session) -> None:
        self._broker, self._peer, self.session = broker, peer, session
        self._aliases: dict[int, str] = {}
        self._permissions: tuple[dict[str, bool], dict[str, bool]] = ({}, {})  # plain, retained

    # --- PUBLISH: the client is the sender ------------------------------------------------------------

    def on_publish(self, packet: mqtt5.PublishPacket, first_byte: int) -> None:
        """Check, route, acknowledge. A QoS 2 packet id is held until its PUBREL: a repeat is not routed."""
        broker = self._broker
        broker.counters.publishes_received += 1
        qos = first_byte >> 1 & 3
        topic = (
            packet.topic if packet.topic_alias is None else self._resolve(packet.topic, packet.topic_alias)
        )
        allowed = self._permissions[first_byte & 1].get(topic)
        if allowed is None:
            allowed = self._permit(topic, first_byte & 1 == 1)
        _check_publish(packet, qos, first_byte)
        packet_id = packet.packet_id
        if packet_id is not None and qos == 2 and not self._is_new(packet_id):
            return
        code = self._publish(packet, topic, qos) if allowed else self._refuse()
        if packet_id is None:
            return
        if qos == 1:
            self._peer.send(wire.puback(packet_id, code))
        else:
            if code < 0x80:
                self.session.unreleased.add(packet_id)
            self._peer.send(wire.pubrec(packet_id, code))

    def on_pubrel(self, packet: mqtt5.PubRelPacket, _first_byte: int) -> None:
        """The client has our PUBREC; its packet id is free again."""
        packet_id = _checked(packet.packet_id)
        known = packet_id in self.session.unreleased
        self.session.unreleased.discard(packet_id)
        self._peer.send(wire.pubcomp(packet_id, wire.SUCCESS if known else wire.PACKET_ID_NOT_FOUND))

    def _publish(self, packet: mqtt5.PublishPacket, topic: str, qos: int) -> int:
        lifetime_s = packet.message_expiry_interval
        expires_at = None if lifetime_s is None else self._broker.clock.time() + lifetime_s
        return self._broker.publish(Message(packet, topic, qos, self.session.identity.client_id, expires_at))

    def _refuse(self) -> int:
        self._broker.counters.publishes_refused += 1
        return wire.NOT_AUTHORIZED

    def _is_new(self, packet_id: int) -> bool:
        """False for a repeated QoS 2 publish, which only gets its PUBREC again (section 4.3.3)."""
        unreleased = self.session.unreleased
        if packet_id in unreleased:
            self._peer.send(wire.pubrec(packet_id))
            return False
        if len(unreleased) >= self._broker.limits.receive_max:
            raise Fault(wire.RECEIVE_MAX_EXCEEDED, "more unfinished QoS 2 publishes than agreed")
        return True

    def _resolve(self, topic: str, alias: int) -> str:
        if not 1 <= alias <= self._broker.limits.topic_aliases_max:
            raise Fault(wire.TOPIC_ALIAS_INVALID, f"topic alias {alias}")
        if topic:
            self._aliases[alias] = topic
            return topic
        known = self._aliases.get(alias)
        if known is None:
            raise Fault(wire.PROTOCOL_ERROR, f"topic alias {alias} was never set")
        return known

    def _permit(self, topic: str, retain: bool) -> bool:
        """Judge a topic once; whoever stays with it pays a dictionary look-up from then on."""
        if not is_topic_name(topic, self._broker.limits):
            raise Fault(wire.TOPIC_NAME_INVALID, "no topic to publish to")
        known = self._permissions[retain]
        if len(known) >= _PERMISSIONS_CACHED_MAX:
            known.clear()
        known[topic] = allowed = self._broker.may_publish(self.session.identity, topic, retain)
        return allowed

    def forget_permissions(self) -> None:
        """The access rules have changed."""
        for known in self._permissions:
            known.clear()

    # --- acknowledgements: the client is the receiver -------------------------------------------------

    def on_puback(self, packet: mqtt5.PubAckPacket, _first_byte: int) -> None:
        """QoS 1 done."""
        self.session.outbox.on_puback(_checked(packet.packet_id))

    def on_pubrec(self, packet: mqtt5.PubRecPacket, _first_byte: int) -> None:
        """QoS 2, first answer."""
        self.session.outbox.on_pubrec(_checked(packet.packet_id), accepted=int(packet.reason_code) < 0x80)

    def on_pubcomp(self, packet: mqtt5.PubCompPacket, _first_byte: int) -> None:
        """QoS 2 done."""
        self.session.outbox.on_pubcomp(_checked(packet.packet_id))

    # --- SUBSCRIBE, UNSUBSCRIBE -----------------------------------------------------------------------

    def on_subscribe(self, packet: mqtt5.SubscribePacket, _first_byte: int) -> None:
        """Answer first, then send the retained messages the new subscriptions are owed."""
        packet_id = _checked(packet.packet_id)
        if not packet.topic_filters:
            raise Fault(wire.PROTOCOL_ERROR, "SUBSCRIBE without a filter")
        ids = () if packet.subscription_id is None else (packet.subscription_id,)
        codes, owed = [], []
        for wanted in packet.topic_filters:
            code, replay = self._subscribe(wanted, ids)
            codes.append(mqtt5.SubAckReasonCode(code))
            owed += [replay] if replay else []
        self._peer.send(mqtt5.SubAckPacket(packet_id, codes).write())
        for subscription in owed:
            self._replay(subscription)
        self.session.outbox.pump()  # a group that was joined may have a backlog

    def _subscribe(self, wanted: mqtt5.TopicFilter, ids: tuple[int, ...]) -> tuple[int, Subscription | None]:
        """``(reason code, the subscription if retained messages are to follow)``."""
        broker, subscriptions = self._broker, self.session.subscriptions
        group, topic_filter = split_shared(wanted.pattern)
        if group is not None and wanted.no_local:
            raise Fault(wire.PROTOCOL_ERROR, "no-local on a shared subscription")
        if not is_topic_filter(topic_filter, broker.limits):
            return wire.TOPIC_FILTER_INVALID, None
        authorizer = broker.authorizer
        if not (authorizer.unconditional or authorizer.may_subscribe(self.session.identity, wanted.pattern)):
            broker.counters.subscriptions_refused += 1
            return wire.NOT_AUTHORIZED, None
        existed = wanted.pattern in subscriptions
        if not existed and len(subscriptions) >= broker.limits.subscriptions_max:
            broker.counters.subscriptions_refused += 1
            return wire.QUOTA_EXCEEDED, None
        qos, handling = int(wanted.max_qos), int(wanted.retain_handling)
        subscription = Subscription(
            wanted.pattern, topic_filter, group, qos, wanted.no_local, wanted.retain_as_published, ids
        )
        broker.router.subscribe(self.session, subscription)
        owed = group is None and (handling == 0 or (handling == 1 and not existed))
        return qos, subscription if owed else None

    def _replay(self, subscription: Subscription) -> None:
        broker = self._broker
        owed = broker.retained.covered_by(subscription.topic_filter, broker.clock.time())
        self._replay_slice(subscription, deque(owed))

    def _replay_slice(self, subscription: Subscription, owed: deque[Message]) -> None:
        """Send some of what is owed, and the rest on later turns of the loop: others want to be served too.

        Meanwhile a topic may get a newer message, which the subscriber has then already heard, and the
        subscription may end. A lost connection changes nothing: the messages wait in the outbox.
        """
        session, broker = self.session, self._broker
        for _ in range(min(len(owed), _REPLAY_SLICE)):
            message = owed.popleft()
            if session.subscriptions.get(subscription.filter) is not subscription:
                return
            if broker.retained.holds(message) and self._may_hear(subscription, message):
                session.outbox.replay(message, min(subscription.qos, message.qos), subscription.ids)
        if owed:
            broker.clock.call_later(0, self._replay_slice, subscription, owed)

    def _may_hear(self, subscription: Subscription, message: Message) -> bool:
        own = subscription.no_local and message.origin == self.session.identity.client_id
        return not own and self._broker.router.may_receive(self.session, message.topic)

    def on_unsubscribe(self, packet: mqtt5.UnsubscribePacket, _first_byte: int) -> None:
        """Messages already in flight still arrive; nothing new follows the UNSUBACK."""
        packet_id = _checked(packet.packet_id)
        if not packet.patterns:
            raise Fault(wire.PROTOCOL_ERROR, "UNSUBSCRIBE without a filter")
        codes = [mqtt5.UnsubAckReasonCode(self._unsubscribe(pattern)) for pattern in packet.patterns]
        self._peer.send(mqtt5.UnsubAckPacket(packet_id, codes).write())

    def _unsubscribe(self, pattern: str) -> int:
        if not is_topic_filter(split_shared(pattern)[1], self._broker.limits):
            return wire.TOPIC_FILTER_INVALID
        removed = self._broker.router.unsubscribe(self.session, pattern)
        return wire.SUCCESS if removed else wire.NO_SUBSCRIPTION_EXISTED

    # --- the rest -------------------------------------------------------------------------------------

    def on_pingreq(self, _packet: mqtt5.PingReqPacket, _first_byte: int) -> None:
        """Still here."""
        self._peer.send(wire.PINGRESP)

    def on_disconnect(self, packet: mqtt5.DisconnectPacket, _first_byte: int) -> None:
        """The client leaves. Only reason code 0 takes its will along (section 3.14.4)."""
        expiry_s = packet.session_expiry_interval
        if packet.server_reference is not None:
            raise Fault(wire.PROTOCOL_ERROR, "a server reference from a client")
        if expiry_s is not None:
            if expiry_s and not self.session.expiry_s:
                raise Fault(wire.PROTOCOL_ERROR, "session expiry in DISCONNECT after none in CONNECT")
            self.session.expiry_s = min(expiry_s, self._broker.limits.session_expiry_s_max)
        if int(packet.reason_code) == 0:
            self.session.last_will = None
        self._peer.hang_up()

    def on_misplaced(self, _packet: object, first_byte: int) -> None:
        """A second CONNECT, AUTH without a method, or what only a server sends."""
        raise Fault(wire.PROTOCOL_ERROR, f"a client may not send a packet of type {first_byte >> 4} now")


Handler: TypeAlias = Callable[[Conversation, Any, int], None]

# By packet type. What is missing here is nothing a connected client may send.
HANDLERS: Mapping[int, Handler] = {
    wire.PUBLISH: Conversation.on_publish,
    wire.PUBACK: Conversation.on_puback,
    wire.PUBREC: Conversation.on_pubrec,
    wire.PUBREL: Conversation.on_pubrel,
    wire.PUBCOMP: Conversation.on_pubcomp,
    wire.SUBSCRIBE: Conversation.on_subscribe,
    wire.UNSUBSCRIBE: Conversation.on_unsubscribe,
    wire.PINGREQ: Conversation.on_pingreq,
    wire.DISCONNECT: Conversation.on_disconnect,
}


def _checked(packet_id: int) -> int:
    if packet_id == 0:
        raise Fault(wire.PROTOCOL_ERROR, "packet identifier 0")
    return packet_id


def _check_publish(packet: mqtt5.PublishPacket, qos: int, first_byte: int) -> None:
    """What the codec lets pass (section 3.3). Everything forwarded must be acceptable to its receivers."""
    if qos == 0:
        if first_byte & 0x08:
            raise Fault(wire.MALFORMED_PACKET, "DUP on a QoS 0 publish")
    elif packet.packet_id == 0:
        raise Fault(wire.PROTOCOL_ERROR, "packet identifier 0")
    if packet.subscription_ids:
        raise Fault(wire.PROTOCOL_ERROR, "a subscription identifier from a client")
    check_properties(packet)


def check_properties(source: mqtt5.PublishPacket | mqtt5.Will) -> None:
    """The properties a publish and a will have in common."""
    response_topic = source.response_topic
    if source.payload_format_indicator > 1:
        raise Fault(wire.PROTOCOL_ERROR, "payload format indicator above 1")
    if response_topic is not None and (not response_topic or "+" in response_topic or "#" in response_topic):
        raise Fault(wire.PROTOCOL_ERROR, "the response topic is not a topic name")
