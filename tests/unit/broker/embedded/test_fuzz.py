"""Whatever bytes one connection sends, the traffic of the others goes on, and the broker keeps its books."""

import random

import mqtt5
import pytest

from broker.embedded import EmbeddedBroker
from tests.unit.broker.embedded.client import Client, until, with_broker

CONNECT = mqtt5.ConnectPacket(
    "fuzz",
    clean_start=True,
    username="u",
    password=b"p",
    will=mqtt5.Will("w", payload=b"w", content_type="x"),
).write()
SEEDS = (
    CONNECT,
    mqtt5.PublishPacket("a/b", b"payload", qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=1, topic_alias=1).write(),
    mqtt5.PublishPacket(
        "a", b"x", response_topic="r", correlation_data=b"1", user_properties=[("k", "v")]
    ).write(),
    mqtt5.PublishPacket("a", b"x", qos=mqtt5.QoS.EXACTLY_ONCE, packet_id=2, retain=True).write(),
    mqtt5.PubRelPacket(2).write(),
    mqtt5.PubAckPacket(1, reason_str="why").write(),
    mqtt5.PubRecPacket(1).write(),
    mqtt5.PubCompPacket(1).write(),
    mqtt5.SubscribePacket(
        3, [mqtt5.TopicFilter("a/#"), mqtt5.TopicFilter("$share/g/+")], subscription_id=300
    ).write(),
    mqtt5.UnsubscribePacket(4, ["a/#", "b"]).write(),
    mqtt5.PingReqPacket().write(),
    mqtt5.DisconnectPacket(session_expiry_interval=5, reason_str="bye").write(),
    mqtt5.AuthPacket(authentication_method="m", authentication_data=b"d").write(),
)


def mutated(rng: random.Random) -> bytes:
    """One to six valid packets with a few bytes changed, removed, repeated or cut off."""
    data = bytearray(b"".join(rng.choice(SEEDS) for _ in range(rng.randint(1, 6))))
    for _ in range(rng.randint(0, 4)):
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                del data[at : at + rng.randint(1, 3)]
            case _:
                data[at:at] = data[at : at + rng.randint(1, 8)]
        data = data or bytearray(b"\0")
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes_disturb_nobody_else(seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(seed)

    @with_broker(connect_timeout_s=2.0)
    async def story(broker: EmbeddedBroker) -> None:
        publisher, subscriber = await Client.connect(broker, "p"), await Client.connect(broker, "s")
        await subscriber.subscribe("steady", qos=1)
        for number in range(150):
            hostile = await Client.dial(broker)
            start = CONNECT if rng.random() < 0.8 else b""
            noise = rng.randbytes(rng.randint(1, 60)) if rng.random() < 0.3 else mutated(rng)
            await hostile.send(start + noise)
            await publisher.publish("steady", b"%d" % number)
            message = await subscriber.message()
            assert message.payload == b"%d" % number
            await subscriber.ack(message)
            hostile.vanish()
        await until(lambda: broker.stats.clients_connected == 2)
        assert await subscriber.fence() == []
        assert await publisher.fence() == []
        await until(lambda: broker.stats.sessions <= 3)  # "fuzz" may have asked for a session that stays

    story()
    assert "Traceback" not in capfd.readouterr().err, (
        "no fault of a peer reaches the event loop as an exception"
    )


def test_a_flood_of_topics_filters_and_aliases_leaves_nothing_behind() -> None:
    rng = random.Random(1)

    @with_broker(routes_cached_max=100)
    async def story(broker: EmbeddedBroker) -> None:
        hostile = await Client.connect(broker)
        for _ in range(300):
            topic = "/".join(rng.choice("abc") for _ in range(rng.randint(1, 20)))
            await hostile.subscribe(topic + "/#", f"$share/{topic[0]}/{topic}", qos=0)
            await hostile.send(mqtt5.PublishPacket(topic, b"x", topic_alias=rng.randint(1, 64)))
            await hostile.fence()
        await hostile.disconnect()
        assert broker.stats.sessions == broker.stats.subscriptions == broker.stats.retained_messages == 0

    story()
