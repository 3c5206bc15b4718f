"""Packets by aiomqtt, and the only place that reaches through to the paho client inside.

aiomqtt hands messages out through a queue: a task switch each, unbounded, acknowledged before anybody
looked; and it publishes and subscribes with a task each. We give it a queue whose ``put_nowait`` *is* the
delivery, and use paho's own ``publish``, ``subscribe``, ``unsubscribe`` and manual ``ack``, which send at
once and in order. What is left to aiomqtt is the hard part: paho's sockets on the event loop, TLS and
websockets. All that we touch is public in paho; that aiomqtt keeps its client in ``_client`` is why its
version is pinned below 3.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from broker.bus import NO_PROPERTIES, Will
from broker.client import Ears, Welcome
from broker.dispatch import Acknowledger
from broker.names import Topics
from broker.options import LinkOptions
from broker.outbox import Outgoing
from broker.publisher import WINDOW_MAX
from shared.errors import Unavailable

MQTT_5, MQTT_3_1_1 = 5, 4

_WINDOW_3_1_1 = 20  # a 3.1.1 broker does not say how many messages it takes at once; Mosquitto's default
_WINDOW_MQTT_5 = 0xFFFF  # what a broker means that says nothing (MQTT 5.0, section 3.2.2.3.3)
_UNWRITTEN_MAX = 1000  # packets in paho's hands; at this many we are congested
_LAST_WORD_S = 0.2
_DROP_S = 1.0
_HEADER_BYTES = 64  # fixed header, lengths, packet id and the properties we set, generously


class _Deliver(asyncio.Queue[aiomqtt.Message]):
    """A queue that never holds anything: putting a message in delivers it."""

    def __init__(self, received: Callable[[aiomqtt.Message], None], maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self._received = received

    def put_nowait(self, item: aiomqtt.Message) -> None:
        self._received(item)


class PahoWire:
    """See :class:`broker.client.Wire`. ``clock``: monotonic seconds, as in the messages' expiry."""

    def __init__(
        self,
        options: LinkOptions,
        topics: Topics,
        ears: Ears,
        clock: Callable[[], float],
        *,
        protocol: int = MQTT_5,
        websockets: bool = False,
    ) -> None:
        self._options, self._topics, self._ears, self._clock = options, topics, ears, clock
        self._v5, self._websockets = protocol == MQTT_5, websockets
        self._client: aiomqtt.Client | None = None
        self._paho: Any = None
        self._welcome = Welcome(resumed=False, window=_WINDOW_3_1_1, identifiers=False)
        self._broker_bytes_max = 0
        self._lost: asyncio.Future[None]
        self._acknowledger: Acknowledger[tuple[int, int]]
        self._packet_ids: dict[int, int] = {}  # paho's message id -> the publisher's packet id

    # From the bus -----------------------------------------------------------------------------------

    async def open(self, *, clean_start: bool) -> Welcome:
        """See :meth:`broker.client.Wire.open`."""
        client = self._new_client(clean_start)
        paho, self._lost = self._hooked(client), asyncio.get_running_loop().create_future()
        self._paho = paho
        self._acknowledger = Acknowledger(lambda ids: paho.ack(*ids))
        self._packet_ids.clear()
        entering = asyncio.ensure_future(client.__aenter__())
        try:
            # aiomqtt does not notice a connection that is lost before the broker answered.
            await asyncio.wait((entering, self._lost), return_when=asyncio.FIRST_COMPLETED)
            # A refusal and the end of the connection come in one piece; the reason is worth a moment.
            await asyncio.wait((entering,), timeout=_LAST_WORD_S)
            if not entering.done():
                raise Unavailable("the connection was lost before the broker answered")
            entering.result()
        except aiomqtt.MqttError as error:
            raise Unavailable(str(error)) from None
        finally:
            if not entering.done() or entering.exception() is not None:
                entering.cancel()
                self._cut()  # or it would become a second client of our name
        self._client = client
        return self._welcome

    async def ended(self) -> str:
        """See :meth:`broker.client.Wire.ended`."""
        assert self._client is not None
        try:
            async for _ in self._client.messages:
                raise AssertionError("our queue holds nothing")
        except aiomqtt.MqttError as error:
            return str(error.__cause__ or error)
        return "the connection ended"

    def transmit(self, message: Outgoing, packet_id: int, duplicate: bool) -> bool:  # noqa: ARG002
        """See :meth:`broker.client.Wire.transmit`."""
        name, most = message.topic, self._broker_bytes_max
        if most and len(name.encode()) + len(message.payload) + _HEADER_BYTES > most:
            return False
        properties = self._properties(message) if self._v5 else None
        info = self._paho.publish(name, message.payload, message.qos, message.retain, properties)
        if message.qos:
            self._packet_ids[info.mid] = packet_id
        if len(self._paho._out_packet) >= _UNWRITTEN_MAX:
            self._ears.congested(True)
        return True

    def subscribe(self, pattern: str, qos: int, identifier: int | None) -> int:
        """See :meth:`broker.subscriber.Asking.subscribe`."""
        name, properties = self._topics.filter(pattern), None
        if not self._v5:
            return int(self._paho.subscribe(name, qos)[1])
        if identifier is not None:
            properties = _new_properties(PacketTypes.SUBSCRIBE)
            properties.SubscriptionIdentifier = identifier
        options = SubscribeOptions(qos=qos, retainAsPublished=False)
        return int(self._paho.subscribe(name, options=options, properties=properties)[1])

    def unsubscribe(self, pattern: str) -> int:
        """See :meth:`broker.subscriber.Asking.unsubscribe`."""
        return int(self._paho.unsubscribe(self._topics.filter(pattern))[1])

    async def close(self) -> None:
        """See :meth:`broker.client.Wire.close`."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(aiomqtt.MqttError):  # no answer to a goodbye: it is gone as well
                await client.__aexit__(None, None, None)

    async def drop(self, reason: str) -> None:  # noqa: ARG002 (nobody is told)
        """See :meth:`broker.client.Wire.drop`."""
        if self._client is None:
            return
        self._acknowledger.close()
        self._cut()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DROP_S):
                await self.ended()
        await self.close()

    def _cut(self) -> None:
        with self._socket() as raw, contextlib.suppress(OSError):
            if raw is not None:
                raw.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _socket(self) -> Iterator[socket.socket | None]:
        """The socket itself: for TLS and websockets paho's object is a wrapper with manners of its own."""
        handle = self._paho.socket()
        if handle is None or handle.fileno() < 0:
            yield None
            return
        with socket.socket(fileno=os.dup(handle.fileno())) as raw:
            yield raw

    # From paho --------------------------------------------------------------------------------------

    def _hooked(self, client: aiomqtt.Client) -> Any:
        paho: Any = client._client
        paho.connect_timeout = self._options.connect_timeout_s
        paho.manual_ack_set(True)
        paho.on_connect = partial(self._connected, paho.on_connect)
        paho.on_disconnect = partial(self._disconnected, paho.on_disconnect)
        paho.on_publish = self._published
        paho.on_subscribe = paho.on_unsubscribe = self._subscribed
        paho.on_socket_unregister_write = partial(self._written, paho.on_socket_unregister_write)
        return paho

    def _connected(self, then: Callable[..., None], *arguments: Any) -> None:
        _, _, flags, _, properties = arguments
        with self._socket() as raw:
            if raw is not None:  # without it Nagle's algorithm makes a QoS 1 round trip 90 ms
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        window = getattr(properties, "ReceiveMaximum", _WINDOW_MQTT_5) if self._v5 else _WINDOW_3_1_1
        identifiers = self._v5 and bool(getattr(properties, "SubscriptionIdentifierAvailable", 1))
        self._broker_bytes_max = getattr(properties, "MaximumPacketSize", 0)
        self._welcome = Welcome(flags.session_present, window, identifiers)
        then(*arguments)

    def _disconnected(self, then: Callable[..., None], *arguments: Any) -> None:
        then(*arguments)
        if not self._lost.done():
            self._lost.set_result(None)

    def _received(self, message: aiomqtt.Message) -> None:
        identifiers = getattr(message.properties, "SubscriptionIdentifier", ())
        payload = message.payload
        assert isinstance(payload, bytes)
        holds = self._ears.received(message.topic.value, payload, message.retain, identifiers)
        if message.qos:
            self._acknowledger.settle((message.mid, message.qos), holds)

    def _published(self, _: object, __: object, message_id: int, code: Any, ___: object) -> None:
        packet_id = self._packet_ids.pop(message_id, None)
        if packet_id is not None:
            self._ears.published(packet_id, str(code) if code.is_failure else "")

    def _subscribed(self, _: object, __: object, message_id: int, codes: Any, ___: object) -> None:
        refused = next((str(code) for code in codes if code.is_failure), "")
        self._ears.subscribed(message_id, refused)

    def _written(self, then: Callable[..., None], *arguments: Any) -> None:
        then(*arguments)
        self._ears.congested(False)

    # To paho ----------------------------------------------------------------------------------------

    def _new_client(self, clean_start: bool) -> aiomqtt.Client:
        options, queue = self._options, partial(_Deliver, self._received)
        return aiomqtt.Client(
            options.host,
            options.port,
            identifier=options.client_id,
            username=options.username,
            password=options.password,
            protocol=aiomqtt.ProtocolVersion.V5 if self._v5 else aiomqtt.ProtocolVersion.V311,
            transport="websockets" if self._websockets else "tcp",
            tls_context=options.tls,
            timeout=options.connect_timeout_s,
            keepalive=options.keepalive_s,
            max_inflight_messages=WINDOW_MAX,
            queue_type=queue,  # type: ignore[arg-type]  # a factory does as well as a class
            will=None if options.will is None else self._will(options.will),
            **self._session(clean_start),
        )

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

    def _properties(self, message: Outgoing) -> Any:
        ours, expiry_s = message.properties, message.expiry_s(self._clock())
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
