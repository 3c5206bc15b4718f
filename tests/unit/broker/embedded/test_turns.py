"""One connection may not keep the loop: costly packets are handled a few a turn. No sockets, no waiting."""

import asyncio
from collections.abc import Callable
from typing import Any

import mqtt5

from broker.embedded import AllowAll, BrokerLimits, accept_anyone
from broker.embedded.broker import Broker
from broker.embedded.connection import Connection

COUNT = 100


class SlowLoop:
    """Every look at its clock finds that the packets before it have taken 5 ms each."""

    def __init__(self, broker_of: Callable[[Any], Broker]) -> None:
        self.soon: list[Callable[[], None]] = []
        self.broker = broker_of(self)

    def time(self) -> float:
        broker = getattr(self, "broker", None)
        return 0.005 * broker.counters.packets_received if broker else 0.0

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback: Callable[..., None], *args: Any) -> asyncio.Event:
        class Timer(asyncio.Event):
            cancel = asyncio.Event.set

        return Timer()

    def turn(self) -> None:
        now, self.soon = self.soon, []
        for callback in now:
            callback()


class Socket(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.said = b""
        self.reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: Any) -> None:
        self.said += data

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.reading = False

    def abort(self) -> None:
        self.reading = False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


def connected() -> tuple[SlowLoop, Connection, Socket]:
    loop: Any = SlowLoop(lambda loop: Broker(BrokerLimits(), accept_anyone, AllowAll(), loop))
    connection, transport = Connection(loop.broker, loop, False, lambda _: None), Socket()
    connection.connection_made(transport)
    connection.data_received(mqtt5.ConnectPacket("c", clean_start=True).write())
    loop.turn()
    transport.said = b""
    return loop, connection, transport


def publishes(first: int, last: int) -> bytes:
    return b"".join(
        mqtt5.PublishPacket("t", b"", qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=number).write()
        for number in range(first, last + 1)
    )


def acknowledged(transport: Socket) -> list[int]:
    return [int.from_bytes(transport.said[at + 2 : at + 4], "big") for at in range(0, len(transport.said), 5)]


def test_a_flood_is_handled_a_few_packets_a_turn_and_in_order() -> None:
    loop, connection, transport = connected()
    connection.data_received(publishes(1, COUNT))
    handled = loop.broker.counters.publishes_received
    assert 0 < handled < COUNT
    assert not transport.reading, "the kernel keeps the rest"
    connection.data_received(publishes(COUNT + 1, COUNT + 3))
    assert loop.broker.counters.publishes_received == handled, "what was on its way joins the queue"
    turns = 0
    while loop.soon:
        loop.turn()
        turns += 1
    assert turns > 3
    assert acknowledged(transport) == list(range(1, COUNT + 4))
    assert transport.reading


def test_a_connection_closed_while_it_rests_says_nothing_more() -> None:
    loop, connection, transport = connected()
    connection.data_received(publishes(1, COUNT))
    handled = loop.broker.counters.publishes_received
    connection.hang_up()
    while loop.soon:
        loop.turn()
    assert loop.broker.counters.publishes_received == handled
    assert acknowledged(transport) == list(range(1, handled + 1))
    assert not transport.reading
