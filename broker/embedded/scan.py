"""A first look at the bytes of a whole packet, before the codec decodes it.

The codec panics on text that is not UTF-8 (and prints a backtrace: a stranger could fill the log), lets
U+0000 pass into strings that others would hang up on, reads properties past their end, and drops reserved
bits. So the scanner walks the packet once by its grammar (MQTT 5, chapter 3) and judges only that;
everything it can't walk is left to the codec, which says precisely what is malformed.

A PUBLISH without properties, the packet that matters for speed, costs one decoded topic.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from broker.embedded.wire import (
    AUTH,
    CONNECT,
    DISCONNECT,
    MALFORMED_PACKET,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Fault,
)

_TEXT, _PAIR, _BINARY, _VARINT = -1, -2, -3, -4  # else: that many bytes
_PROPERTIES: Mapping[int, int] = {  # table 2-4: identifier -> what follows
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), 1),
    **dict.fromkeys((0x13, 0x21, 0x22, 0x23), 2),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), 4),
    **dict.fromkeys((0x03, 0x08, 0x12, 0x15, 0x1A, 0x1C, 0x1F), _TEXT),
    **dict.fromkeys((0x09, 0x16), _BINARY),
    0x0B: _VARINT,
    0x26: _PAIR,
}


class _Walk:
    """A cursor. Running off the end is an IndexError: the codec will say what is wrong."""

    __slots__ = ("at", "data")

    def __init__(self, data: memoryview, at: int) -> None:
        self.data, self.at = data, at

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def skip(self, nbytes: int) -> None:
        self.at += nbytes

    def binary(self) -> memoryview:
        start = self.at + 2
        self.at = start + (self.data[start - 2] << 8 | self.data[start - 1])
        if self.at > len(self.data):
            raise IndexError
        return self.data[start : self.at]

    def text(self) -> None:
        _check_text(self.binary())

    def varint(self) -> int:
        value = shift = 0
        while (byte := self.byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
        return value | byte << shift

    def properties(self) -> None:
        end = self.varint()
        end += self.at
        while self.at < end:
            kind = _PROPERTIES.get(self.byte())
            if kind is None:
                raise IndexError
            self._property(kind)
        if self.at != end:
            raise Fault(MALFORMED_PACKET, "a property reaches past the end of the properties")

    def _property(self, kind: int) -> None:
        if kind > 0:
            self.skip(kind)
        elif kind == _VARINT:
            self.varint()
        elif kind == _BINARY:
            self.binary()
        else:
            self.text()
            if kind == _PAIR:
                self.text()


def scan(packet: memoryview, body: int) -> None:
    """Raise a :class:`Fault` for what the codec does not see. ``body`` is where the fixed header ends."""
    if len(packet) < 5:  # the short acknowledgements, and nothing that could hold a text
        return
    kind = packet[0] >> 4
    try:
        if kind == PUBLISH:
            _scan_publish(packet, body)
        elif kind in _GRAMMAR:
            _GRAMMAR[kind](_Walk(packet, body))
    except IndexError:
        return  # cut short or unknown: the codec's business


def _scan_publish(packet: memoryview, at: int) -> None:
    start = at + 2
    end = start + (packet[at] << 8 | packet[at + 1])
    _check_text(packet[start:end])
    if packet[0] & 0x06:
        end += 2
    if packet[end]:
        _Walk(packet, end).properties()


def _check_text(data: memoryview) -> None:
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError:
        raise Fault(MALFORMED_PACKET, "text that is not UTF-8") from None
    if "\0" in text:
        raise Fault(MALFORMED_PACKET, "U+0000 in a text")


def _connect(walk: _Walk) -> None:
    walk.text()
    walk.skip(1)
    flags = walk.byte()
    if flags & 0x01:
        raise Fault(MALFORMED_PACKET, "the reserved connect flag is set")
    if not flags & 0x04 and flags & 0x38:
        raise Fault(MALFORMED_PACKET, "will QoS or will retain without a will")
    walk.skip(2)
    walk.properties()
    walk.text()
    if flags & 0x04:
        walk.properties()
        walk.text()
        walk.binary()
    if flags & 0x80:
        walk.text()


def _subscribe(walk: _Walk) -> None:
    walk.skip(2)
    walk.properties()
    while walk.at < len(walk.data):
        walk.text()
        if walk.byte() & 0xC0:
            raise Fault(MALFORMED_PACKET, "reserved subscription option bits are set")


def _unsubscribe(walk: _Walk) -> None:
    walk.skip(2)
    walk.properties()
    while walk.at < len(walk.data):
        walk.text()


def _acknowledgement(walk: _Walk) -> None:
    if len(walk.data) > walk.at + 3:  # packet id and reason code may stand alone
        walk.skip(3)
        walk.properties()


def _farewell(walk: _Walk) -> None:
    walk.skip(1)
    walk.properties()


_Grammar: TypeAlias = Callable[[_Walk], None]
_GRAMMAR: Mapping[int, _Grammar] = {
    CONNECT: _connect,
    PUBACK: _acknowledgement,
    PUBREC: _acknowledgement,
    PUBREL: _acknowledgement,
    PUBCOMP: _acknowledgement,
    SUBSCRIBE: _subscribe,
    UNSUBSCRIBE: _unsubscribe,
    DISCONNECT: _farewell,
    AUTH: _farewell,
}
