"""The native bus against a broker that misbehaves in every way we could think of."""

import asyncio

import mqtt5
import pytest

from broker.bus import Properties
from tests.unit.broker.native.scripted import ROOT, Peer, scripted, until

Q1, Q2 = mqtt5.QoS.AT_LEAST_ONCE, mqtt5.QoS.EXACTLY_ONCE


def publish(payload=b"", *, qos=Q1, packet_id=1, topic="x", **options):
    return mqtt5.PublishPacket(f"{ROOT}/{topic}", payload, qos=qos, packet_id=packet_id, **options)


async def idle(peer: Peer) -> None:
    """Listen until the client goes."""
    while True:
        await peer.read()


async def good(peer: Peer) -> None:
    await peer.welcome(subscriptions=1)
    await idle(peer)


NONSENSE = {
    "a packet type that does not exist": b"\x00\x00",
    "a length that never ends": b"\x30\xff\xff\xff\xff\xff\x00",
    "invalid UTF-8, at which the codec panics": b"\x30\x05\x00\x02\xff\xfe\x00",
    "a topic longer than its packet": b"\x30\x06\x00\xffabcd",
    "a packet that only clients send": mqtt5.ConnectPacket("me").write(),
    "a second CONNACK": mqtt5.ConnAckPacket().write(),
    "a topic alias that we did not offer": mqtt5.PublishPacket("", b"", topic_alias=1).write(),
    "a SUBACK cut short": b"\x90\x02\x80\x00",
}


# The panic leaves an exception behind that Python reports as unraisable: that is the codec's own mess.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_ends_the_connection_and_the_next_one_works(nonsense, caplog):
    async def bad(peer: Peer) -> None:
        await peer.welcome(subscriptions=1)
        peer.say(publish(b"before"), nonsense, publish(b"after"))
        await peer.read_until(mqtt5.DisconnectPacket)

    async def scenario():
        got = []
        async with scripted(bad, good) as bus:
            bus.subscribe(["x"], got.append)
            running = asyncio.create_task(bus.run())
            await until(lambda: bus.stats.reconnects == 1 and bus.link.up)
            assert [one.payload for one in got] == [b"before"]
            await bus.close()
            await running

    asyncio.run(scenario())
    assert "next attempt in" in caplog.text


def test_a_packet_over_our_limit_is_refused_from_its_first_bytes():
    refusals = []

    async def greedy(peer: Peer) -> None:
        connect = await peer.welcome(subscriptions=1)
        assert connect.max_packet_size == 1000
        peer.say(b"\x30\xff\xff\x7f" + b"x" * 10)  # announces 2 MiB and has sent 14 bytes
        refusals.append(await peer.read_until(mqtt5.DisconnectPacket))

    async def scenario():
        async with scripted(greedy, good, packet_bytes_max=1000) as bus:
            bus.subscribe(["x"], lambda _: None)
            running = asyncio.create_task(bus.run())
            await until(lambda: bus.stats.reconnects == 1 and bus.link.up)
            await bus.close()
            await running

    asyncio.run(scenario())
    assert refusals[0].reason_code is mqtt5.DisconnectReasonCode.PACKET_TOO_LARGE


def test_a_packet_may_come_in_any_number_of_pieces():
    async def slow(peer: Peer) -> None:
        await peer.welcome(subscriptions=1)
        wire = b"".join(publish(bytes([n]) * n, packet_id=n).write() for n in range(1, 200, 7))
        for at in range(0, len(wire), 37):
            peer.say(wire[at : at + 37])
            await asyncio.sleep(0)
        await idle(peer)

    async def scenario():
        got = []
        async with scripted(slow) as bus:
            bus.subscribe(["x"], got.append)
            running = asyncio.create_task(bus.run())
            await until(lambda: len(got) == 29)
            assert [one.payload for one in got] == [bytes([n]) * n for n in range(1, 200, 7)]
            await bus.close()
            await running

    asyncio.run(scenario())


def test_acknowledgements_leave_in_the_order_of_arrival_though_the_first_is_held():
    acknowledged = []

    async def sender(peer: Peer) -> None:
        await peer.welcome(subscriptions=1)
        peer.say(*(publish(packet_id=n) for n in (5, 3, 9)))
        for _ in range(3):
            acknowledged.append((await peer.read_until(mqtt5.PubAckPacket)).packet_id)
        await idle(peer)

    async def scenario():
        got, hold = [], asyncio.get_running_loop().create_future()

        def handle(delivery):
            got.append(delivery)
            return hold if len(got) == 1 else None

        async with scripted(sender) as bus:
            bus.subscribe(["x"], handle)
            running = asyncio.create_task(bus.run())
            await until(lambda: len(got) == 3)
            await asyncio.sleep(0.02)
            assert acknowledged == []
            hold.set_result(None)
            await until(lambda: acknowledged == [5, 3, 9])
            await bus.close()
            await running

    asyncio.run(scenario())


def test_a_broker_that_sends_more_than_our_receive_maximum_is_put_up_with():
    """As Mosquitto does after a pause: nothing is lost, and acknowledged once it is done."""
    acknowledged = []

    async def flood(peer: Peer) -> None:
        connect = await peer.welcome(subscriptions=1)
        assert connect.receive_max == 2
        peer.say(*(publish(packet_id=n) for n in (1, 2, 3, 4)))
        for _ in range(4):
            acknowledged.append((await peer.read_until(mqtt5.PubAckPacket)).packet_id)
        await idle(peer)

    async def scenario():
        hold, got = asyncio.get_running_loop().create_future(), []

        def handle(delivery):
            got.append(delivery)
            return hold

        async with scripted(flood, receive_max=2) as bus:
            bus.subscribe(["x"], handle)
            running = asyncio.create_task(bus.run())
            await until(lambda: len(got) == 4)
            hold.set_result(None)
            await until(lambda: acknowledged == [1, 2, 3, 4])
            await bus.close()
            await running

    asyncio.run(scenario())


def test_a_broker_that_sends_more_than_there_are_packet_ids_loses_the_connection(monkeypatch):
    monkeypatch.setattr("broker.native.receiver.UNACKNOWLEDGED_MAX", 2)
    codes = []

    async def flood(peer: Peer) -> None:
        await peer.welcome(subscriptions=1)
        peer.say(*(publish(packet_id=n) for n in (1, 2, 3)))
        codes.append((await peer.read_until(mqtt5.DisconnectPacket)).reason_code)

    async def scenario():
        never = asyncio.get_running_loop().create_future()
        async with scripted(flood, good) as bus:
            bus.subscribe(["x"], lambda _: never)
            running = asyncio.create_task(bus.run())
            await until(lambda: codes)
            await bus.close()
            await running

    asyncio.run(scenario())
    assert codes == [mqtt5.DisconnectReasonCode.RECEIVE_MAX_EXCEEDED]


def test_a_qos_2_message_is_delivered_once_though_it_is_repeated_over_two_connections():
    async def first(peer: Peer) -> None:
        await peer.welcome(subscriptions=1)
        peer.say(publish(b"once", qos=Q2, packet_id=4))
        await peer.read_until(mqtt5.PubRecPacket)  # and the connection dies before PUBREL

    async def second(peer: Peer) -> None:
        await peer.welcome(subscriptions=1, session_present=True)
        peer.say(publish(b"once", qos=Q2, packet_id=4, duplicate=True))
        await peer.read_until(mqtt5.PubRecPacket)
        peer.say(mqtt5.PubRelPacket(4))
        await peer.read_until(mqtt5.PubCompPacket)
        peer.say(publish(b"another", qos=Q2, packet_id=4))
        await idle(peer)

    async def scenario():
        got = []
        async with scripted(first, second, clean_start=False, session_expiry_s=60) as bus:
            bus.subscribe(["x"], got.append)
            running = asyncio.create_task(bus.run())
            await until(lambda: len(got) == 2)
            assert [one.payload for one in got] == [b"once", b"another"]
            await bus.close()
            await running

    asyncio.run(scenario())


def test_messages_that_follow_connack_in_the_same_bytes_are_delivered_and_acknowledged():
    acknowledged = []

    async def eager(peer: Peer) -> None:
        await peer.read()
        peer.say(mqtt5.ConnAckPacket(session_present=True), publish(b"kept", packet_id=8))
        acknowledged.append((await peer.read_until(mqtt5.PubAckPacket)).packet_id)
        await idle(peer)

    async def scenario():
        got = []
        async with scripted(eager, clean_start=False, session_expiry_s=60) as bus:
            bus.subscribe(["x"], got.append)
            running = asyncio.create_task(bus.run())
            await until(lambda: acknowledged == [8])
            assert [one.payload for one in got] == [b"kept"]
            await bus.close()
            await running

    asyncio.run(scenario())


def test_a_message_before_connack_is_not_believed():
    async def hasty(peer: Peer) -> None:
        await peer.read()
        peer.say(publish(b"too early"), mqtt5.ConnAckPacket())
        await peer.read_until(mqtt5.DisconnectPacket)

    async def scenario():
        got = []
        async with scripted(hasty, good) as bus:
            bus.subscribe(["x"], got.append)
            running = asyncio.create_task(bus.run())
            await until(lambda: bus.link.up)
            assert got == []
            assert bus.stats.reconnects == 1
            await bus.close()
            await running

    asyncio.run(scenario())


def test_without_subscription_identifiers_the_filters_decide():
    async def plain(peer: Peer) -> None:
        await peer.read()
        peer.say(mqtt5.ConnAckPacket(subscription_id_available=False))
        for _ in range(2):
            asked = await peer.read_until(mqtt5.SubscribePacket)
            assert asked.subscription_id is None
            peer.say(mqtt5.SubAckPacket(asked.packet_id, [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE]))
        peer.say(publish(b"1", topic="a/b"), publish(b"2", packet_id=2, topic="c"))
        await idle(peer)

    async def scenario():
        one, two = [], []
        async with scripted(plain) as bus:
            bus.subscribe(["a/+"], one.append)
            bus.subscribe(["a/b"], two.append)
            running = asyncio.create_task(bus.run())
            await until(lambda: bus.stats.received == 2)
            assert ([d.payload for d in one], [d.payload for d in two]) == ([b"1"], [b"1"])
            assert bus.stats.unroutable == 1
            await bus.close()
            await running

    asyncio.run(scenario())


def test_a_broker_that_falls_silent_is_left_after_one_and_a_half_keepalives():
    pings = []

    async def silent(peer: Peer) -> None:
        await peer.welcome(subscriptions=1, server_keep_alive=1)
        while True:
            if isinstance(await peer.read(), mqtt5.PingReqPacket):
                pings.append(1)

    async def scenario():
        reasons = []
        async with scripted(silent) as bus:
            bus.subscribe(["x"], lambda _: None)
            bus.watch_link(lambda link: reasons.append(link.reason))
            running = asyncio.create_task(bus.run())
            await until(lambda: len(reasons) == 2)
            assert "no word from the broker" in reasons[1]
            await bus.close()
            await running

    asyncio.run(scenario())
    assert pings


def test_a_broker_that_answers_pings_is_kept():
    async def lively(peer: Peer) -> None:
        await peer.welcome(subscriptions=1, server_keep_alive=1)
        while True:
            if isinstance(await peer.read(), mqtt5.PingReqPacket):
                peer.say(mqtt5.PingRespPacket())

    async def scenario():
        async with scripted(lively) as bus:
            bus.subscribe(["x"], lambda _: None)
            running = asyncio.create_task(bus.run())
            await asyncio.sleep(1.9)  # it would have been left after 1.75
            assert bus.link.up
            assert bus.stats.reconnects == 0
            await bus.close()
            await running

    asyncio.run(scenario())


def test_a_broker_that_accepts_and_says_nothing_is_given_up_at_the_deadline():
    async def mute(peer: Peer) -> None:
        await idle(peer)

    async def scenario():
        async with scripted(mute, good, connect_timeout_s=0.1) as bus:
            bus.subscribe(["x"], lambda _: None)
            running = asyncio.create_task(bus.run())
            await until(lambda: bus.link.up)
            assert bus.stats.reconnects == 1
            await bus.close()
            await running

    asyncio.run(scenario())


def test_close_while_connecting_returns_at_once():
    async def mute(peer: Peer) -> None:
        await idle(peer)

    async def scenario():
        async with scripted(mute, connect_timeout_s=60) as bus:
            running = asyncio.create_task(bus.run())
            await asyncio.sleep(0.05)
            async with asyncio.timeout(1):
                await bus.close()
                await running

    asyncio.run(scenario())


def test_the_brokers_own_reason_for_the_end_is_the_reason_of_the_link():
    async def rude(peer: Peer) -> None:
        await peer.welcome(subscriptions=1)
        peer.say(mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER))
        await idle(peer)

    async def scenario():
        links = []
        async with scripted(rude) as bus:
            bus.subscribe(["x"], lambda _: None)
            bus.watch_link(links.append)
            running = asyncio.create_task(bus.run())
            await until(lambda: len(links) == 2)
            assert links[1].reason == "the broker ended the connection: session taken over"
            await bus.close()
            await running

    asyncio.run(scenario())


def test_what_the_broker_reads_is_what_was_meant():
    heard = []

    async def reader(peer: Peer) -> None:
        await peer.welcome(receive_max=10, max_packet_size=500)
        while len(heard) < 2:
            heard.append(await peer.read_until(mqtt5.PublishPacket))
        await idle(peer)

    async def scenario():
        properties = Properties(expiry_s=30, response_topic="back/here", correlation=b"7", content_type="x/y")
        async with scripted(reader) as bus:
            running = asyncio.create_task(bus.run())
            await until(lambda: bus.link.up)
            bus.publish("big", b"x" * 600, qos=1)
            bus.publish("t", b"1", qos=1, retain=True, properties=properties)
            bus.publish("t", b"2")
            await until(lambda: len(heard) == 2)
            assert bus.stats.refused == 1
            await bus.close()
            await running

    asyncio.run(scenario())
    first, second = heard
    assert (first.topic, first.retain, first.qos, first.payload) == (f"{ROOT}/t", True, Q1, b"1")
    assert first.message_expiry_interval == 30
    assert (first.response_topic, first.correlation_data) == (f"{ROOT}/back/here", b"7")
    assert first.content_type == "x/y"
    assert (second.qos, second.retain, second.message_expiry_interval) == (
        mqtt5.QoS.AT_MOST_ONCE,
        False,
        None,
    )
