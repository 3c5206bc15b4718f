"""Shared subscriptions: one of many, in turn, and nothing is lost with a member."""

import mqtt5

from broker.embedded import EmbeddedBroker
from tests.unit.broker.embedded.client import Client, until, with_broker

FILTER = "$share/g/t"


async def drain(client: Client) -> list[bytes]:
    """Acknowledge until nothing more comes."""
    payloads = []
    while packets := [p for p in await client.fence() if isinstance(p, mqtt5.PublishPacket)]:
        for packet in packets:
            payloads.append(packet.payload)
            await client.ack(packet)
    return payloads


@with_broker()
async def test_members_take_turns_and_plain_subscribers_get_everything(broker: EmbeddedBroker) -> None:
    members = [await Client.connect(broker) for _ in range(3)]
    for number, member in enumerate(members):
        await member.subscribe(FILTER, qos=1, id=number + 1)
    plain, publisher = await Client.connect(broker), await Client.connect(broker)
    await plain.subscribe("t", "$share/other/#", qos=0)
    for number in range(9):
        await publisher.publish("t", b"%d" % number)
    for number, member in enumerate(members):
        packets = await member.fence()
        assert [int(p.payload) % 3 for p in packets] == [number] * 3
        assert {tuple(p.subscription_ids) for p in packets} == {(number + 1,)}
    assert len(await plain.fence()) == 18


@with_broker()
async def test_what_a_lost_member_had_not_acknowledged_goes_to_another_in_order(
    broker: EmbeddedBroker,
) -> None:
    doomed, publisher = await Client.connect(broker, receive_max=4), await Client.connect(broker)
    await doomed.subscribe(FILTER, qos=1)
    for number in range(8):
        await publisher.publish("t", b"%d" % number)
    assert len(await doomed.fence()) == 4
    heir = await Client.connect(broker, receive_max=1)
    await heir.subscribe(FILTER, qos=1)
    assert await heir.payloads() == [b"4"], "the backlog is the group's, so a new member helps at once"
    doomed.vanish()
    await until(lambda: broker.stats.totals["shared_redispatched"] == 4)
    await heir.send(mqtt5.PubAckPacket(1))
    assert await drain(heir) == [b"0", b"1", b"2", b"3", b"5", b"6", b"7"]


@with_broker()
async def test_a_member_that_stalls_holds_back_no_more_than_its_window(broker: EmbeddedBroker) -> None:
    stuck, lively = await Client.connect(broker, receive_max=2), await Client.connect(broker)
    await stuck.subscribe(FILTER, qos=1)
    await lively.subscribe(FILTER, qos=1)
    publisher = await Client.connect(broker)
    for number in range(50):
        await publisher.publish("t", b"%d" % number)
    assert len(await stuck.fence()) == 2
    assert len(await drain(lively)) == 48


@with_broker()
async def test_a_group_whose_members_are_away_keeps_its_messages(broker: EmbeddedBroker) -> None:
    member, publisher = await Client.connect(broker, "m", expiry=60), await Client.connect(broker)
    await member.subscribe(FILTER, qos=1)
    await publisher.publish("t", b"first")
    await member.message()
    member.vanish()
    await until(lambda: broker.stats.clients_connected == 1)
    assert await publisher.publish("t", b"second") == 0
    await publisher.publish("t", b"volatile", qos=0)
    await publisher.fence()
    member = await Client.connect(broker, "m", expiry=60)
    assert await drain(member) == [b"first", b"second"]
    assert broker.stats.totals["dropped_offline"] == 1


@with_broker()
async def test_a_qos_2_message_in_flight_stays_with_its_member(broker: EmbeddedBroker) -> None:
    chosen, publisher = await Client.connect(broker, "m", expiry=60), await Client.connect(broker)
    await chosen.subscribe(FILTER)
    await publisher.publish("t", b"x", qos=2)
    await chosen.message()
    chosen.vanish()
    other = await Client.connect(broker)
    await other.subscribe(FILTER)
    assert await other.fence() == []
    chosen = await Client.connect(broker, "m", expiry=60)
    assert (await chosen.message()).duplicate


@with_broker()
async def test_the_last_member_takes_the_backlog_with_it(broker: EmbeddedBroker) -> None:
    member, publisher = await Client.connect(broker, receive_max=1), await Client.connect(broker)
    await member.subscribe(FILTER, qos=1)
    for _ in range(3):
        await publisher.publish("t", b"x")
    await member.fence()
    assert await member.unsubscribe(FILTER) == [0]
    await member.subscribe(FILTER, qos=1)
    assert await member.fence() == []
    assert broker.stats.totals["dropped_session_ended"] == 2


@with_broker(queue_messages_max=3)
async def test_the_backlog_of_a_group_is_bounded(broker: EmbeddedBroker) -> None:
    member, publisher = await Client.connect(broker, receive_max=1), await Client.connect(broker)
    await member.subscribe(FILTER, qos=1)
    for number in range(10):
        await publisher.publish("t", b"%d" % number)
    assert await drain(member) == [b"0", b"1", b"2", b"3"]
    assert broker.stats.totals["dropped_queue_full"] == 6


@with_broker()
async def test_groups_with_other_names_or_filters_are_other_groups(broker: EmbeddedBroker) -> None:
    client, publisher = await Client.connect(broker), await Client.connect(broker)
    await client.subscribe("$share/a/t", "$share/b/t", "$share/a/+", qos=0)
    await publisher.publish("t", b"x")
    assert await client.payloads() == [b"x"] * 3
