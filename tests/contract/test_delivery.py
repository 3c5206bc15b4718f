"""What arrives, in which order, how often, and when it is acknowledged."""

import asyncio

import pytest

from broker.bus import Delivery
from tests.contract.worlds import ALL, MQTT_5, settled, until

everywhere = pytest.mark.parametrize("kind", ALL)


@everywhere
def test_messages_of_a_topic_arrive_in_the_order_they_were_published(kind, play):
    async def scenario(world):
        sender, receiver, got = world.bus(), world.bus(), []
        receiver.subscribe(["a/+"], lambda delivery: got.append(int(delivery.payload)))
        await world.connect(receiver)
        await world.connect(sender)
        for number in range(300):
            assert sender.publish("a/x", str(number).encode(), qos=1)
        await until(lambda: len(got) >= 300)
        assert got == list(range(300))

    play(kind, scenario)


@everywhere
def test_a_late_joiner_reads_the_fact_first_and_then_what_happens(kind, play):
    async def scenario(world):
        bus, got = world.bus(), []
        await world.connect(bus)
        bus.publish("fact/x", b"old", qos=1, retain=True)
        await settled(bus)
        bus.subscribe(["fact/+"], got.append)
        await until(lambda: got)
        bus.publish("fact/x", b"new", qos=1, retain=True)
        await until(lambda: len(got) == 2)
        assert got == [Delivery("fact/x", b"old", True), Delivery("fact/x", b"new", False)]

    play(kind, scenario)


@everywhere
def test_a_cleared_fact_is_gone_for_those_who_come_later(kind, play):
    async def scenario(world):
        bus, early, late = world.bus(), [], []
        await world.connect(bus)
        bus.subscribe(["fact/x"], early.append)
        bus.publish("fact/x", b"true", qos=1, retain=True)
        bus.publish("fact/x", b"", qos=1, retain=True)
        await until(lambda: len(early) >= 2)
        other = world.bus()
        await world.connect(other)
        other.subscribe(["fact/x"], late.append)
        await settled(other)
        assert [one.payload for one in early] == [b"true", b""]
        assert late == []

    play(kind, scenario)


@everywhere
def test_a_wildcard_stands_for_one_level_and_a_hash_for_the_rest(kind, play):
    async def scenario(world):
        bus, plus, rest = world.bus(), [], []
        bus.subscribe(["w/+/z"], lambda delivery: plus.append(delivery.topic))
        bus.subscribe(["v/#"], lambda delivery: rest.append(delivery.topic))
        await world.connect(bus)
        for topic in ("w/1/z", "w/1/2/z", "w/1", "v/1", "v/1/2", "u/1"):
            bus.publish(topic, b"", qos=1)
        await settled(bus)
        assert (plus, rest) == (["w/1/z"], ["v/1", "v/1/2"])

    play(kind, scenario)


@pytest.mark.parametrize("kind", ["memory", *MQTT_5])
def test_overlapping_filters_deliver_once_to_each_handler(kind, play):
    async def scenario(world):
        bus, one, two, same = world.bus(), [], [], []
        bus.subscribe(["o/+", "o/#", "o/a"], one.append)
        bus.subscribe(["o/#"], two.append)
        bus.subscribe(["o/#"], same.append)
        await world.connect(bus)
        for number in range(3):
            bus.publish("o/a", str(number).encode(), qos=1)
        bus.publish("o/a/b", b"deep", qos=1)
        await settled(bus)
        expected = [b"0", b"1", b"2", b"deep"]
        assert [one.payload for one in one] == expected
        assert [one.payload for one in two] == expected
        assert [one.payload for one in same] == expected

    play(kind, scenario)


@everywhere
def test_a_closed_subscription_hears_nothing_and_its_twin_goes_on(kind, play):
    async def scenario(world):
        bus, closed, kept = world.bus(), [], []
        subscription = bus.subscribe(["c/x"], closed.append)
        bus.subscribe(["c/x"], kept.append)
        await world.connect(bus)
        bus.publish("c/x", b"1", qos=1)
        await until(lambda: closed and kept)
        subscription.close()
        subscription.close()
        bus.publish("c/x", b"2", qos=1)
        await settled(bus)
        assert [one.payload for one in closed] == [b"1"]
        assert [one.payload for one in kept] == [b"1", b"2"]

    play(kind, scenario)


@everywhere
def test_a_filter_may_be_dropped_and_taken_up_again(kind, play):
    async def scenario(world):
        bus, got = world.bus(), []
        await world.connect(bus)
        for _ in range(3):
            bus.subscribe(["again/x"], got.append).close()
        subscription = bus.subscribe(["again/x"], got.append)
        await settled(bus)
        bus.publish("again/x", b"heard", qos=1)
        await settled(bus)
        assert [one.payload for one in got] == [b"heard"]
        subscription.close()

    play(kind, scenario)


@everywhere
def test_a_handler_that_raises_keeps_nothing_from_the_others_nor_from_the_next_message(kind, play, caplog):
    async def scenario(world):
        bus, got = world.bus(), []

        def broken(delivery):
            raise ValueError("a bug")

        bus.subscribe(["h/x"], broken)
        bus.subscribe(["h/x"], got.append)
        await world.connect(bus)
        bus.publish("h/x", b"1", qos=1)
        bus.publish("h/x", b"2", qos=1)
        await settled(bus)
        assert [one.payload for one in got] == [b"1", b"2"]
        assert bus.stats.handler_errors == 2

    play(kind, scenario)
    assert "h/x" in caplog.text
    assert "a bug" in caplog.text


@pytest.mark.parametrize("kind", ["memory", *MQTT_5])
def test_withheld_acknowledgements_hold_the_senders_back(kind, play):
    async def scenario(world):
        sender, receiver, got = world.bus(), world.bus(receive_max=4), []
        room = asyncio.get_running_loop().create_future()

        def handle(delivery):
            got.append(int(delivery.payload))
            return None if room.done() else room

        receiver.subscribe(["slow/x"], handle)
        await world.connect(receiver)
        await world.connect(sender)
        for number in range(20):
            sender.publish("slow/x", str(number).encode(), qos=1)
        await until(lambda: len(got) == 4)
        await settled(sender)
        assert got == [0, 1, 2, 3]
        room.set_result(None)
        await until(lambda: len(got) == 20)
        assert got == list(range(20))

    play(kind, scenario)


@pytest.mark.parametrize("kind", [one for one in ALL if one != "memory"])
def test_fleets_on_one_broker_never_hear_each_other(kind, play):
    async def scenario(world):
        ours, got, theirs = world.bus(), [], []
        stranger = world.bus(root=world.root + "x", client_id="stranger" + world.root.rpartition("/")[2])
        ours.subscribe(["#"], got.append)
        stranger.subscribe(["#"], theirs.append)
        await world.connect(ours)
        await world.connect(stranger)
        ours.publish("a", b"ours", qos=1)
        stranger.publish("a", b"theirs", qos=1)
        await until(lambda: got and theirs)
        assert (got, theirs) == ([Delivery("a", b"ours")], [Delivery("a", b"theirs")])

    play(kind, scenario)


@pytest.mark.parametrize("kind", [one for one in ALL if one != "memory"])
def test_a_topic_that_would_end_every_connection_is_refused_at_once(kind, play):
    async def scenario(world):
        bus = world.bus()
        for topic in ("a/+", "a/#", "a\0b", "x" * 70_000):
            with pytest.raises(ValueError, match="can't be published"):
                bus.publish(topic, b"", qos=1)

    play(kind, scenario)
