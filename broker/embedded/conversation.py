"""What one client may say after its CONNECT, and what the broker answers: one handler per packet type.

Handlers see decoded packets and the bytes of each, which are only there during the call (the low half of the
first one carries DUP, QoS and RETAIN). A rule that a client breaks is a raised :class:`Fault`; the connection
turns it into a DISCONNECT with that reason code.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeAlias

import mqtt5

from broker.embedded import wire
from broker.embedded.broker import Broker
from broker.embedded.config import BrokerLimits
from broker.embedded.message import Message
from broker.embedded.session import Peer, Session, Subscription
from broker.embedded.topics import fits, is_topic_filter, is_topic_name, split_shared
from broker.embedded.wire import Fault

_PERMISSIONS_CACHED_MAX = 1_024  # topics of one client whose verdict is kept; then the cache starts afresh
_PERMISSION_TOPIC_MAX = 256  # characters; a longer topic is judged each time
_REPLAY_SLICE = 250  # retained messages found and sent in one turn of the loop: a few milliseconds


class Conversation:
    """One connected client. Lives as long as its connection."""

    __slots__ = ("_aliases", "_broker", "_peer", "_permissions", "_resumed", "session")

    def __init__(self, broker: Broker, peer: Peer, session: Session, resumed: bool) -> None:
        self._broker, self._peer, self.session, self._resumed = broker, peer, session, resumed
        self._aliases: dict[int, str] = {}
        self._permissions: tuple[dict[str, bool], dict[str, bool]] = ({}, {})  # plain, retained

    # --- PUBLISH: the client is the sender ------------------------------------------------------------

    def on_publish(self, packet: mqtt5.PublishPacket, raw: memoryview) -> None:
        """Check, route, acknowledge."""
        broker, first_byte, nbytes = self._broker, raw[0], len(raw)
        broker.counters.publishes_received += 1
        qos = first_byte >> 1 & 3
        topic, alias = packet.topic, packet.topic_alias
        if alias is not None:
            topic = self._resolve(topic, alias)
            nbytes += len(topic)
        allowed = self._permissions[first_byte & 1].get(topic)
        if allowed is None:
            allowed = self._permit(topic, first_byte & 1 == 1)
        _check_publish(packet, qos, first_byte)
        lifetime_s, packet_id = packet.message_expiry_interval, packet.packet_id
        expires_at = None if lifetime_s is None else broker.clock.time() + lifetime_s
        message = Message(packet, topic, qos, self.session.identity.client_id, expires_at, nbytes)
        if qos == 2 and packet_id is not None:
            self._accept_once(packet_id, message, allowed)
            return
        code = broker.publish(message) if allowed else self._refuse()
        if packet_id is not None:
            self._peer.send(wire.puback(packet_id, code))

    def _accept_once(self, packet_id: int, message: Message, allowed: bool) -> None:
        """QoS 2. The packet id is held until its PUBREL: a repeat is not routed (section 4.3.3).

        PUBREC goes out before the message does, for the sake of a client that publishes to itself and waits
        for its answer; and it never says that nobody listens (0x10), which a repeat could no more know.
        """
        if not self._is_new(packet_id):
            return
        code = self._broker.admit(message) if allowed else self._refuse()
        self._peer.send(wire.pubrec(packet_id, code))
        if code == wire.SUCCESS:
            self.session.unreleased.add(packet_id)
            self._broker.deliver(message)

    def on_pubrel(self, packet: mqtt5.PubRelPacket, _raw: memoryview) -> None:
        """The client has our PUBREC; its packet id is free again.

        After a resumed session an unknown id is no error (section 3.7.2.1): our PUBCOMP may have been lost.
        """
        packet_id = _checked(packet.packet_id)
        expected = self._resumed or packet_id in self.session.unreleased
        self.session.unreleased.discard(packet_id)
        self._peer.send(wire.pubcomp(packet_id, wire.SUCCESS if expected else wire.PACKET_ID_NOT_FOUND))

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
        check_topic_name(topic, self._broker.limits)
        known = self._permissions[retain]
        if len(known) >= _PERMISSIONS_CACHED_MAX:
            known.clear()
        allowed = self._broker.may_publish(self.session.identity, topic, retain)
        if len(topic) <= _PERMISSION_TOPIC_MAX:
            known[topic] = allowed
        return allowed

    def forget_permissions(self) -> None:
        """The access rules have changed."""
        for known in self._permissions:
            known.clear()

    # --- acknowledgements: the client is the receiver -------------------------------------------------

    def on_puback(self, packet: mqtt5.PubAckPacket, _raw: memoryview) -> None:
        """QoS 1 done."""
        self.session.outbox.on_puback(_checked(packet.packet_id))

    def on_pubrec(self, packet: mqtt5.PubRecPacket, _raw: memoryview) -> None:
        """QoS 2, first answer."""
        self.session.outbox.on_pubrec(_checked(packet.packet_id), accepted=int(packet.reason_code) < 0x80)

    def on_pubcomp(self, packet: mqtt5.PubCompPacket, _raw: memoryview) -> None:
        """QoS 2 done."""
        self.session.outbox.on_pubcomp(_checked(packet.packet_id))

    # --- SUBSCRIBE, UNSUBSCRIBE -----------------------------------------------------------------------

    def on_subscribe(self, packet: mqtt5.SubscribePacket, _raw: memoryview) -> None:
        """Answer first, then send the retained messages the new subscriptions are owed."""
        packet_id = _checked(packet.packet_id)
        if not packet.topic_filters:
            raise Fault(wire.PROTOCOL_ERROR, "SUBSCRIBE without a filter")
        for wanted in packet.topic_filters:
            _check_filter(wanted.pattern)
        ids = () if packet.subscription_id is None else (packet.subscription_id,)
        codes, owed = [], []
        for wanted in packet.topic_filters:
            code, replay = self._subscribe(wanted, ids)
            codes.append(mqtt5.SubAckReasonCode(code))
            owed += [replay] if replay else []
        self._answer(mqtt5.SubAckPacket(packet_id, codes).write())
        for subscription in owed:
            self._replay(subscription)
        self.session.outbox.pump()  # a group that was joined may have a backlog

    def _subscribe(self, wanted: mqtt5.TopicFilter, ids: tuple[int, ...]) -> tuple[int, Subscription | None]:
        """``(reason code, the subscription if retained messages are to follow)``."""
        broker, subscriptions = self._broker, self.session.subscriptions
        group, topic_filter = split_shared(wanted.pattern)
        if group is not None and wanted.no_local:
            raise Fault(wire.PROTOCOL_ERROR, "no-local on a shared subscription")
        if not fits(topic_filter, broker.limits):
            return wire.TOPIC_FILTER_INVALID, None
        authorizer = broker.authorizer
        if not (authorizer.unconditional or authorizer.may_subscribe(self.session.identity, wanted.pattern)):
            broker.counters.subscriptions_refused += 1
            return wire.NOT_AUTHORIZED, None
        existed = wanted.pattern in subscriptions
        if not broker.router.has_room_for(self.session, wanted.pattern):
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
        self._replay_slice(
            subscription, broker.retained.covered_by(subscription.topic_filter, broker.clock.time)
        )

    def _replay_slice(self, subscription: Subscription, owed: Iterator[Message]) -> None:
        """Send some of what is owed, and the rest on later turns of the loop: others want to be served too.

        Meanwhile the subscription may end. A lost connection changes nothing: messages wait in the outbox.
        """
        session = self.session
        if session.subscriptions.get(subscription.filter) is not subscription:
            return
        some = list(islice(owed, _REPLAY_SLICE))
        for message in some:
            if self._may_hear(subscription, message):
                session.outbox.replay(message, min(subscription.qos, message.qos), subscription.ids)
        if len(some) == _REPLAY_SLICE:
            self._broker.clock.call_later(0, self._replay_slice, subscription, owed)

    def _may_hear(self, subscription: Subscription, message: Message) -> bool:
        own = subscription.no_local and message.origin == self.session.identity.client_id
        return not own and self._broker.router.may_receive(self.session, message.topic)

    def on_unsubscribe(self, packet: mqtt5.UnsubscribePacket, _raw: memoryview) -> None:
        """Messages already in flight still arrive; nothing new follows the UNSUBACK."""
        packet_id = _checked(packet.packet_id)
        if not packet.patterns:
            raise Fault(wire.PROTOCOL_ERROR, "UNSUBSCRIBE without a filter")
        for pattern in packet.patterns:
            _check_filter(pattern)
        codes = [mqtt5.UnsubAckReasonCode(self._unsubscribe(pattern)) for pattern in packet.patterns]
        self._answer(mqtt5.UnsubAckPacket(packet_id, codes).write())

    def _unsubscribe(self, pattern: str) -> int:
        removed = self._broker.router.unsubscribe(self.session, pattern)
        return wire.SUCCESS if removed else wire.NO_SUBSCRIPTION_EXISTED

    def _answer(self, data: bytes) -> None:
        """Send an answer as long as the client has made it, if the client takes it ([MQTT-3.1.2-24])."""
        if len(data) > self._peer.packet_bytes_max:
            raise Fault(wire.PACKET_TOO_LARGE, "the answer is longer than the client takes")
        self._peer.send(data)

    # --- the rest -------------------------------------------------------------------------------------

    def on_pingreq(self, _packet: mqtt5.PingReqPacket, _raw: memoryview) -> None:
        """Still here."""
        self._peer.send(wire.PINGRESP)

    def on_disconnect(self, packet: mqtt5.DisconnectPacket, _raw: memoryview) -> None:
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

    def on_misplaced(self, _packet: object, raw: memoryview) -> None:
        """A second CONNECT, AUTH without a method, or what only a server sends."""
        raise Fault(wire.PROTOCOL_ERROR, f"a client may not send a packet of type {raw[0] >> 4} now")


Handler: TypeAlias = Callable[[Conversation, Any, memoryview], None]

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


def _check_filter(pattern: str) -> None:
    """What is no filter (4.7.1, 4.8.2) ends the connection; 0x8F in SUBACK: correct, and too much for us."""
    if not is_topic_filter(split_shared(pattern)[1]):
        raise Fault(wire.MALFORMED_PACKET, "not a topic filter")


def check_topic_name(topic: str, limits: BrokerLimits) -> None:
    """What is no topic name is a protocol error; 0x90 is for one that is correct and too much for us."""
    if not is_topic_name(topic):
        raise Fault(wire.PROTOCOL_ERROR, "an empty topic, or a wildcard in a topic name")
    if not fits(topic, limits):
        raise Fault(wire.TOPIC_NAME_INVALID, "a topic with too many bytes or levels")


def _check_publish(packet: mqtt5.PublishPacket, qos: int, first_byte: int) -> None:
    """What the codec lets pass (section 3.3). Everything forwarded must be acceptable to its receivers."""
    if qos == 0:
        if first_byte & 0x08:
            raise Fault(wire.MALFORMED_PACKET, "DUP on a QoS 0 publish")
    elif packet.packet_id == 0:
        raise Fault(wire.PROTOCOL_ERROR, "packet identifier 0")
    if packet.subscription_ids:
        raise Fault(wire.PROTOCOL_ERROR, "a subscription identifier from a client")
    if packet.payload_format_indicator or packet.response_topic is not None:  # few have them: saves the call
        check_properties(packet)


def check_properties(source: mqtt5.PublishPacket | mqtt5.Will) -> None:
    """The properties a publish and a will have in common."""
    response_topic = source.response_topic
    if source.payload_format_indicator > 1:
        raise Fault(wire.PROTOCOL_ERROR, "payload format indicator above 1")
    if response_topic is not None and (not response_topic or "+" in response_topic or "#" in response_topic):
        raise Fault(wire.PROTOCOL_ERROR, "the response topic is not a topic name")
