"""CONNECT in, CONNACK out: everything that is agreed once per connection (MQTT 5, sections 3.1 and 3.2)."""

import secrets
from dataclasses import dataclass
from functools import partial

import mqtt5

from broker.embedded import wire
from broker.embedded.access import Identity
from broker.embedded.broker import Broker
from broker.embedded.config import BrokerLimits
from broker.embedded.conversation import Conversation, check_properties, check_topic_name
from broker.embedded.message import Message
from broker.embedded.session import LastWill, Peer
from broker.embedded.wire import Fault


@dataclass(frozen=True, slots=True)
class Certificate:
    """What TLS said about the client. ``is_username``: its name replaces the user name of the CONNECT."""

    name: str | None
    is_username: bool


def shake_hands(
    broker: Broker, peer: Peer, packet: mqtt5.ConnectPacket, certificate: Certificate
) -> tuple[Conversation, int]:
    """Admit a client, answer its CONNECT and resume its session; also the keep alive in seconds (0: none).

    Raises:
        Fault: refused; the reason code is one of CONNACK.
    """
    limits = broker.limits
    peer.packet_bytes_max = packet.max_packet_size or wire.PACKET_BYTES_MAX
    _check_connect(packet)
    last_will = _last_will_of(packet.will, limits)
    identity = _identify(broker, packet, certificate)
    if last_will is not None:
        last_will.message.origin = identity.client_id
    expiry_s = min(packet.session_expiry_interval, limits.session_expiry_s_max)
    keep_alive_s = min(packet.keep_alive, limits.keep_alive_s_max)
    acknowledgement = partial(
        mqtt5.ConnAckPacket,
        assigned_client_id=None if packet.client_id else identity.client_id,
        session_expiry_interval=None if expiry_s == packet.session_expiry_interval else expiry_s,
        server_keep_alive=None if keep_alive_s == packet.keep_alive else keep_alive_s,
        receive_max=limits.receive_max,
        topic_alias_max=limits.topic_aliases_max,
        max_packet_size=limits.packet_bytes_max,
    )
    if len(acknowledgement().write()) > peer.packet_bytes_max:  # [MQTT-3.1.2-24]
        raise Fault(wire.PACKET_TOO_LARGE, "the client takes no packet as long as our CONNACK")
    session, resumed = broker.open(identity, packet.clean_start, peer)
    broker.bequeath(session, last_will, expiry_s)
    peer.receive_max = packet.receive_max
    peer.aliases_max = min(packet.topic_alias_max, limits.topic_aliases_max)
    peer.aliases = {} if peer.aliases_max else None
    peer.send(acknowledgement(session_present=resumed).write())
    session.outbox.attach(peer)
    broker.counters.connections_opened += 1
    return Conversation(broker, peer, session, resumed), keep_alive_s


def refusal(code: int, reason: str, packet_bytes_max: int) -> bytes:
    """The CONNACK that turns a client away; without the reason, or empty, if the client wants it short."""
    reason_code = mqtt5.ConnAckReasonCode(code)
    for text in (reason, None):
        data = mqtt5.ConnAckPacket(reason_code=reason_code, reason_str=text).write()
        if len(data) <= packet_bytes_max:
            return data
    return b""


def _check_connect(packet: mqtt5.ConnectPacket) -> None:
    if packet.authentication_method is not None:
        raise Fault(wire.BAD_AUTHENTICATION_METHOD, "no enhanced authentication here")
    if packet.authentication_data is not None:
        raise Fault(wire.PROTOCOL_ERROR, "authentication data without a method")


def _identify(broker: Broker, packet: mqtt5.ConnectPacket, certificate: Certificate) -> Identity:
    username = packet.username
    if certificate.is_username:
        username = certificate.name
        if username is None:
            raise Fault(wire.NOT_AUTHORIZED, "no client certificate")
    client_id = packet.client_id or f"auto-{secrets.token_hex(8)}"
    identity = broker.authenticate(username, packet.password, client_id, certificate.name)
    if identity is None:
        claimed = packet.username is not None or packet.password is not None
        code = wire.BAD_USER_NAME_OR_PASSWORD if claimed else wire.NOT_AUTHORIZED
        raise Fault(code, "not admitted")
    return identity


def _last_will_of(will: mqtt5.Will | None, limits: BrokerLimits) -> LastWill | None:
    if will is None:
        return None
    check_topic_name(will.topic, limits)
    check_properties(will)
    message = Message(will, will.topic, int(will.qos), origin="", expires_at=None)
    return LastWill(message, will.will_delay_interval, will.message_expiry_interval)
