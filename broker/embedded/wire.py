"""The border to the codec: how its errors become reason codes, and what it lets pass that MQTT 5 forbids.

The codec (mqtt5 0.8) raises ValueError for a malformed packet and a Rust panic (a BaseException) for text
that is not UTF-8. It has no length guard: a packet is framed here and looked at by ``scan`` before the
codec sees it.
"""

import struct

import mqtt5

MALFORMED_PACKET = 0x81
PROTOCOL_ERROR = 0x82
UNSUPPORTED_PROTOCOL_VERSION = 0x84
CLIENT_ID_NOT_VALID = 0x85
BAD_USER_NAME_OR_PASSWORD = 0x86
NOT_AUTHORIZED = 0x87
SERVER_BUSY = 0x89
SERVER_SHUTTING_DOWN = 0x8B
BAD_AUTHENTICATION_METHOD = 0x8C
KEEP_ALIVE_TIMEOUT = 0x8D
SESSION_TAKEN_OVER = 0x8E
TOPIC_FILTER_INVALID = 0x8F
TOPIC_NAME_INVALID = 0x90
PACKET_ID_NOT_FOUND = 0x92
RECEIVE_MAX_EXCEEDED = 0x93
TOPIC_ALIAS_INVALID = 0x94
PACKET_TOO_LARGE = 0x95
QUOTA_EXCEEDED = 0x97

SUCCESS = 0x00
NO_MATCHING_SUBSCRIBERS = 0x10
NO_SUBSCRIPTION_EXISTED = 0x11

PACKET_BYTES_MAX = (1 << 28) - 1 + 5  # the largest remaining length and its fixed header

# Packet types, as the high half of a packet's first byte.
CONNECT, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 1, 3, 4, 5, 6, 7
SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT, AUTH = 8, 10, 12, 14, 15

PINGRESP = b"\xd0\x00"
CONNACK_V311_UNACCEPTABLE_VERSION = b"\x20\x02\x00\x01"  # 3.1.1, section 3.2.2.3: return code 1

_short_ack = struct.Struct(">BBH").pack
_long_ack = struct.Struct(">BBHB").pack

# The codec's words for what is a protocol error (section 4.13) or has its own code; the rest is malformed.
_CODES_BY_ERROR = {
    "Topic alias must be != 0": TOPIC_ALIAS_INVALID,
    "Topic alias must be set if topic is empty": PROTOCOL_ERROR,
    "Receive maximum must be != 0": PROTOCOL_ERROR,
    "Maximum packet size must be != 0": PROTOCOL_ERROR,
    "Subscription ID must be != 0": PROTOCOL_ERROR,
    "Invalid boolean": PROTOCOL_ERROR,
    "Invalid RetainHandling value: 3": PROTOCOL_ERROR,
}


class Fault(Exception):
    """The peer broke a rule. Its connection is closed with this reason code; nobody else notices."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"0x{code:02X}: {reason}")
        self.code, self.reason = code, reason


class NotMqtt(Exception):
    """Whoever this is does not speak MQTT; any answer would be noise to it."""


class WrongVersion(Exception):
    """A CONNECT of another protocol version; ``answer`` is what a client of that version understands."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(answer.hex())
        self.answer = answer


def puback(packet_id: int, code: int = SUCCESS) -> bytes:
    """PUBACK, in its short form when it can be."""
    return _long_ack(0x40, 3, packet_id, code) if code else _short_ack(0x40, 2, packet_id)


def pubrec(packet_id: int, code: int = SUCCESS) -> bytes:
    """PUBREC, in its short form when it can be."""
    return _long_ack(0x50, 3, packet_id, code) if code else _short_ack(0x50, 2, packet_id)


def pubrel(packet_id: int, code: int = SUCCESS) -> bytes:
    """PUBREL, in its short form when it can be."""
    return _long_ack(0x62, 3, packet_id, code) if code else _short_ack(0x62, 2, packet_id)


def pubcomp(packet_id: int, code: int = SUCCESS) -> bytes:
    """PUBCOMP, in its short form when it can be."""
    return _long_ack(0x70, 3, packet_id, code) if code else _short_ack(0x70, 2, packet_id)


def fixed_header(data: memoryview, at: int = 0) -> tuple[int, int] | None:
    """``(bytes of the whole packet, bytes of its fixed header)``; None while the header is not all there.

    Written out for the lengths of one and two bytes (packets below 16 KiB): every packet passes here.

    Raises:
        Fault: a remaining length of more than four bytes.
    """
    left = len(data) - at
    if left < 2:
        return None
    first = data[at + 1]
    if first < 0x80:
        return first + 2, 2
    if left < 3:
        return None
    second = data[at + 2]
    if second < 0x80:
        return (first & 0x7F | second << 7) + 3, 3
    return _long_header(data[at : at + 5])


def _long_header(data: memoryview) -> tuple[int, int] | None:
    remaining = 0
    for at, byte in enumerate(data[1:]):
        remaining |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            return remaining + at + 2, at + 2
    if len(data) == 5:
        raise Fault(MALFORMED_PACKET, "a remaining length of more than four bytes")
    return None


def fault_of(error: Exception, first_byte: int) -> Fault:
    """The reason code for what the codec refused."""
    text = str(error)
    if first_byte >> 4 == AUTH:
        return Fault(PROTOCOL_ERROR, "AUTH without an authentication method")
    if text.startswith("Duplicate value"):
        return Fault(PROTOCOL_ERROR, text)
    return Fault(_CODES_BY_ERROR.get(text, MALFORMED_PACKET), text)


def is_panic(error: BaseException) -> bool:
    """True for the Rust panic by which the codec reports invalid UTF-8. Its class can't be imported."""
    return type(error).__name__ == "PanicException"


def check_version(connect: memoryview, body: int) -> None:
    """Look at protocol name and version of a whole CONNECT packet before the codec does.

    Raises:
        WrongVersion: MQTT, but not version 5.
        NotMqtt: some other protocol.
    """
    name_end = body + 2 + int.from_bytes(connect[body : body + 2], "big")
    name, version = bytes(connect[body + 2 : name_end]), connect[name_end : name_end + 1]
    if not version or name not in (b"MQTT", b"MQIsdp"):
        raise NotMqtt
    if version[0] in (3, 4):
        raise WrongVersion(CONNACK_V311_UNACCEPTABLE_VERSION)
    if version[0] != 5 or name != b"MQTT":
        unsupported = mqtt5.ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION
        raise WrongVersion(mqtt5.ConnAckPacket(reason_code=unsupported).write())
