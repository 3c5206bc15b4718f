"""Bytes to messages and back. Size before decode, typed decode, nothing else.

Messages are MessagePack maps. Where a plain MQTT device may speak (telemetry), JSON is read too: its
first byte is ``{``, which no MessagePack map begins with. Large messages of a type that says so travel
deflated (zlib, whose first byte is ``x``); what they may become is bounded like everything else.
"""

import zlib
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol, TypeVar

import msgspec

from shared.errors import TooLarge, Unreadable
from shared.messages import Message, Sample, TelemetryBatch
from shared.topics import TELEMETRY, M, Topic

T = TypeVar("T")

DEFLATE_BYTES_MIN = 512  # a smaller message is not worth it
INFLATED_BYTES_MAX = 256 * 1024

_encoder = msgspec.msgpack.Encoder()
_flat_json = msgspec.json.Decoder(dict[str, float | int | bool])

_BAD = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Decoder(Protocol):
    def decode(self, payload: bytes, /) -> Any: ...


@cache
def _msgpack(of: Any) -> _Decoder:
    return msgspec.msgpack.Decoder(of)


@cache
def _json(of: Any) -> _Decoder:
    return msgspec.json.Decoder(of)


def encode(message: Message) -> bytes:
    """The payload of a message."""
    payload = _encoder.encode(message)
    if message.DEFLATES and len(payload) >= DEFLATE_BYTES_MIN:
        return zlib.compress(payload, 1)
    return payload


def _inflated(payload: bytes, bytes_max: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(payload, bytes_max)
    except zlib.error as error:
        raise Unreadable(f"not a deflated message: {error}") from None
    if not inflater.eof or inflater.unused_data:
        raise TooLarge(f"a deflated message of more than {bytes_max} bytes, or one with something behind it")
    return inflated


def packed(value: Any) -> msgspec.Raw:
    """Any value of the vocabulary, packed for a ``Raw`` field (a reply's body, a request's inputs)."""
    return msgspec.Raw(_encoder.encode(value))


def unpacked(raw: msgspec.Raw | bytes, of: type[T]) -> T:
    """The typed value inside a ``Raw`` field. Raises :class:`Unreadable`."""
    kind: Any = of
    return unpacker(kind)(raw)  # type: ignore[no-any-return]


@cache
def unpacker(of: Any) -> Callable[[msgspec.Raw | bytes], Any]:
    """:func:`unpacked` for one type, to be kept: looking up a union costs as much as decoding it."""
    decoder = _msgpack(of)

    def unpack(raw: msgspec.Raw | bytes) -> Any:
        try:
            return decoder.decode(raw)
        except _BAD as error:
            raise Unreadable(f"not a {getattr(of, '__name__', of)}: {error}") from None

    return unpack


def decode(topic: Topic[M], payload: bytes) -> M:
    """The message on a topic. Raises :class:`TooLarge` before a look inside, :class:`Unreadable` after."""
    if len(payload) > topic.bytes_max:
        raise TooLarge(f"{len(payload)} bytes on {topic.pattern}; the limit is {topic.bytes_max}")
    try:
        if payload[:1] == b"{" and topic is TELEMETRY:
            return _plain_telemetry(payload)  # type: ignore[return-value]
        if payload[:1] == b"x" and topic.message.DEFLATES:
            payload = _inflated(payload, INFLATED_BYTES_MAX)
        return _msgpack(topic.message).decode(payload)  # type: ignore[no-any-return]
    except _BAD as error:
        if topic is TELEMETRY and (plain := _flat_telemetry(payload)) is not None:
            return plain  # type: ignore[return-value]
        raise Unreadable(f"{topic.pattern}: {error}") from None


def _flat_telemetry(payload: bytes) -> TelemetryBatch | None:
    """One flat map of numbers in MessagePack, from a device that is not ours; None for anything else."""
    try:
        values = _msgpack(dict[str, float | int | bool]).decode(payload)
    except _BAD:
        return None
    return TelemetryBatch(samples=(Sample(0.0, {name: float(value) for name, value in values.items()}),))


def _plain_telemetry(payload: bytes) -> TelemetryBatch:
    """JSON from a device that is not ours: a whole batch, or one flat object of numbers (time unknown: 0)."""
    if b'"samples"' in payload:
        return _json(TelemetryBatch).decode(payload)  # type: ignore[no-any-return]
    values = {name: float(value) for name, value in _flat_json.decode(payload).items()}
    return TelemetryBatch(samples=(Sample(0.0, values),))
