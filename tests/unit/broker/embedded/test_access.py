"""The two hooks: who gets in, who may publish, subscribe and receive."""

import mqtt5

from broker.embedded import EmbeddedBroker, Identity
from tests.unit.broker.embedded.client import Client, with_broker


def by_password(
    username: str | None, password: bytes | None, client_id: str, certificate_name: str | None
) -> Identity | None:
    """Alice and Bob, whose sessions are named after them."""
    if (username, password) in (("alice", b"1"), ("bob", b"2")):
        assert username is not None
        return Identity(username, username)
    return None


class Rules:
    """A user owns ``own/{username}``; retained only below ``facts``; ``secret`` is heard by Alice alone."""

    unconditional = False

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.closed = False

    def may_publish(self, identity: Identity, topic: str, retain: bool) -> bool:
        self.asked.append(("publish", topic))
        if self.closed:
            return False
        return (
            topic == f"own/{identity.username}"
            or (topic.startswith("facts/") and retain)
            or topic == "secret"
        )

    def may_subscribe(self, identity: Identity, filter: str) -> bool:
        self.asked.append(("subscribe", filter))
        return filter != "nobody/#"

    def may_receive(self, identity: Identity, topic: str) -> bool:
        self.asked.append(("receive", topic))
        return topic != "secret" or identity.username == "alice"


async def enter(broker: EmbeddedBroker, username: str, password: bytes, **properties: object) -> Client:
    return await Client.connect(broker, "any", username=username, password=password, **properties)


async def refused_with(broker: EmbeddedBroker, **properties: object) -> int:
    client = await Client.dial(broker)
    await client.send(mqtt5.ConnectPacket("c", clean_start=True, **properties))
    (connack,) = await client.closed()
    return int(connack.reason_code)


@with_broker(authenticate=by_password)
async def test_who_is_not_known_is_turned_away(broker: EmbeddedBroker) -> None:
    assert await refused_with(broker, username="alice", password=b"2") == 0x86
    assert await refused_with(broker, password=b"1") == 0x86
    assert await refused_with(broker) == 0x87
    assert broker.stats.totals["connections_refused"] == 3
    await enter(broker, "alice", b"1")


@with_broker(authenticate=by_password)
async def test_the_authenticator_names_the_session_whatever_the_client_calls_itself(
    broker: EmbeddedBroker,
) -> None:
    alice = await enter(broker, "alice", b"1")
    await enter(broker, "bob", b"2")
    assert await alice.fence() == [], "the same client id did not take Alice's session"
    await enter(broker, "alice", b"1")
    assert await alice.disconnected() == 0x8E
    nameless = await Client.connect(broker, "", username="bob", password=b"2")
    assert nameless.connack.assigned_client_id == "bob"


@with_broker(authenticate=by_password, authorize=Rules())
async def test_a_refused_publish_is_answered_above_qos_0_and_counted_always(broker: EmbeddedBroker) -> None:
    alice, bob = await enter(broker, "alice", b"1"), await enter(broker, "bob", b"2")
    await bob.subscribe("#")
    assert await alice.publish("own/bob", qos=1) == 0x87
    assert await alice.publish("own/bob", qos=2) == 0x87
    assert await alice.publish("own/bob", qos=0) == 0
    assert await alice.publish("facts/1", b"x", qos=1, retain=False) == 0x87
    assert await alice.publish("facts/1", b"x", qos=1, retain=True) == 0
    assert await alice.publish("own/alice", b"y", qos=2) == 0
    assert await bob.payloads() == [b"x", b"y"]
    assert broker.stats.totals["publishes_refused"] == 4


@with_broker(authenticate=by_password, authorize=Rules())
async def test_a_refused_filter_stands_alone_in_its_suback(broker: EmbeddedBroker) -> None:
    alice = await enter(broker, "alice", b"1")
    assert await alice.subscribe("own/#", "nobody/#", "$share/g/own/#", qos=1) == [1, 0x87, 1]
    assert (broker.stats.subscriptions, broker.stats.totals["subscriptions_refused"]) == (2, 1)


@with_broker(authenticate=by_password, authorize=Rules())
async def test_what_a_client_may_not_receive_passes_it_by(broker: EmbeddedBroker) -> None:
    alice, bob = await enter(broker, "alice", b"1"), await enter(broker, "bob", b"2")
    for client in (alice, bob):
        await client.subscribe("#", "$share/g/secret", qos=0)
    for number in range(4):
        await alice.send(mqtt5.PublishPacket("secret", b"%d" % number))
    assert await alice.payloads() == [b"0", b"0", b"1", b"1", b"2", b"2", b"3", b"3"]
    assert await bob.fence() == []
    await alice.send(mqtt5.PublishPacket("facts/secret", b"kept", retain=True))
    await alice.send(mqtt5.PublishPacket("secret", b"kept", retain=True))
    assert len(await alice.fence()) == 3
    await bob.fence()
    await bob.subscribe("secret", "facts/#", qos=0)
    assert [p.topic for p in await bob.fence()] == ["facts/secret"]


def test_rules_are_asked_once_per_client_and_topic_until_they_change() -> None:
    rules = Rules()

    @with_broker(authenticate=by_password, authorize=rules)
    async def story(broker: EmbeddedBroker) -> None:
        alice = await enter(broker, "alice", b"1")
        await alice.subscribe("own/#", qos=0)
        for _ in range(5):
            await alice.send(mqtt5.PublishPacket("own/alice", b""))
        assert len(await alice.fence()) == 5
        assert rules.asked == [("subscribe", "own/#"), ("publish", "own/alice"), ("receive", "own/alice")]
        rules.closed = True
        broker.access_changed()
        assert await alice.publish("own/alice") == 0x87

    story()


@with_broker(authenticate=by_password, authorize=Rules())
async def test_a_will_that_its_client_may_not_publish_is_dropped_and_counted(broker: EmbeddedBroker) -> None:
    bob = await enter(broker, "bob", b"2")
    await bob.subscribe("#")
    for topic in ("own/bob", "own/alice"):
        alice = await enter(broker, "alice", b"1", will=mqtt5.Will(topic, payload=topic.encode()))
        await alice.disconnect(0x04)
    assert await bob.payloads() == [b"own/alice"]
    assert broker.stats.totals["wills_refused"] == 1


@with_broker()
async def test_the_brokers_own_topics_are_nobody_elses(broker: EmbeddedBroker) -> None:
    client = await Client.connect(broker)
    assert await client.publish("$SYS/broker/version", b"mine") == 0x87
