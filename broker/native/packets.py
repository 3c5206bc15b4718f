"""What we say to a broker, as packets of the codec. Topics are relative outside of here."""

import mqtt5

from broker.bus import NO_PROPERTIES, Will
from broker.names import Topics
from broker.options import LinkOptions
from broker.outbox import Outgoing

_QOS = (mqtt5.QoS.AT_MOST_ONCE, mqtt5.QoS.AT_LEAST_ONCE, mqtt5.QoS.EXACTLY_ONCE)


def connect_packet(options: LinkOptions, topics: Topics, *, clean_start: bool) -> mqtt5.ConnectPacket:
    """CONNECT."""
    return mqtt5.ConnectPacket(
        options.client_id,
        username=options.username,
        password=None if options.password is None else options.password.encode(),
        clean_start=clean_start,
        will=None if options.will is None else _will(options.will, topics),
        keep_alive=options.keepalive_s,
        session_expiry_interval=options.session_expiry_s,
        receive_max=options.receive_max,
        max_packet_size=options.packet_bytes_max,
    )


def publish_packet(
    message: Outgoing, topics: Topics, packet_id: int, duplicate: bool, now: float
) -> mqtt5.PublishPacket:
    """PUBLISH, with the time that is left of the message's expiry."""
    properties = message.properties
    if properties is NO_PROPERTIES:
        return mqtt5.PublishPacket(
            message.topic,
            message.payload,
            qos=_QOS[message.qos],
            retain=message.retain,
            packet_id=packet_id or None,
            duplicate=duplicate,
        )
    response_topic, expiry_s = properties.response_topic, message.expiry_s(now)
    return mqtt5.PublishPacket(
        message.topic,
        message.payload,
        qos=_QOS[message.qos],
        retain=message.retain,
        packet_id=packet_id or None,
        duplicate=duplicate,
        message_expiry_interval=None if expiry_s is None else max(1, expiry_s),
        response_topic=None if response_topic is None else topics.name(response_topic),
        correlation_data=properties.correlation,
        content_type=properties.content_type,
    )


def _will(will: Will, topics: Topics) -> mqtt5.Will:
    return mqtt5.Will(
        topics.name(will.topic),
        payload=will.payload,
        qos=_QOS[will.qos],
        retain=will.retain,
        will_delay_interval=will.delay_s,
    )
