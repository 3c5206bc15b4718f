"""One application message, and its encodings.

A message is encoded once per *variant*, not once per subscriber: all QoS 0 subscribers share the same
bytes, and for QoS 1 and 2 only the two bytes of the packet identifier differ, which are spliced in.
Properties are read from the publisher's decoded packet (or will) only when something is encoded.
"""

from typing import Any, TypeAlias

import mqtt5

_QOS = (mqtt5.QoS.AT_MOST_ONCE, mqtt5.QoS.AT_LEAST_ONCE, mqtt5.QoS.EXACTLY_ONCE)
_DUP = 0x08

# qos, retain flag, subscription identifiers, remaining expiry (s), topic alias, is the topic spelled out
Variant: TypeAlias = tuple[int, bool, tuple[int, ...], int | None, int | None, bool]


class Message:
    """What was published: shared by everyone it goes to, so nobody changes it after routing.

    ``expires_at`` is on the broker's clock (seconds), ``origin`` the client id of the publisher. What the
    message counts for in every queue is ``size_bytes``: those of its packet, or an estimate when it came in
    none. ``holders`` says how many queues hold it, for :class:`~broker.embedded.holdings.Holdings`;
    ``retained_number`` is for the :class:`~broker.embedded.retained.RetainedStore`.
    """

    __slots__ = (
        "_properties",
        "_source",
        "_wires",
        "expires_at",
        "holders",
        "origin",
        "payload",
        "qos",
        "retain",
        "retained_number",
        "size_bytes",
        "topic",
    )

    def __init__(
        self,
        source: mqtt5.PublishPacket | mqtt5.Will,
        topic: str,
        qos: int,
        origin: str,
        expires_at: float | None,
        size_bytes: int | None = None,
    ) -> None:
        self.topic = topic
        self.payload = source.payload or b""
        self.qos = qos
        self.retain = source.retain
        self.origin = origin
        self.expires_at = expires_at
        self.size_bytes = _size_of(source, topic) if size_bytes is None else size_bytes
        self.holders = self.retained_number = 0
        self._source = source
        self._properties: dict[str, Any] | None = None
        self._wires: dict[Variant, bytes] | None = None

    def remaining_s(self, now: float) -> int | None:
        """Whole seconds of life left, never more than the publisher gave; None: it lives for ever."""
        return None if self.expires_at is None else max(0, round(self.expires_at - now))

    def encode(self, variant: Variant, packet_id: int | None) -> bytes:
        """The PUBLISH packet of this variant; ``packet_id`` is None exactly for QoS 0."""
        wires = self._wires
        if wires is None:
            wires = self._wires = {}
        wire = wires.get(variant)
        if wire is None:
            wire = wires[variant] = self._write(variant, packet_id)
            return wire
        if packet_id is None:
            return wire
        at = _packet_id_offset(wire)
        return b"".join((wire[:at], packet_id.to_bytes(2, "big"), wire[at + 2 :]))

    def forget_encodings(self) -> None:
        """Give the memory back: a message that stays (retained) is encoded again when it is wanted."""
        self._wires = None

    def _write(self, variant: Variant, packet_id: int | None) -> bytes:
        qos, retain, ids, remaining_s, alias, named = variant
        properties = self._properties
        if properties is None:
            properties = self._properties = _properties_of(self._source)
        if ids or remaining_s is not None or alias is not None:
            properties = {
                **properties,
                "subscription_ids": list(ids),
                "message_expiry_interval": remaining_s,
                "topic_alias": alias,
            }
        topic = self.topic if named else ""
        return mqtt5.PublishPacket(
            topic, self.payload, qos=_QOS[qos], retain=retain, packet_id=packet_id, **properties
        ).write()


def as_duplicate(wire: bytes) -> bytes:
    """The same PUBLISH with its DUP flag set: what a redelivery looks like."""
    return bytes((wire[0] | _DUP,)) + wire[1:]


def _packet_id_offset(wire: bytes) -> int:
    at = 1
    while wire[at] & 0x80:  # the remaining length: one to four bytes
        at += 1
    at += 1
    return at + 2 + (wire[at] << 8 | wire[at + 1])


def _size_of(source: mqtt5.PublishPacket | mqtt5.Will, topic: str) -> int:
    texts = (source.payload, source.content_type, source.response_topic, source.correlation_data)
    pairs = sum(len(key) + len(value) for key, value in source.user_properties or ())
    return len(topic) + pairs + sum(len(text) for text in texts if text)


def _properties_of(source: mqtt5.PublishPacket | mqtt5.Will) -> dict[str, Any]:
    """Only what is set: the constructor of the codec is faster the less it is given."""
    properties: dict[str, Any] = {}
    if source.content_type is not None:
        properties["content_type"] = source.content_type
    if source.response_topic is not None:
        properties["response_topic"] = source.response_topic
    if source.correlation_data is not None:
        properties["correlation_data"] = source.correlation_data
    if source.payload_format_indicator:
        properties["payload_format_indicator"] = source.payload_format_indicator
    if source.user_properties:
        properties["user_properties"] = source.user_properties
    return properties
