"""CONNECT to close over real sockets: what is agreed, deadlines, slow readers, limits, start and stop."""

import asyncio
import socket
from importlib.metadata import version

import mqtt5
import pytest

from broker.embedded import BrokerConfig, BrokerLimits, EmbeddedBroker
from shared.errors import ConfigError
from tests.unit.broker.embedded.client import Client, until, with_broker


@with_broker()
async def test_a_connack_says_what_the_broker_agrees_to(broker: EmbeddedBroker) -> None:
    limits = BrokerLimits()
    client = await Client.connect(broker, "c", keep_alive=120, expiry=0xFFFF_FFFF)
    connack = client.connack
    assert (connack.server_keep_alive, connack.session_expiry_interval) == (60, limits.session_expiry_s_max)
    assert (connack.receive_max, connack.max_packet_size) == (limits.receive_max, limits.packet_bytes_max)
    assert (connack.topic_alias_max, connack.assigned_client_id) == (limits.topic_aliases_max, None)
    modest = (await Client.connect(broker, "d", keep_alive=60, expiry=10)).connack
    assert (modest.server_keep_alive, modest.session_expiry_interval) == (None, None)


def test_a_nameless_client_is_given_a_name_with_or_without_clean_start() -> None:
    @with_broker()
    async def story(broker: EmbeddedBroker) -> None:
        names = {
            (await Client.connect(broker, "", clean_start=clean)).connack.assigned_client_id
            for clean in (True, False)
        }
        assert len(names) == 2
        assert all(names)

    story()


@with_broker()
async def test_a_takeover_tells_the_older_connection(broker: EmbeddedBroker) -> None:
    old = await Client.connect(broker, "c", expiry=60)
    new = await Client.connect(broker, "c", expiry=60)
    assert await old.disconnected() == 0x8E
    assert new.connack.session_present
    assert await new.fence() == []


@with_broker()
async def test_a_disconnect_decides_about_will_and_session(broker: EmbeddedBroker) -> None:
    mourner = await Client.connect(broker)
    await mourner.subscribe("w")
    for reason, published in ((0x00, []), (0x04, [b"w"]), (0x80, [b"w"])):
        client = await Client.connect(broker, "c", expiry=60, will=mqtt5.Will("w", payload=b"w"))
        await client.disconnect(reason)
        assert await mourner.payloads() == published, hex(reason)
    client = await Client.connect(broker, "c", expiry=60)
    assert client.connack.session_present
    await client.disconnect(session_expiry_interval=0)
    assert not (await Client.connect(broker, "c", expiry=60)).connack.session_present


@with_broker()
async def test_a_session_of_no_expiry_is_gone_before_the_socket_is_closed(broker: EmbeddedBroker) -> None:
    client = await Client.connect(broker, "c")
    client.pause()
    await client.send(mqtt5.DisconnectPacket())
    again = await Client.connect(broker, "c", clean_start=False)
    assert not again.connack.session_present


@with_broker(connect_timeout_s=0.05)
async def test_who_says_nothing_is_cut(broker: EmbeddedBroker) -> None:
    silent, half = await Client.dial(broker), await Client.dial(broker)
    await half.send(b"\x10\x20\x00")
    assert await silent.closed() == []
    assert await half.closed() == []
    assert await (await Client.connect(broker)).fence() == []


@with_broker(keep_alive_s_max=1)
async def test_a_missed_keep_alive_ends_the_connection_and_publishes_the_will(broker: EmbeddedBroker) -> None:
    mourner = await Client.connect(broker)
    await mourner.subscribe("w")
    client = await Client.connect(broker, keep_alive=60, will=mqtt5.Will("w", payload=b"w"))
    assert client.connack.server_keep_alive == 1
    assert await client.disconnected() == 0x8D
    assert await mourner.payloads() == [b"w"]
    assert broker.stats.totals["keep_alives_missed"] == 1


@with_broker(packet_bytes_max=1000)
async def test_a_packet_above_the_limit_is_refused_by_its_header(broker: EmbeddedBroker) -> None:
    client = await Client.connect(broker)
    fits = mqtt5.PublishPacket(
        "t", b"x" * (1000 - 3 - 3 - 1 - 2), qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=1
    ).write()
    assert len(fits) == 1000
    await client.send(fits)
    await client.expect(mqtt5.PubAckPacket)
    await client.send(mqtt5.PublishPacket("t", b"x" * 1000).write()[:3])
    assert await client.disconnected() == 0x95


@with_broker(connect_bytes_max=100)
async def test_a_stranger_may_say_less_than_a_client(broker: EmbeddedBroker) -> None:
    stranger = await Client.dial(broker)
    await stranger.send(mqtt5.ConnectPacket("c" * 100).write()[:2])
    (connack,) = await stranger.closed()
    assert int(connack.reason_code) == 0x95


@with_broker(receive_max=5)
async def test_more_unfinished_publishes_than_agreed_end_the_connection(broker: EmbeddedBroker) -> None:
    client = await Client.connect(broker)
    exactly_once = mqtt5.QoS.EXACTLY_ONCE
    await client.send(*(mqtt5.PublishPacket("t", b"", qos=exactly_once, packet_id=n) for n in range(1, 7)))
    assert await client.disconnected() == 0x93


@with_broker(subscriptions_max=2)
async def test_the_subscriptions_of_a_session_are_bounded(broker: EmbeddedBroker) -> None:
    client = await Client.connect(broker)
    assert await client.subscribe("a", "b", "c", "a", qos=0) == [0, 0, 0x97, 0]
    await client.unsubscribe("a")
    assert await client.subscribe("c", qos=0) == [0]


@with_broker(clients_max=1)
async def test_one_client_too_many_is_told_that_the_broker_is_busy(broker: EmbeddedBroker) -> None:
    first, second = await Client.connect(broker), await Client.dial(broker)
    await second.send(mqtt5.ConnectPacket("c", clean_start=True))
    (connack,) = await second.closed()
    assert int(connack.reason_code) == 0x89
    assert await first.fence() == []


@with_broker(clients_max=1)
async def test_sockets_that_only_wait_are_bounded_too(broker: EmbeddedBroker) -> None:
    waiting = [await Client.dial(broker) for _ in range(257)]
    one_too_many = await Client.dial(broker)
    assert await one_too_many.closed() == []
    waiting[0].vanish()
    await until(lambda: len(broker._connections) < 257)
    await Client.connect(broker)


@with_broker(write_buffer_bytes_max=100_000)
async def test_a_slow_reader_loses_qos_0_but_nothing_that_was_promised(broker: EmbeddedBroker) -> None:
    slow, publisher = await Client.connect(broker, "slow"), await Client.connect(broker)
    await slow.subscribe("#")
    slow.pause()
    for number in range(300):
        await publisher.publish("qos0", b"x" * 50_000, qos=0)
        await publisher.publish("qos1", b"%d" % number + b"x" * 50_000, qos=1)
    dropped = broker.stats.totals["dropped_slow_consumer"]
    assert dropped > 0
    slow.resume()
    promised, unpromised = [], 0
    while len(promised) < 300:
        packet = await slow.message()
        if packet.topic == "qos1":
            promised.append(int(packet.payload.rstrip(b"x")))
            await slow.ack(packet)
        else:
            unpromised += 1
    unpromised += len(await slow.fence())
    assert (promised, unpromised) == (list(range(300)), 300 - dropped)


@with_broker(write_buffer_bytes_max=20_000)
async def test_a_long_list_of_retained_messages_waits_for_a_slow_reader(broker: EmbeddedBroker) -> None:
    publisher, reader = await Client.connect(broker), await Client.connect(broker)
    for number in range(200):
        await publisher.publish(f"r/{number}", b"x" * 20_000, retain=True)
    reader.pause()
    await reader.send(mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("r/#", max_qos=mqtt5.QoS.AT_MOST_ONCE)]))
    await until(lambda: broker.stats.subscriptions == 1)
    reader.resume()
    await reader.expect(mqtt5.SubAckPacket)
    assert len({(await reader.message()).topic for _ in range(200)}) == 200


def test_a_client_that_only_talks_is_not_listened_to_for_ever() -> None:
    @with_broker(write_buffer_bytes_max=20_000)
    async def story(broker: EmbeddedBroker) -> None:
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that the broker feels it soon
        narrow.connect(("127.0.0.1", broker.port))
        client = await Client.dial(None, sock=narrow)
        await client.send(mqtt5.ConnectPacket("talker", clean_start=True))
        await client.expect(mqtt5.ConnAckPacket)
        (ours,) = broker._connections  # and a small buffer on the other side, for the same reason
        ours._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.pause()
        pings = mqtt5.PingReqPacket().write() * 10_000
        talker = asyncio.create_task(talk_for_ever(client, pings))
        received, stalled = -1, 0
        while stalled < 20:  # the same figure twenty times in a row: nobody listens any more
            await asyncio.sleep(0.01)
            stalled = stalled + 1 if broker.stats.totals["bytes_received"] == received else 0
            received = broker.stats.totals["bytes_received"]
        assert await (await Client.connect(broker)).fence() == [], "everybody else goes on"
        listener = asyncio.create_task(client.listen_for_ever())
        client.resume()
        await until(lambda: broker.stats.totals["bytes_received"] > received + len(pings))
        for task in (talker, listener):
            task.cancel()
        await asyncio.gather(talker, listener, return_exceptions=True)

    story()


async def talk_for_ever(client: Client, data: bytes) -> None:
    while True:
        await client.send(data)


@with_broker(sys_interval_s=0.02)
async def test_the_broker_tells_about_itself(broker: EmbeddedBroker) -> None:
    client = await Client.connect(broker)
    await client.subscribe("$SYS/#", qos=0)
    seen: dict[str, str] = {}
    while len(seen) < 18 or seen["$SYS/broker/clients/connected"] != "1":
        message = await client.message()
        seen[message.topic] = message.payload.decode()
    assert seen["$SYS/broker/version"] == f"shoal {version('shoal')}"
    assert seen["$SYS/broker/uptime"].endswith(" seconds")
    assert int(seen["$SYS/broker/retained messages/count"]) >= 0
    await client.publish("t", b"x", qos=0, retain=True)
    while seen["$SYS/broker/publish/messages/received"] != "1":
        message = await client.message()
        seen[message.topic] = message.payload.decode()


def test_a_broker_that_stops_says_goodbye_and_frees_its_port() -> None:
    async def story() -> None:
        config = BrokerConfig(port=0, stop_timeout_s=0.2)
        broker = EmbeddedBroker(config)
        await broker.start()
        with pytest.raises(RuntimeError):
            await broker.start()
        port = broker.port
        client, deaf, stranger = (
            await Client.connect(broker),
            await Client.connect(broker),
            await Client.dial(broker),
        )
        await deaf.subscribe("t", qos=0)
        deaf.pause()
        for _ in range(200):
            await client.publish("t", b"x" * 100_000, qos=0)
        await client.fence()
        await broker.stop()
        assert await client.disconnected() == 0x8B
        assert await stranger.closed() == []
        deaf.vanish()
        await broker.stop()
        with pytest.raises(RuntimeError):
            _ = broker.port
        async with EmbeddedBroker(BrokerConfig(port=port)) as again:
            await Client.connect(again)

    asyncio.run(story())


def test_settings_that_can_not_work_are_refused() -> None:
    for settings in ({"clients_max": 0}, {"receive_max": 65_536}, {"connect_timeout_s": 0.0}):
        with pytest.raises(ConfigError):
            BrokerLimits(**settings)  # type: ignore[arg-type]
    for config in ({"certificate_is_username": True}, {"port": -1}, {"sys_interval_s": -1.0}):
        with pytest.raises(ConfigError):
            BrokerConfig(**config)  # type: ignore[arg-type]
