"""The receiving half of an MQTT session: QoS 0, 1 and 2, acknowledged after the handlers were through.

    PUBLISH QoS 1 ──> handlers ──(holds done)──> PUBACK
    PUBLISH QoS 2 ──> handlers ──(holds done)──> PUBREC ── PUBREL ──> PUBCOMP
                      (not again while its packet id is unreleased: MQTT 5.0, section 4.3.3)

What is held back is bounded by the number of packet ids and not by the receive maximum that we announced:
Mosquitto 2.0.11 keeps to it only until the first PUBACK after a pause, and then sends all that waits
(measured: 64 allowed, 4,160 sent). Whoever held its messages back because it had no time would lose the
connection, and with a clean session the messages, just then. What waits is the acknowledgement, not the
message: some 200 bytes.
"""

from collections.abc import Callable, Sequence
from struct import Struct

import mqtt5

from broker.dispatch import Acknowledger, Holds
from broker.native.connection import BadPacket

# Four bytes each where nothing went wrong (MQTT 5.0, section 3.4.2.1); packed here at half the codec's price.
_acknowledgement = Struct(">HH").pack
_PUBACK, _PUBREC, _PUBCOMP = 0x4002, 0x5002, 0x7002

_AT_MOST_ONCE, _EXACTLY_ONCE = mqtt5.QoS.AT_MOST_ONCE, mqtt5.QoS.EXACTLY_ONCE
Dispatch = Callable[[str, bytes, bool, Sequence[int]], Holds | None]
_Reason = mqtt5.DisconnectReasonCode

UNACKNOWLEDGED_MAX = 65_535  # there are no more packet ids


class Receiver:
    """Deliveries and their acknowledgements. The ids of unreleased QoS 2 messages survive a connection."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._unreleased: set[int] = set()
        self._acknowledger: Acknowledger[bytes] = Acknowledger(_nowhere)

    def connected(self, write: Callable[[bytes], None], *, resumed: bool) -> None:
        """A connection stands. A new session knows nothing of old packet ids."""
        self._acknowledger = Acknowledger(write)
        if not resumed:
            self._unreleased.clear()

    def disconnected(self) -> None:
        """Late holds acknowledge nothing: the next connection repeats the messages."""
        self._acknowledger.close()

    def published(self, packet: mqtt5.PublishPacket) -> None:
        """PUBLISH: deliver, then acknowledge."""
        topic, qos = packet.topic, packet.qos
        if not topic or packet.topic_alias is not None:
            raise BadPacket("a topic alias, which we did not offer", _Reason.TOPIC_ALIAS_INVALID)
        if qos is _EXACTLY_ONCE:
            self._published_once(packet)
            return
        holds = self._dispatch(topic, packet.payload, packet.retain, packet.subscription_ids)
        if qos is not _AT_MOST_ONCE:
            self._settle(_acknowledgement(_PUBACK, packet.packet_id), holds)

    def _published_once(self, packet: mqtt5.PublishPacket) -> None:
        packet_id, holds = packet.packet_id or 0, None
        if packet_id not in self._unreleased:
            if len(self._unreleased) >= UNACKNOWLEDGED_MAX:
                raise _too_many()
            self._unreleased.add(packet_id)
            holds = self._dispatch(packet.topic, packet.payload, packet.retain, packet.subscription_ids)
        self._settle(_acknowledgement(_PUBREC, packet_id), holds)

    def released(self, packet: mqtt5.PubRelPacket) -> None:
        """PUBREL: the packet id may be used for another message."""
        self._unreleased.discard(packet.packet_id)
        self._acknowledger.settle(_acknowledgement(_PUBCOMP, packet.packet_id), None)

    def _settle(self, acknowledgement: bytes, holds: Holds | None) -> None:
        if len(self._acknowledger) >= UNACKNOWLEDGED_MAX:
            raise _too_many()
        self._acknowledger.settle(acknowledgement, holds)


def _too_many() -> BadPacket:
    return BadPacket(f"more than {UNACKNOWLEDGED_MAX} unacknowledged messages", _Reason.RECEIVE_MAX_EXCEEDED)


def _nowhere(_: bytes) -> None:
    """Before the first connection there is nobody to acknowledge to."""
