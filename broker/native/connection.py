"""Bytes <-> packets of one TCP connection: framing, batched writes, keepalive. No MQTT session inside.

Reading: every packet of a chunk is handled inside ``data_received``. Writing: what the handlers write is
gathered and leaves in one ``transport.write`` at the end of the chunk; what a task writes leaves at once
(uvloop gathers those of one turn). Waiting for the loop's next turn instead costs a request a tenth of its
time, since it makes three such stops.

The codec panics on some malformed packets (invalid UTF-8 raises a ``BaseException``) and has no length
guard; :func:`read_packet` and :func:`frame_bytes` make both an ordinary :class:`BadPacket`.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any, cast

import mqtt5

from shared.errors import RemoteError

Handlers = Mapping[type, Callable[[Any], None]]

_WRITE_BYTES_MAX = 1 << 20  # over this, QoS 0 is dropped and QoS 1 waits in the outbox
_GOODBYE_S = 1.0
# Looks at the keepalive in one interval: a flag set by each packet costs less than the time of each.
_LOOKS, _QUIET_MAX, _SILENT_MAX = 4, 3, 6
_PING = mqtt5.PingReqPacket().write()
_LENGTH_BYTES_MAX = 4  # MQTT 5.0, section 1.5.5


class BadPacket(RemoteError):
    """The broker sent something that is not MQTT, or that it may not send. Ends the connection."""

    def __init__(
        self,
        reason: str,
        code: mqtt5.DisconnectReasonCode = mqtt5.DisconnectReasonCode.MALFORMED_PACKET,
    ) -> None:
        super().__init__(reason)
        self.code = code


def too_large(size: int, bytes_max: int) -> BadPacket:
    """The error for a packet over our limit."""
    return BadPacket(
        f"a packet of {size} bytes; the limit is {bytes_max}",
        mqtt5.DisconnectReasonCode.PACKET_TOO_LARGE,
    )


def read_packet(view: memoryview) -> tuple[Any, int] | None:
    """The packet at the start of ``view`` and its size in bytes, or None when it is incomplete."""
    try:
        return mqtt5.read(view)
    except IndexError:
        return None
    except Exception as error:
        raise BadPacket(f"malformed packet: {error}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise BadPacket("malformed packet: the codec panicked") from None


def frame_bytes(view: memoryview) -> int:
    """The size that the fixed header announces (MQTT 5.0, section 2.1.4); 0 while it is incomplete."""
    remaining = 0
    for position, byte in enumerate(view[1 : 1 + _LENGTH_BYTES_MAX]):
        remaining |= (byte & 0x7F) << 7 * position
        if not byte & 0x80:
            return 2 + position + remaining
    return 0


class Connection(asyncio.Protocol):
    """One connection, from CONNECT until it is lost. ``lost`` resolves with the reason, never raises."""

    def __init__(
        self, greeting: bytes, handlers: Handlers, on_congestion: Callable[[bool], None], bytes_max: int
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[str] = self._loop.create_future()
        self._greeting, self._handlers = greeting, handlers
        self._on_congestion, self._bytes_max = on_congestion, bytes_max
        self._transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []  # of a packet that is not complete yet
        self._chunks_bytes = self._awaited_bytes = 0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._handling = False
        self._received = self._sent = False  # since the last look at the keepalive
        self._timer: asyncio.TimerHandle | None = None
        self._reason = ""

    # From asyncio -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not isinstance: uvloop's transports are asyncio's in behaviour only.
        transport = cast(asyncio.Transport, transport)
        if self.lost.done():  # given up while it was connecting
            transport.abort()
            return
        self._transport = transport
        transport.set_write_buffer_limits(high=_WRITE_BYTES_MAX)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.write(self._greeting)

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._out.clear()
        if not self.lost.done():
            self.lost.set_result(self._reason or str(error or "the broker closed the connection"))

    def pause_writing(self) -> None:
        self._on_congestion(True)

    def resume_writing(self) -> None:
        self._on_congestion(False)

    def data_received(self, data: bytes) -> None:
        self._received = True
        if self._chunks:
            self._chunks.append(data)
            self._chunks_bytes += len(data)
            if self._chunks_bytes < self._awaited_bytes:
                return
            data = b"".join(self._chunks)
            self._chunks.clear()
        self._handling = True
        try:
            used = self._handle(data)
        except BadPacket as error:
            self.fail(str(error), error.code)
            return
        finally:
            self._handling = False
        self._flush()
        if used < len(data):
            self._chunks.append(data[used:])
            self._chunks_bytes = len(data) - used

    # To the broker ----------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send, with everything else that the chunk of bytes in hand gives cause to say."""
        self._out.append(data)
        self._out_bytes += len(data)
        if not self._handling or self._out_bytes > _WRITE_BYTES_MAX:
            self._write_out()

    def keep_alive(self, interval_s: float) -> None:
        """Ping after ``interval_s`` of silence; give up after one and a half (MQTT 5.0, section 3.1.2.10)."""
        if interval_s > 0:
            self._later(interval_s / _LOOKS, self._check_alive, interval_s, 0, 0)

    def close(self) -> None:
        """Say goodbye (no will) and close."""
        self._end("closed", mqtt5.DisconnectReasonCode.NORMAL_DISCONNECTION)

    def fail(self, reason: str, code: mqtt5.DisconnectReasonCode) -> None:
        """Tell the broker why and close. It publishes the will."""
        self._end(reason, code)

    def abort(self, reason: str) -> None:
        """Drop the connection without a word. The broker publishes the will."""
        self._reason = self._reason or reason
        if self._transport is None:
            self.connection_lost(None)
        else:
            self._transport.abort()

    # ------------------------------------------------------------------------------------------------

    def _handle(self, data: bytes) -> int:
        """Handle every complete packet; returns how many bytes they were."""
        handlers, bytes_max = self._handlers, self._bytes_max
        view, used, end = memoryview(data), 0, len(data)
        while used < end and not self._reason:
            rest = view[used:] if used else view
            found = read_packet(rest)
            if found is None:
                self._awaited_bytes = frame_bytes(rest)
                if self._awaited_bytes > bytes_max:
                    raise too_large(self._awaited_bytes, bytes_max)
                break
            packet, size = found
            if size > bytes_max:
                raise too_large(size, bytes_max)
            used += size
            handle = handlers.get(type(packet))
            if handle is None:
                raise BadPacket(
                    f"a broker does not send {type(packet).__name__} here",
                    mqtt5.DisconnectReasonCode.PROTOCOL_ERROR,
                )
            handle(packet)
        return used

    def _flush(self) -> None:
        if self._out:
            self._write_out()

    def _write_out(self) -> None:
        out = self._out
        self._out, self._out_bytes = [], 0
        transport = self._transport
        if transport is not None and not transport.is_closing():
            self._sent = True
            transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _end(self, reason: str, code: mqtt5.DisconnectReasonCode) -> None:
        transport = self._transport
        if self._reason or transport is None:
            self.abort(reason)
            return
        self._reason = reason
        self._out.append(mqtt5.DisconnectPacket(reason_code=code).write())
        self._write_out()
        transport.close()
        self._later(_GOODBYE_S, transport.abort)  # a peer that reads nothing would hold the close up

    def _check_alive(self, interval_s: float, silent: int, quiet: int) -> None:
        """``silent``: looks since we heard something; ``quiet``: looks since we said something."""
        silent, quiet = (0 if self._received else silent + 1), (0 if self._sent else quiet + 1)
        self._received = self._sent = False
        if silent > _SILENT_MAX:
            self.abort(f"no word from the broker for {1.5 * interval_s:g} s")
            return
        if max(silent, quiet) >= _QUIET_MAX:
            self.write(_PING)
        self._later(interval_s / _LOOKS, self._check_alive, interval_s, silent, quiet)

    # One timer: the keepalive while the connection lives, the deadline of the goodbye after it.
    def _later(self, delay_s: float, call: Callable[..., None], *arguments: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, call, *arguments)
