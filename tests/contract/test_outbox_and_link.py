"""What happens to messages and watchers while the link comes and goes."""

import asyncio

import pytest

from broker.bus import Link, Properties, Will
from tests.contract.worlds import ALL, MQTT_5, NETWORKED, WEBSOCKETS, settled, until

everywhere = pytest.mark.parametrize("kind", ALL)


@pytest.mark.parametrize("kind", [*ALL, WEBSOCKETS])
def test_what_is_published_while_the_link_is_down_leaves_when_it_comes_up(kind, play):
    async def scenario(world):
        sender, receiver, got = world.bus(), world.bus(), []
        receiver.subscribe(["q/#"], got.append)
        await world.connect(receiver)
        for number in range(5):
            assert sender.publish("q/event", str(number).encode(), qos=1)
        assert sender.publish("q/lossy", b"never", qos=0)
        assert sender.stats.dropped_offline == 1
        await world.connect(sender)
        await sender.drained()
        await settled(receiver)
        assert [one.payload for one in got] == [b"0", b"1", b"2", b"3", b"4"]

    play(kind, scenario)


@everywhere
def test_a_fact_that_changed_while_offline_is_told_once(kind, play):
    async def scenario(world):
        sender, receiver, got = world.bus(), world.bus(), []
        receiver.subscribe(["f/+"], got.append)
        await world.connect(receiver)
        for number in range(5):
            sender.publish("f/state", str(number).encode(), qos=1, retain=True)
        assert sender.stats.compacted == 4
        await world.connect(sender)
        await sender.drained()
        await settled(receiver)
        assert [one.payload for one in got] == [b"4"]

    play(kind, scenario)


@everywhere
def test_a_full_outbox_says_so_and_keeps_what_it_has(kind, play):
    async def scenario(world):
        sender, receiver, got = world.bus(outbox_messages_max=3), world.bus(), []
        receiver.subscribe(["full/x"], got.append)
        await world.connect(receiver)
        answers = [sender.publish("full/x", str(number).encode(), qos=1) for number in range(5)]
        assert answers == [True, True, True, False, False]
        assert sender.stats.dropped_full == 2
        await world.connect(sender)
        await sender.drained()
        await settled(receiver)
        assert [one.payload for one in got] == [b"0", b"1", b"2"]

    play(kind, scenario)


@pytest.mark.parametrize("kind", [one for one in ALL if "311" not in one])
def test_a_message_that_expired_in_the_outbox_is_dropped_and_counted(kind, play):
    async def scenario(world):
        sender, receiver, got = world.bus(), world.bus(), []
        receiver.subscribe(["e/x"], got.append)
        await world.connect(receiver)
        sender.publish("e/x", b"stale", qos=1, properties=Properties(expiry_s=0))
        sender.publish("e/x", b"fresh", qos=1, properties=Properties(expiry_s=60))
        await world.connect(sender)
        await sender.drained()
        await settled(receiver)
        assert [one.payload for one in got] == [b"fresh"]
        assert sender.stats.dropped_expired == 1

    play(kind, scenario)


@everywhere
def test_done_is_called_once_the_broker_has_the_message(kind, play):
    async def scenario(world):
        bus, told = world.bus(), []
        bus.publish("d/early", b"", qos=1, done=lambda: told.append("queued"))
        assert told == []
        await world.connect(bus)
        bus.publish("d/now", b"", qos=1, done=lambda: told.append("sent"))
        bus.publish("d/lossy", b"", qos=0, done=lambda: told.append("handed over"))
        await until(lambda: len(told) == 3)
        assert sorted(told) == ["handed over", "queued", "sent"]

    play(kind, scenario)


@everywhere
def test_drained_waits_for_the_link_and_returns_at_once_when_there_is_nothing(kind, play):
    async def scenario(world):
        bus = world.bus()
        await bus.drained()
        bus.publish("d/x", b"", qos=1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(bus.drained(), 0.05)
        await world.connect(bus)
        await asyncio.wait_for(bus.drained(), 5)

    play(kind, scenario)


@everywhere
def test_a_watcher_hears_up_only_when_the_subscriptions_stand(kind, play):
    async def scenario(world):
        bus, other, got, links = world.bus(), world.bus(), [], []
        await world.connect(other)
        filters = [f"many/{number}" for number in range(30)]
        bus.subscribe(filters, lambda delivery: got.append(delivery.topic))

        def watch(link: Link) -> None:
            links.append(link)
            if link.up:
                for one in filters:
                    other.publish(one, b"", qos=1)

        stop = bus.watch_link(watch)
        assert links == []
        await world.connect(bus)
        await until(lambda: len(got) == 30)
        assert [link.up for link in links] == [True]
        late = []
        bus.watch_link(late.append)
        assert [link.up for link in late] == [True]
        stop()
        await world.fall(bus)
        assert [link.up for link in links] == [True]
        assert [link.up for link in late] == [True, False]
        assert not bus.link.up

    play(kind, scenario)


@everywhere
def test_what_a_watcher_publishes_does_not_overtake_what_waited(kind, play):
    async def scenario(world):
        bus, reader, got = world.bus(), world.bus(), []
        reader.subscribe(["p/x"], got.append)
        await world.connect(reader)
        bus.publish("p/x", b"older", qos=1)
        bus.watch_link(lambda link: link.up and bus.publish("p/x", b"newer", qos=1))
        await world.connect(bus)
        await bus.drained()
        await settled(reader)
        assert [one.payload for one in got] == [b"older", b"newer"]

    play(kind, scenario)


@pytest.mark.parametrize("kind", [*ALL, WEBSOCKETS])
def test_the_broker_speaks_the_will_of_a_process_that_fell(kind, play):
    async def scenario(world):
        bus = world.bus(will=Will("w/presence", b"gone", delay_s=0))
        reader, got = world.bus(), []
        reader.subscribe(["w/+"], got.append)
        await world.connect(reader)
        await world.connect(bus)
        await world.fall(bus)
        await until(lambda: got)
        assert got[0].payload == b"gone"
        late, facts = world.bus(), []
        late.subscribe(["w/+"], facts.append)
        await world.connect(late)
        await until(lambda: facts)
        assert facts[0].retained

    play(kind, scenario)


@pytest.mark.parametrize("kind", [*ALL, WEBSOCKETS])
def test_who_says_goodbye_leaves_no_will(kind, play):
    async def scenario(world):
        bus = world.bus(will=Will("w/presence", b"gone", delay_s=0))
        reader, got = world.bus(), []
        reader.subscribe(["w/+"], got.append)
        await world.connect(reader)
        await world.connect(bus)
        await world.leave(bus)
        await asyncio.sleep(0.1)
        await settled(reader)
        assert got == []
        assert not bus.link.up

    play(kind, scenario)


@pytest.mark.parametrize("kind", [*NETWORKED, WEBSOCKETS])
def test_a_kept_session_delivers_what_came_while_we_were_away(kind, play):
    async def scenario(world):
        kept = {"clean_start": False, "session_expiry_s": 60, "client_id": f"kept-{world.root[-8:]}"[:23]}
        kept["client_id"] = kept["client_id"].replace("/", "-")
        bus, sender, got, links = world.bus(**kept), world.bus(), [], []
        bus.subscribe(["s/x"], got.append)
        bus.watch_link(links.append)
        await world.connect(sender)
        await world.connect(bus)
        await world.fall(bus)
        for number in range(5):
            sender.publish("s/x", str(number).encode(), qos=1)
        await sender.drained()
        await world.connect(bus)
        await until(lambda: len(got) >= 5)
        await settled(bus)
        assert [one.payload for one in got] == [b"0", b"1", b"2", b"3", b"4"]
        assert [(link.up, link.resumed) for link in links] == [(True, False), (False, False), (True, True)]

    play(kind, scenario)


@pytest.mark.parametrize("kind", NETWORKED)
def test_a_kept_session_forgets_a_filter_that_was_closed_offline(kind, play):
    async def scenario(world):
        bus = world.bus(clean_start=False, session_expiry_s=60)
        sender, got = world.bus(), []
        subscription = bus.subscribe(["s/old", "s/new"], got.append)
        await world.connect(bus)
        await world.fall(bus)
        subscription.close()
        bus.subscribe(["s/new"], got.append)
        await world.connect(bus)
        await world.connect(sender)
        await settled(bus)
        sender.publish("s/old", b"old", qos=1)
        sender.publish("s/new", b"new", qos=1)
        await sender.drained()
        await settled(bus)
        assert [one.payload for one in got] == [b"new"]
        assert bus.stats.unroutable == 0

    play(kind, scenario)


@pytest.mark.parametrize("kind", MQTT_5)
def test_an_unacknowledged_message_is_repeated_after_the_session_resumed(kind, play):
    async def scenario(world):
        bus, sender, got = world.bus(clean_start=False, session_expiry_s=60), world.bus(), []
        never = asyncio.get_running_loop().create_future()

        def handle(delivery):
            got.append(delivery.payload)
            return never if len(got) == 1 else None

        bus.subscribe(["r/x"], handle)
        await world.connect(bus)
        await world.connect(sender)
        sender.publish("r/x", b"crash before the answer", qos=1)
        await until(lambda: got)
        await world.fall(bus)
        never.set_result(None)  # too late: this must not acknowledge anything
        await world.connect(bus)
        await until(lambda: len(got) == 2)
        assert got == [b"crash before the answer"] * 2

    play(kind, scenario)
