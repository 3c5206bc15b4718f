"""What subscribers get: QoS, retained messages, options, identifiers, order, redelivery."""

import mqtt5
import pytest

from broker.embedded import EmbeddedBroker
from tests.unit.broker.embedded.client import Client, with_broker

Q0, Q1, Q2 = mqtt5.QoS.AT_MOST_ONCE, mqtt5.QoS.AT_LEAST_ONCE, mqtt5.QoS.EXACTLY_ONCE
NO_MATCHING_SUBSCRIBERS = 0x10


def test_a_message_arrives_with_the_lower_of_the_two_qos() -> None:
    @with_broker()
    async def story(broker: EmbeddedBroker) -> None:
        publisher = await Client.connect(broker)
        for wanted in range(3):
            subscriber = await Client.connect(broker)
            assert await subscriber.subscribe("t", qos=wanted) == [wanted]
            for sent in range(3):
                await publisher.publish("t", b"x", qos=sent)
                message = await subscriber.message()
                assert int(message.qos) == min(sent, wanted)
                assert not message.duplicate
                assert not message.retain
            await subscriber.disconnect()

    story()


@with_broker()
async def test_a_publisher_hears_that_nobody_listens(broker: EmbeddedBroker) -> None:
    client = await Client.connect(broker)
    assert await client.publish("t", qos=1) == NO_MATCHING_SUBSCRIBERS
    assert await client.publish("t", qos=2) == 0, "its repeat could not know"
    await client.subscribe("t", qos=0)
    await client.send(mqtt5.PublishPacket("t", b"", qos=Q1, packet_id=9))
    answers = {type(packet): packet for packet in await client.fence()}
    assert answers[mqtt5.PubAckPacket].reason_code == 0


@with_broker()
async def test_every_property_of_a_publish_is_passed_on(broker: EmbeddedBroker) -> None:
    subscriber, publisher = await Client.connect(broker), await Client.connect(broker)
    await subscriber.subscribe("t")
    properties = {
        "payload_format_indicator": 1,
        "content_type": "text/plain",
        "response_topic": "answers/1",
        "correlation_data": b"\x00\xff",
        "user_properties": [("a", "2"), ("c", "3"), ("a", "4")],
        "message_expiry_interval": 600,
    }
    for qos in range(3):
        await publisher.publish("t", b"x", qos=qos, **properties)
        message = await subscriber.message()
        assert {name: getattr(message, name) for name in properties} == properties


@with_broker()
async def test_a_qos_2_publish_is_routed_once_however_often_it_is_repeated(broker: EmbeddedBroker) -> None:
    subscriber = await Client.connect(broker)
    await subscriber.subscribe("t", qos=0)
    publisher = await Client.connect(broker, "p", expiry=60)
    await publisher.send(mqtt5.PublishPacket("t", b"once", qos=Q2, packet_id=5))
    await publisher.expect(mqtt5.PubRecPacket)
    await publisher.send(mqtt5.PublishPacket("t", b"once", qos=Q2, packet_id=5, duplicate=True))
    await publisher.expect(mqtt5.PubRecPacket)
    publisher.vanish()
    publisher = await Client.connect(broker, "p", expiry=60)
    await publisher.send(mqtt5.PublishPacket("t", b"once", qos=Q2, packet_id=5, duplicate=True))
    assert (await publisher.expect(mqtt5.PubRecPacket)).reason_code == 0
    await publisher.send(mqtt5.PubRelPacket(5))
    assert (await publisher.expect(mqtt5.PubCompPacket)).reason_code == 0
    assert await subscriber.payloads() == [b"once"]
    await publisher.send(mqtt5.PublishPacket("t", b"another", qos=Q2, packet_id=5))
    await publisher.expect(mqtt5.PubRecPacket)
    assert await subscriber.payloads() == [b"another"]


@with_broker()
async def test_a_qos_2_delivery_resumes_where_the_connection_was_lost(broker: EmbeddedBroker) -> None:
    publisher = await Client.connect(broker)
    client = await Client.connect(broker, "c", expiry=60)
    await client.subscribe("t")
    await publisher.publish("t", b"x", qos=2)
    first = await client.message()
    client.vanish()
    client = await Client.connect(broker, "c", expiry=60)
    assert client.connack.session_present
    again = await client.message()
    assert (again.packet_id, again.payload, again.duplicate) == (first.packet_id, b"x", True)
    await client.send(mqtt5.PubRecPacket(again.packet_id))
    assert (await client.expect(mqtt5.PubRelPacket)).packet_id == again.packet_id
    client.vanish()
    client = await Client.connect(broker, "c", expiry=60)
    assert (await client.expect(mqtt5.PubRelPacket)).packet_id == again.packet_id
    await client.send(mqtt5.PubCompPacket(again.packet_id))
    assert await client.fence() == []
    client.vanish()
    client = await Client.connect(broker, "c", expiry=60)
    assert await client.fence() == []


@with_broker()
async def test_what_was_not_acknowledged_comes_again_in_order_and_before_what_waited(
    broker: EmbeddedBroker,
) -> None:
    publisher = await Client.connect(broker)
    client = await Client.connect(broker, "c", expiry=60, receive_max=3)
    await client.subscribe("t")
    for number in range(6):
        await publisher.publish("t", b"%d" % number)
    assert await client.payloads() == [b"0", b"1", b"2"]
    client.vanish()
    await publisher.publish("t", b"6")
    client = await Client.connect(broker, "c", expiry=60, receive_max=2)
    seen = []
    for _ in range(7):
        message = await client.message()
        seen.append((message.payload, message.duplicate))
        await client.ack(message)
    assert seen == [(b"%d" % n, n < 3) for n in range(7)]
    assert await client.fence() == []


@with_broker()
async def test_the_receive_maximum_of_a_client_is_respected_and_one_answer_frees_one_place(
    broker: EmbeddedBroker,
) -> None:
    publisher = await Client.connect(broker)
    client = await Client.connect(broker, receive_max=2)
    await client.subscribe("t")
    for number in range(5):
        await publisher.publish("t", b"%d" % number, qos=1 + number % 2)
    first, second = await client.fence()
    await client.ack(first)
    (third,) = await client.fence()
    await client.send(mqtt5.PubRecPacket(second.packet_id))
    assert [type(packet) for packet in await client.fence()] == [mqtt5.PubRelPacket]
    await client.send(mqtt5.PubCompPacket(second.packet_id))
    (fourth,) = await client.fence()
    assert [third.payload, fourth.payload] == [b"2", b"3"]
    await client.send(mqtt5.PubRecPacket(fourth.packet_id, reason_code=mqtt5.PubRecReasonCode.QUOTA_EXCEEDED))
    assert await client.payloads() == [b"4"], "a refusal ends the exchange"


@with_broker()
async def test_qos_0_is_not_held_up_by_a_full_window(broker: EmbeddedBroker) -> None:
    publisher = await Client.connect(broker)
    client = await Client.connect(broker, receive_max=1)
    await client.subscribe("t")
    for number in range(3):
        await publisher.publish("t", b"%d" % number)
    await publisher.publish("t", b"now", qos=0)
    await publisher.fence()
    assert await client.payloads() == [b"0", b"now"]


@pytest.mark.parametrize("wrong", [mqtt5.PubRecPacket, mqtt5.PubCompPacket])
def test_the_wrong_acknowledgement_for_a_message_in_flight_is_a_protocol_error(wrong: type) -> None:
    @with_broker()
    async def story(broker: EmbeddedBroker) -> None:
        client = await Client.connect(broker)
        await client.subscribe("t")
        await client.send(mqtt5.PublishPacket("t", b"", qos=Q1, packet_id=1))
        (message,) = [p for p in await client.fence() if isinstance(p, mqtt5.PublishPacket)]
        await client.send(wrong(message.packet_id))
        assert await client.disconnected() == 0x82

    story()


@with_broker()
async def test_acknowledgements_of_nothing_are_counted_and_a_stray_pubrec_is_told(
    broker: EmbeddedBroker,
) -> None:
    client = await Client.connect(broker)
    await client.send(mqtt5.PubAckPacket(7), mqtt5.PubCompPacket(7), mqtt5.PubRecPacket(7))
    (answer,) = await client.fence()
    assert (type(answer), answer.packet_id, answer.reason_code) == (mqtt5.PubRelPacket, 7, 0x92)
    assert broker.stats.totals["acknowledgements_unknown"] == 3


# --- subscriptions --------------------------------------------------------------------------------------


@with_broker()
async def test_overlapping_filters_give_one_message_with_the_highest_qos_and_all_identifiers(
    broker: EmbeddedBroker,
) -> None:
    client = await Client.connect(broker)
    await client.subscribe("a/#", qos=2, id=2)
    await client.subscribe("a/+", qos=1, id=268_435_455)
    await client.subscribe("a/b", qos=0)
    publisher = await Client.connect(broker)
    await publisher.publish("a/b", b"x", qos=2)
    (message,) = await client.fence()
    assert (message.qos, sorted(message.subscription_ids)) == (Q2, [2, 268_435_455])


@with_broker()
async def test_subscribing_again_replaces_qos_and_identifier(broker: EmbeddedBroker) -> None:
    client, publisher = await Client.connect(broker), await Client.connect(broker)
    await client.subscribe("t", qos=2, id=1)
    await client.subscribe("t", qos=0, id=7)
    await publisher.publish("t", b"x", qos=2)
    (message,) = await client.fence()
    assert (message.qos, message.subscription_ids) == (Q0, [7])
    assert broker.stats.subscriptions == 1


@with_broker()
async def test_no_local_keeps_the_publishers_own_messages_away(broker: EmbeddedBroker) -> None:
    client, other = await Client.connect(broker, "c"), await Client.connect(broker)
    await client.subscribe("t", no_local=True, id=1)
    await client.publish("t", b"mine", qos=1)
    assert await client.payloads() == []
    await other.publish("t", b"theirs")
    assert await client.payloads() == [b"theirs"]
    await client.subscribe("#", id=2)
    await client.send(mqtt5.PublishPacket("t", b"mine", qos=Q0))
    (message,) = await client.fence()
    assert message.subscription_ids == [2], "only the filter without no-local applies"


@with_broker()
async def test_the_retain_flag_is_kept_only_as_published(broker: EmbeddedBroker) -> None:
    plain, kept = await Client.connect(broker), await Client.connect(broker)
    await plain.subscribe("t")
    await kept.subscribe("t", retain_as_published=True)
    publisher = await Client.connect(broker)
    await publisher.publish("t", b"x", retain=False)
    await publisher.publish("t", b"x", retain=True)
    assert [packet.retain for packet in await plain.fence()] == [False, False]
    assert [packet.retain for packet in await kept.fence()] == [False, True]


@with_broker()
async def test_leading_wildcards_do_not_match_dollar_topics(broker: EmbeddedBroker) -> None:
    wild, named = await Client.connect(broker), await Client.connect(broker)
    await wild.subscribe("#", "+/a", "+/#")
    await named.subscribe("$x/#")
    publisher = await Client.connect(broker)
    await publisher.publish("$x/a", b"hidden")
    assert await wild.fence() == []
    assert await named.payloads() == [b"hidden"]


@with_broker()
async def test_unsubscribing_stops_one_filter_and_says_whether_it_was_there(broker: EmbeddedBroker) -> None:
    client, publisher = await Client.connect(broker), await Client.connect(broker)
    await client.subscribe("a", "b", "$share/g/c")
    assert await client.unsubscribe("a", "nothing", "$share/g/c") == [0, 0x11, 0]
    for topic in ("a", "b", "c"):
        await publisher.publish(topic, topic.encode())
    assert await client.payloads() == [b"b"]
    assert broker.stats.subscriptions == 1


@with_broker()
async def test_a_malformed_filter_ends_the_connection_and_nothing_of_its_packet_holds(
    broker: EmbeddedBroker,
) -> None:
    for malformed in ("a#", "#/a", "", "+a", "$share/g", "$share//a", "$share/g/", "$share/+/a"):
        client = await Client.connect(broker)
        await client.subscribe_anyway("ok", malformed)
        assert await client.disconnected() == 0x81, malformed
        client = await Client.connect(broker)
        await client.subscribe("ok")
        await client.unsubscribe_anyway("ok", malformed)
        assert await client.disconnected() == 0x81, malformed
    assert broker.stats.subscriptions == 0


@with_broker(topic_levels_max=3, topic_bytes_max=8)
async def test_a_filter_too_deep_or_too_long_for_us_is_refused_and_the_others_hold(
    broker: EmbeddedBroker,
) -> None:
    client = await Client.connect(broker)
    assert await client.subscribe("a/b/c", "a/b/c/d", "12345678", "123456789", "$share/g/a") == [
        2, 0x8F, 2, 0x8F, 2,
    ]  # fmt: skip


@with_broker()
async def test_a_group_is_no_topic_to_publish_to(broker: EmbeddedBroker) -> None:
    client = await Client.connect(broker)
    assert await client.publish("$share/g/a", retain=True) == 0x87
    assert await client.publish("$shared/g/a") == NO_MATCHING_SUBSCRIBERS


@with_broker()
async def test_who_publishes_to_itself_gets_the_pubrec_before_the_message(broker: EmbeddedBroker) -> None:
    client = await Client.connect(broker)
    await client.subscribe("t")
    await client.send(mqtt5.PublishPacket("t", b"x", qos=mqtt5.QoS(2), packet_id=7))
    assert (await client.expect(mqtt5.PubRecPacket)).packet_id == 7
    assert (await client.message()).payload == b"x"


@with_broker()
async def test_a_pubrel_nobody_waits_for_is_an_error_only_in_a_new_session(broker: EmbeddedBroker) -> None:
    client = await Client.connect(broker, "c", expiry=60)
    await client.send(mqtt5.PubRelPacket(5))
    assert (await client.expect(mqtt5.PubCompPacket)).reason_code == 0x92
    assert await client.publish("t", qos=2) == 0
    client.vanish()
    client = await Client.connect(broker, "c", expiry=60)
    assert client.connack.session_present
    await client.send(mqtt5.PubRelPacket(1))
    assert (await client.expect(mqtt5.PubCompPacket)).reason_code == 0, "our PUBCOMP may have been lost"


@with_broker()
async def test_no_answer_is_longer_than_the_client_takes(broker: EmbeddedBroker) -> None:
    client = await Client.connect(broker, "c", max_packet_size=20)
    assert await client.subscribe(*"abcd") == [2] * 4
    await client.send(mqtt5.SubscribePacket(2, [mqtt5.TopicFilter(f"t/{n}") for n in range(20)]))
    assert await client.disconnected() == 0x95
    client = await Client.dial(broker)
    await client.send(mqtt5.ConnectPacket("d", max_packet_size=5))
    (refused,) = await client.closed()
    assert (refused.reason_code, refused.reason_str) == (0x95, None)
    client = await Client.dial(broker)
    await client.send(mqtt5.ConnectPacket("d", max_packet_size=2))
    assert await client.closed() == []
    assert broker.stats.sessions == 0


# --- retained messages ----------------------------------------------------------------------------------


@with_broker()
async def test_a_late_subscriber_gets_the_newest_retained_messages_with_their_own_qos(
    broker: EmbeddedBroker,
) -> None:
    publisher = await Client.connect(broker)
    for qos in range(3):
        await publisher.publish(f"r/{qos}", b"old", qos=qos, retain=True)
        await publisher.publish(f"r/{qos}", b"new", qos=qos, retain=True, user_properties=[("k", "v")])
    await publisher.publish("$r/0", b"hidden", retain=True)
    client = await Client.connect(broker)
    await client.subscribe("+/+", id=4)
    got = {
        p.topic: (p.payload, int(p.qos), p.retain, p.subscription_ids, p.user_properties)
        for p in await client.fence()
    }
    assert got == {f"r/{qos}": (b"new", qos, True, [4], [("k", "v")]) for qos in range(3)}


@with_broker()
async def test_an_empty_payload_clears_a_retained_message_and_is_itself_delivered(
    broker: EmbeddedBroker,
) -> None:
    client = await Client.connect(broker)
    await client.publish("t", b"x", retain=True)
    await client.subscribe("t", qos=0)
    assert [p.payload for p in await client.fence()] == [b"x"]
    await client.send(mqtt5.PublishPacket("t", b"", retain=True))
    assert [p.payload for p in await client.fence()] == [b""]
    await client.subscribe("t", qos=0)
    assert await client.fence() == []
    assert (broker.stats.retained_messages, broker.stats.retained_bytes) == (0, 0)


def test_retain_handling_says_when_retained_messages_are_sent() -> None:
    @with_broker()
    async def story(broker: EmbeddedBroker) -> None:
        publisher = await Client.connect(broker)
        await publisher.publish("t", b"x", retain=True)
        for handling, first, second in ((0, 1, 1), (1, 1, 0), (2, 0, 0)):
            client = await Client.connect(broker)
            option = mqtt5.RetainHandling(handling)
            await client.subscribe("t", qos=0, retain_handling=option)
            assert len(await client.fence()) == first
            await client.subscribe("t", qos=0, retain_handling=option)
            assert len(await client.fence()) == second

    story()


@with_broker(write_buffer_bytes_max=1 << 24)
async def test_a_long_replay_never_lets_an_older_message_follow_a_newer_one(broker: EmbeddedBroker) -> None:
    client = await Client.connect(broker)
    topics = [f"r/{number}" for number in range(2500)]
    await client.send(*(mqtt5.PublishPacket(topic, b"old", retain=True) for topic in topics))
    await client.fence()
    newer = [mqtt5.PublishPacket(topic, b"new", retain=True) for topic in topics[::2]]
    await client.send(mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("r/#", max_qos=Q0)]), *newer)
    await client.expect(mqtt5.SubAckPacket)
    latest: dict[str, bytes] = {}
    while len(latest) < 2500 or any(latest[topic] == b"old" for topic in topics[::2]):
        message = await client.message()
        assert latest.get(message.topic) != b"new", "the newer one was the last word"
        latest[message.topic] = message.payload
    assert await client.fence() == []
    assert {latest[topic] for topic in topics[1::2]} == {b"old"}


@with_broker()
async def test_a_shared_subscription_gets_no_retained_messages(broker: EmbeddedBroker) -> None:
    client = await Client.connect(broker)
    await client.publish("t", b"x", retain=True)
    await client.subscribe("$share/g/t")
    assert await client.fence() == []


# --- aliases and sizes ----------------------------------------------------------------------------------


@with_broker()
async def test_a_client_may_use_topic_aliases_and_change_them(broker: EmbeddedBroker) -> None:
    subscriber, client = await Client.connect(broker), await Client.connect(broker)
    await subscriber.subscribe("#")
    assert client.connack.topic_alias_max > 0
    await client.publish("a", b"1", topic_alias=1)
    await client.publish("", b"2", topic_alias=1)
    await client.publish("b", b"3", topic_alias=1)
    await client.publish("", b"4", qos=2, topic_alias=1)
    got = [(p.topic, p.payload, p.topic_alias) for p in await subscriber.fence()]
    assert got == [("a", b"1", None), ("a", b"2", None), ("b", b"3", None), ("b", b"4", None)]


@with_broker()
async def test_a_client_that_takes_aliases_gets_them_for_its_first_topics(broker: EmbeddedBroker) -> None:
    client, publisher = await Client.connect(broker, topic_alias_max=1), await Client.connect(broker)
    await client.subscribe("#")
    for qos, topic in enumerate(("a", "a", "a", "b")):
        await publisher.publish(topic, b"x", qos=qos % 3)
    got = [(p.topic, p.topic_alias) for p in await client.fence()]
    assert got == [("a", 1), ("", 1), ("", 1), ("b", None)]


@with_broker()
async def test_a_resumed_session_starts_without_aliases(broker: EmbeddedBroker) -> None:
    publisher = await Client.connect(broker)
    client = await Client.connect(broker, "c", expiry=60, topic_alias_max=5)
    await client.subscribe("a")
    await publisher.publish("a", b"1")
    assert (await client.message()).topic_alias == 1
    client.vanish()
    client = await Client.connect(broker, "c", expiry=60)
    again = await client.message()
    assert (again.topic, again.topic_alias, again.duplicate) == ("a", None, True)
    await client.send(b"\x30\x06\0\0\3\x23\0\1")
    assert await client.disconnected() == 0x82, "and it has forgotten the client's aliases too"


@with_broker()
async def test_a_message_too_large_for_a_client_is_left_out_and_counted(broker: EmbeddedBroker) -> None:
    small, large = (
        await Client.connect(broker, max_packet_size=40, receive_max=1),
        await Client.connect(broker),
    )
    await small.subscribe("t")
    await large.subscribe("t")
    for qos in range(3):
        await large.send(mqtt5.PublishPacket("t", b"." * 60, qos=mqtt5.QoS(qos), packet_id=qos or None))
    await large.send(mqtt5.PublishPacket("t", b"fits", qos=Q1, packet_id=3))
    assert len([p for p in await large.fence() if isinstance(p, mqtt5.PublishPacket)]) == 4
    assert await small.payloads() == [b"fits"]
    assert broker.stats.totals["dropped_too_large"] == 3


@with_broker()
async def test_many_subscribers_share_one_encoding_but_not_their_packet_ids(broker: EmbeddedBroker) -> None:
    publisher = await Client.connect(broker)
    subscribers = [await Client.connect(broker) for _ in range(5)]
    for number, subscriber in enumerate(subscribers):
        await subscriber.subscribe("warm", "t" * 100)
        for _ in range(number):  # each at another packet id
            await publisher.publish("warm", b"")
    for subscriber in subscribers:
        await subscriber.fence()
    await publisher.publish("t" * 100, b"x" * 300, user_properties=[("k", "v")])
    packets = [await subscriber.message() for subscriber in subscribers]
    assert [p.packet_id for p in packets] == [11, 11, 10, 8, 5]
    assert {(p.topic, p.payload, tuple(p.user_properties)) for p in packets} == {
        ("t" * 100, b"x" * 300, (("k", "v"),))
    }
