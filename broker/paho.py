"""One connection of aiomqtt, and the only place that reaches through to the paho client inside.

aiomqtt hands messages out through a queue: a task switch each, unbounded, acknowledged before anybody
looked. We give it a queue whose ``put_nowait`` *is* the delivery, and use four doors of paho: manual
acknowledgement, ``publish`` (no task per message), ``on_connect`` (session present, the broker's limits)
and ``on_publish``. All are public in paho; that aiomqtt keeps its client in ``_client`` is why its version
is pinned below 3.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from broker.bus import NO_PROPERTIES, Will
from broker.names import Topics
from broker.options import LinkOptions
from broker.outbox import Outgoing
from broker.publisher import WINDOW_MAX

WINDOW_3_1_1 = 20  # a 3.1.1 broker does not say how many messages it takes at once; Mosquitto's default
_UNWRITTEN_MAX = 1000  # packets in paho's hands; at this many we are congested
_DROP_S = 1.0
_HEADER_BYTES = 64  # fixed header, lengths, packet id and the properties we set, generously


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What a connection tells its bus."""

    received: Callable[[aiomqtt.Message], None]
    published: Callable[[int, str], None]  # paho's message id, and why the broker refused it (or "")
    congested: Callable[[bool], None]


class _Deliver(asyncio.Queue[aiomqtt.Message]):
    """A queue that never holds anything: putting a message in delivers it."""

    def __init__(self, received: Callable[[aiomqtt.Message], None], maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self._received = received

    def put_nowait(self, item: aiomqtt.Message) -> None:
        self._received(item)


class PahoConnection:
    """From connect to disconnect. ``resumed``, ``window`` and ``bytes_max`` are known once it is open."""

    def __init__(
        self,
        options: LinkOptions,
        topics: Topics,
        callbacks: Callbacks,
        *,
        v5: bool,
        websockets: bool,
        clean_start: bool,
    ) -> None:
        self.resumed, self.window, self.bytes_max = False, WINDOW_3_1_1, 0
        self._options, self._topics, self._callbacks, self._v5 = options, topics, callbacks, v5
        queue: Any = partial(_Deliver, callbacks.received)
        self._client = aiomqtt.Client(
            options.host,
            options.port,
            identifier=options.client_id,
            username=options.username,
            password=options.password,
            protocol=aiomqtt.ProtocolVersion.V5 if v5 else aiomqtt.ProtocolVersion.V311,
            transport="websockets" if websockets else "tcp",
            tls_context=options.tls,
            timeout=options.connect_timeout_s,
            keepalive=options.keepalive_s,
            max_inflight_messages=WINDOW_MAX,
            queue_type=queue,
            will=None if options.will is None else self._will(options.will),
            socket_options=() if websockets else ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
            **self._session(clean_start),
        )
        paho: Any = self._client._client
        paho.connect_timeout = options.connect_timeout_s
        paho.manual_ack_set(True)
        paho.on_connect = partial(self._connected, paho.on_connect)
        paho.on_publish = self._published
        paho.on_socket_unregister_write = partial(self._written, paho.on_socket_unregister_write)
        self._paho = paho

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Connect; say goodbye at the end, unless cancelled: then the socket closes without a word."""
        async with self._client:
            try:
                yield
            except asyncio.CancelledError:
                await self._cut()
                raise

    async def ended(self) -> None:
        """Wait for the end of the connection. Raises ``aiomqtt.MqttError`` with the reason."""
        async for _ in self._client.messages:
            raise AssertionError("our queue holds nothing")

    async def subscribe(self, pattern: str, qos: int, identifier: int) -> str:
        """SUBSCRIBE and wait for the answer: why the broker refused, or nothing."""
        name = self._topics.filter(pattern)
        if self._v5:
            properties = _new_properties(PacketTypes.SUBSCRIBE)
            properties.SubscriptionIdentifier = identifier
            answer = await self._client.subscribe(
                name, options=SubscribeOptions(qos=qos, retainAsPublished=False), properties=properties
            )
        else:
            answer = await self._client.subscribe(name, qos)
        code: Any = answer[0]
        return str(code) if code.is_failure else ""

    async def unsubscribe(self, pattern: str) -> None:
        """UNSUBSCRIBE and wait for the answer."""
        await self._client.unsubscribe(self._topics.filter(pattern))

    def publish(self, message: Outgoing, now: float) -> int | None:
        """Hand a message to paho. Returns paho's message id, or None for more bytes than the broker takes."""
        name = self._topics.name(message.topic)
        if self.bytes_max and len(name) + len(message.payload) + _HEADER_BYTES > self.bytes_max:
            return None
        properties = self._properties(message, now) if self._v5 else None
        info = self._paho.publish(name, message.payload, message.qos, message.retain, properties)
        if len(self._paho._out_packet) >= _UNWRITTEN_MAX:
            self._callbacks.congested(True)
        return int(info.mid)

    def acknowledge(self, message_id: int, qos: int) -> None:
        """PUBACK, or PUBCOMP for QoS 2."""
        self._paho.ack(message_id, qos)

    async def _cut(self) -> None:
        handle = self._paho.socket()
        if handle is not None and handle.fileno() >= 0:
            # A duplicate, because for websockets and TLS paho's object is a wrapper with manners.
            with socket.socket(fileno=os.dup(handle.fileno())) as raw:
                raw.shutdown(socket.SHUT_RDWR)
            await asyncio.wait([asyncio.ensure_future(self.ended())], timeout=_DROP_S)

    # From paho --------------------------------------------------------------------------------------

    def _connected(self, then: Callable[..., None], *arguments: Any) -> None:
        _, _, flags, _, properties = arguments
        self.resumed = flags.session_present
        if self._v5:
            self.window = getattr(properties, "ReceiveMaximum", 0xFFFF)
            self.bytes_max = getattr(properties, "MaximumPacketSize", 0)
        then(*arguments)

    def _published(self, _: object, __: object, message_id: int, code: Any, ___: object) -> None:
        self._callbacks.published(message_id, str(code) if code.is_failure else "")

    def _written(self, then: Callable[..., None], *arguments: Any) -> None:
        then(*arguments)
        self._callbacks.congested(False)

    # To paho ----------------------------------------------------------------------------------------

    def _session(self, clean_start: bool) -> dict[str, Any]:
        if not self._v5:
            return {"clean_session": clean_start}
        properties = _new_properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = self._options.session_expiry_s
        properties.ReceiveMaximum = self._options.receive_max
        properties.MaximumPacketSize = self._options.packet_bytes_max
        return {"clean_start": clean_start, "properties": properties}

    def _will(self, will: Will) -> aiomqtt.Will:
        properties = None
        if self._v5:
            properties = _new_properties(PacketTypes.WILLMESSAGE)
            properties.WillDelayInterval = will.delay_s
        return aiomqtt.Will(self._topics.name(will.topic), will.payload, will.qos, will.retain, properties)

    def _properties(self, message: Outgoing, now: float) -> Any:
        ours, expiry_s = message.properties, message.expiry_s(now)
        if ours is NO_PROPERTIES:
            return None
        theirs = _new_properties(PacketTypes.PUBLISH)
        if expiry_s is not None:
            theirs.MessageExpiryInterval = max(1, expiry_s)
        if ours.response_topic is not None:
            theirs.ResponseTopic = self._topics.name(ours.response_topic)
        if ours.correlation is not None:
            theirs.CorrelationData = ours.correlation
        if ours.content_type is not None:
            theirs.ContentType = ours.content_type
        return theirs


def _new_properties(packet_type: int) -> Any:
    return Properties(packet_type)  # type: ignore[no-untyped-call]
