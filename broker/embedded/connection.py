"""Bytes in, bytes out: one TCP or TLS connection.

    accepted ── CONNECT, in time ──► greeted ── packets ... ───────────────► closing ── closed
       │ anything else, too late        │ fault, keep alive, takeover, stop     │ _CLOSE_TIMEOUT_S
       └──────────────► cut             └──► DISCONNECT with the reason ────────┴──► cut

Reading: the fixed header is looked at before a packet is buffered, so nobody makes us hold more than
``packet_bytes_max``. A few kilobytes may be hundreds of packets that each match a thousand filters, so after
``_TURN_S`` the rest of them waits for the loop's next turn, in which the others are served.

Writing: packets collect in a list and leave in one write at the end of the event loop's turn. A reader that
is too slow first loses QoS 0 and has QoS 1 and 2 wait (``congested``); if acknowledgements alone then double
the buffer, we stop reading from it, until it has caught up or misses its keep alive.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

import mqtt5

from broker.embedded import wire
from broker.embedded.broker import Broker
from broker.embedded.conversation import HANDLERS, Conversation
from broker.embedded.handshake import Certificate, refusal, shake_hands
from broker.embedded.scan import scan
from broker.embedded.wire import Fault, NotMqtt, WrongVersion

_FLUSH_BYTES = 256 << 10  # collect at most this much in one turn, so that the write buffer's limit is felt
_TURN_S = 0.01  # how long the packets of one connection may keep the loop
_PACKETS_UNTIMED = 16  # handled between two looks at the clock
_CLOSE_TIMEOUT_S = 2.0  # how long a peer may take to read our last words
_KEEP_ALIVE_GRACE = 1.5  # [MQTT-3.1.2-22]


class Connection(asyncio.Protocol):
    """Frames packets for a :class:`Conversation` and is its :class:`~broker.embedded.session.Peer`."""

    __slots__ = (
        "_broker", "_buffer", "_certificate_is_username", "_closing", "_conversation", "_heard_at",
        "_keep_alive_s", "_loop", "_on_closed", "_out", "_out_bytes", "_reading", "_resting", "_timer",
        "_transport", "_wanted_bytes", "aliases", "aliases_max", "congested", "packet_bytes_max",
        "receive_max",
    )  # fmt: skip

    _transport: asyncio.Transport
    _timer: asyncio.TimerHandle

    def __init__(
        self,
        broker: Broker,
        loop: asyncio.AbstractEventLoop,
        certificate_is_username: bool,
        on_closed: Callable[["Connection"], None],
    ) -> None:
        self._broker, self._loop, self._on_closed = broker, loop, on_closed
        self._certificate_is_username = certificate_is_username
        self._conversation: Conversation | None = None
        self._buffer = bytearray()
        self._wanted_bytes = 0  # until the buffer is this long there is nothing to decode
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._heard_at = 0.0
        self._keep_alive_s = 0
        self._closing = False
        self._reading = True
        self._resting = False
        self.congested = False
        self.packet_bytes_max = wire.PACKET_BYTES_MAX
        self.receive_max = 1
        self.aliases: dict[str, int] | None = None
        self.aliases_max = 0

    # --- asyncio --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock: the peer now owes us a CONNECT."""
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=self._broker.limits.write_buffer_bytes_max)
        _tune(transport.get_extra_info("socket"))
        self._timer = self._loop.call_later(self._broker.limits.connect_timeout_s, self.abort)

    def data_received(self, data: bytes) -> None:
        """Handle every whole packet; keep the rest."""
        if self._closing:
            return
        self._heard_at = self._loop.time()
        self._broker.counters.bytes_received += len(data)
        if not self._buffer:
            self._take(data)
            return
        self._buffer += data
        if len(self._buffer) >= self._wanted_bytes and not self._resting:
            self._take_buffer()

    def _take_buffer(self) -> None:
        whole, self._buffer = self._buffer, bytearray()
        self._take(whole)

    def _take(self, data: bytes | bytearray) -> None:
        with memoryview(data) as view:
            try:
                done = self._read_packets(view)
                if not self._closing:
                    self._buffer += view[done:]
            except NotMqtt:
                self._broker.counters.faults += 1
                self.abort()
            except WrongVersion as refused:
                self._broker.counters.connections_refused += 1
                self._say_last(refused.answer)
            except Fault as fault:
                self._fail(fault)

    def eof_received(self) -> None:
        """The peer will not say more: returning None closes the transport."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Tell the broker, once."""
        self._closing = True
        self._timer.cancel()
        self._out.clear()
        if self._conversation is not None:
            self._broker.lost(self._conversation.session, self)
        self._on_closed(self)

    def pause_writing(self) -> None:
        """The write buffer is over its limit."""
        self.congested = True

    def resume_writing(self) -> None:
        """The peer has caught up: send what had to wait."""
        self.congested = False
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()
        if self._conversation is not None and not self._closing:
            self._conversation.session.outbox.pump()

    # --- reading --------------------------------------------------------------------------------------

    def _read_packets(self, view: memoryview) -> int:
        """Handle whole packets; how many bytes they took."""
        done = self._greet(view) if self._conversation is None else 0
        conversation = self._conversation
        if conversation is None:
            return done
        counters, limit = self._broker.counters, self._broker.limits.packet_bytes_max
        count = 0
        while not self._closing:
            nbytes, body = self._frame(view, done, limit)
            if not nbytes:
                break
            raw = view[done : done + nbytes]
            scan(raw, body)
            packet = _decode(raw)
            HANDLERS.get(raw[0] >> 4, Conversation.on_misplaced)(conversation, packet, raw)
            counters.packets_received += 1
            done += nbytes
            count += 1
            if not count % _PACKETS_UNTIMED and self._loop.time() - self._heard_at > _TURN_S:
                self._rest()
                break
        return done

    def _rest(self) -> None:
        """Let the others have a turn; meanwhile the kernel keeps what comes."""
        self._resting = True
        self._transport.pause_reading()
        self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._resting = False
        if self._closing:
            return
        if self._reading:
            self._transport.resume_reading()
        self._heard_at = self._loop.time()
        if self._buffer:
            self._take_buffer()

    def _greet(self, view: memoryview) -> int:
        """Wait for a whole CONNECT and answer it; how many bytes it took."""
        if view[0] >> 4 != wire.CONNECT:
            raise NotMqtt
        nbytes, body = self._frame(view, 0, self._broker.limits.connect_bytes_max)
        if not nbytes:
            return 0
        raw = view[:nbytes]
        wire.check_version(raw, body)
        scan(raw, body)
        packet = _decode(raw)
        assert isinstance(packet, mqtt5.ConnectPacket)
        certificate = Certificate(_common_name(self._transport), self._certificate_is_username)
        self._conversation, keep_alive_s = shake_hands(self._broker, self, packet, certificate)
        self._broker.counters.packets_received += 1
        self._timer.cancel()
        if keep_alive_s:
            self._keep_alive_s = keep_alive_s
            self._check_keep_alive()
        return nbytes

    def _frame(self, view: memoryview, at: int, limit: int) -> tuple[int, int]:
        """``(bytes, of which header)`` of the whole packet at ``at``, or ``(0, 0)``: wait for more.

        A packet above ``limit`` is refused by its header, before it is buffered.
        """
        header = wire.fixed_header(view, at) or (0, 0)
        if header[0] > limit:
            raise Fault(wire.PACKET_TOO_LARGE, f"a packet of {header[0]} bytes")
        if 0 < header[0] <= len(view) - at:
            return header
        self._wanted_bytes = header[0]
        return 0, 0

    def _check_keep_alive(self) -> None:
        allowed_s = self._keep_alive_s * _KEEP_ALIVE_GRACE
        silent_s = self._loop.time() - self._heard_at
        if silent_s >= allowed_s:
            self._broker.counters.keep_alives_missed += 1
            self.close(wire.KEEP_ALIVE_TIMEOUT, f"silent for {silent_s:.0f} s")
        else:
            self._timer = self._loop.call_later(allowed_s - silent_s, self._check_keep_alive)

    # --- writing --------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write one packet at the end of this turn of the loop."""
        if not self._out:
            self._loop.call_soon(self.flush)
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes > _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand everything that was sent to the transport."""
        out = self._out
        if not out or self._closing or self._transport.is_closing():
            return
        counters = self._broker.counters
        counters.packets_sent += len(out)
        counters.bytes_sent += self._out_bytes
        self._out, self._out_bytes = [], 0
        self._transport.write(out[0] if len(out) == 1 else b"".join(out))
        if self.congested and self._reading and not self._closing:
            self._stop_reading_beyond(2 * self._broker.limits.write_buffer_bytes_max)

    def _stop_reading_beyond(self, buffered_bytes_max: int) -> None:
        if self._transport.get_write_buffer_size() > buffered_bytes_max:
            self._reading = False
            self._transport.pause_reading()

    # --- the end --------------------------------------------------------------------------------------

    def close(self, code: int, reason: str) -> None:
        """Say DISCONNECT with this reason code and hang up."""
        reason_code = mqtt5.DisconnectReasonCode(code)
        farewell = mqtt5.DisconnectPacket(reason_code=reason_code, reason_str=reason).write()
        if len(farewell) > self.packet_bytes_max:
            farewell = mqtt5.DisconnectPacket(reason_code=reason_code).write()
        self._say_last(farewell)

    def hang_up(self) -> None:
        """Close after what was already sent has been read, or after a while anyway."""
        self._end(linger=False)

    def _say_last(self, data: bytes) -> None:
        if not self._closing:
            if data:
                self.send(data)
            self._end(linger=True)

    def _end(self, linger: bool) -> None:
        """Stop listening. ``linger``: the peer may still talk, and a reset would swallow our last words.

        So we only end our own direction, and discard what comes until the peer closes or the time is up.
        """
        if self._closing:
            return
        self.flush()
        self._closing = True
        if linger and self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()
        self._timer.cancel()
        self._timer = self._loop.call_later(_CLOSE_TIMEOUT_S, self.abort)
        if self._conversation is not None:  # the session does not wait for the peer to take notice
            self._broker.lost(self._conversation.session, self)

    def abort(self) -> None:
        """Cut the connection now."""
        self._closing = True
        self._transport.abort()

    def forget_permissions(self) -> None:
        """The access rules have changed."""
        if self._conversation is not None:
            self._conversation.forget_permissions()

    def _fail(self, fault: Fault) -> None:
        """Close this connection for what it sent: CONNACK before it is admitted, else DISCONNECT."""
        if self._conversation is not None:
            self._broker.counters.faults += 1
            self.close(fault.code, fault.reason)
        else:
            self._broker.counters.connections_refused += 1
            self._say_last(refusal(fault.code, fault.reason, self.packet_bytes_max))


def _decode(raw: memoryview) -> mqtt5.Packet:
    """Decode one whole packet; what the codec refuses is a fault of the peer."""
    try:
        return mqtt5.read(raw)[0]
    except (ValueError, IndexError) as error:
        raise wire.fault_of(error, raw[0]) from None
    except BaseException as error:
        if wire.is_panic(error):
            raise Fault(wire.MALFORMED_PACKET, "the codec gave up") from None
        raise


def _common_name(transport: asyncio.Transport) -> str | None:
    """The CN of the client certificate that TLS has verified."""
    certificate: dict[str, Any] | None = transport.get_extra_info("peercert")
    subject = certificate.get("subject", ()) if certificate else ()
    return next((value for part in subject for key, value in part if key == "commonName"), None)


def _tune(sock: socket.socket | None) -> None:
    """No Nagle: we write once per turn. The kernel looks for peers that vanished without a keep alive."""
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
