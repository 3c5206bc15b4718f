"""Start and stop: the listening socket, the connections it accepted, and the broker's own clockwork."""

import asyncio
from types import TracebackType
from typing import Self

from broker.embedded.access import AllowAll, Authenticator, Authorizer, accept_anyone
from broker.embedded.broker import Broker
from broker.embedded.config import BrokerConfig
from broker.embedded.connection import Connection
from broker.embedded.stats import BrokerStats
from broker.embedded.sys_topics import SysTopics

_BACKLOG = 1_024
_SWEEP_INTERVAL_S = 10.0  # of expired retained messages, when there are no $SYS topics to renew
_CONNECTIONS_WITHOUT_SESSION_MAX = 256  # beyond clients_max: those that are about to say CONNECT


class EmbeddedBroker:
    """An MQTT 5 broker in this process, all in memory: a restart forgets sessions and retained messages.

    ``async with EmbeddedBroker(BrokerConfig(port=0)) as broker: ... broker.port``
    """

    def __init__(
        self,
        config: BrokerConfig | None = None,
        *,
        authenticate: Authenticator = accept_anyone,
        authorize: Authorizer | None = None,
    ) -> None:
        self._config = config or BrokerConfig()
        self._authenticate = authenticate
        self._authorizer: Authorizer = authorize or AllowAll()
        self._connections: set[Connection] = set()
        self._all_closed = asyncio.Event()
        self._broker: Broker | None = None
        self._server: asyncio.Server | None = None
        self._next_tick: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        await self.stop()

    async def start(self) -> None:
        """Listen. Raises ``OSError`` when the address is taken, ``RuntimeError`` when already started."""
        if self._server is not None:
            raise RuntimeError("the broker is already running")
        loop, config = asyncio.get_running_loop(), self._config
        broker = Broker(config.limits, self._authenticate, self._authorizer, loop)
        self._server = await loop.create_server(
            lambda: self._accept(broker, loop),
            config.host,
            config.port,
            ssl=config.tls,
            ssl_handshake_timeout=config.limits.connect_timeout_s if config.tls else None,
            backlog=_BACKLOG,
        )
        self._broker = broker
        self._tick(broker, loop, SysTopics(broker) if config.sys_interval_s else None)

    async def stop(self) -> None:
        """Say DISCONNECT 0x8B to everyone, wait ``stop_timeout_s``, then cut. Safe to repeat."""
        server, self._server = self._server, None
        if server is None or self._next_tick is None:
            return
        server.close()
        self._next_tick.cancel()
        self._running().shut_down()
        for connection in list(self._connections):
            connection.hang_up()
        await self._wait_until_closed()
        await server.wait_closed()

    @property
    def port(self) -> int:
        """The port it listens on; the one that was found when 0 was asked for."""
        if self._server is None:
            raise RuntimeError("the broker is not running")
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def stats(self) -> BrokerStats:
        """A snapshot of what it holds and has done."""
        return self._running().stats()

    def access_changed(self) -> None:
        """The authorizer would now answer differently: forget its cached answers."""
        self._running().access_changed()

    def _running(self) -> Broker:
        if self._broker is None:
            raise RuntimeError("the broker was never started")
        return self._broker

    def _accept(self, broker: Broker, loop: asyncio.AbstractEventLoop) -> asyncio.Protocol:
        if len(self._connections) >= self._config.limits.clients_max + _CONNECTIONS_WITHOUT_SESSION_MAX:
            return _Refusal()
        connection = Connection(broker, loop, self._config.certificate_is_username, self._forget)
        self._connections.add(connection)
        return connection

    def _tick(self, broker: Broker, loop: asyncio.AbstractEventLoop, sys_topics: SysTopics | None) -> None:
        """What has to be done now and then; calls itself again."""
        broker.retained.sweep(loop.time())
        if sys_topics is not None:
            sys_topics.publish()
        interval_s = self._config.sys_interval_s or _SWEEP_INTERVAL_S
        self._next_tick = loop.call_later(interval_s, self._tick, broker, loop, sys_topics)

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._all_closed.set()

    async def _wait_until_closed(self) -> None:
        if not self._connections:
            return
        self._all_closed.clear()
        try:
            async with asyncio.timeout(self._config.stop_timeout_s):
                await self._all_closed.wait()
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()
            await self._all_closed.wait()  # an aborted transport reports its end on the next turn of the loop


class _Refusal(asyncio.Protocol):
    """One connection too many: it is not worth a greeting."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
