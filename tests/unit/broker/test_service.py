"""The one loop, on the memory bus: what comes in, what goes out, and what stops it."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from broker.bus import NO_PROPERTIES
from broker.memory import MemoryBroker, MemoryBus
from broker.service import Service, on, on_demand, properties_of
from shared.core import Clear, Failed, Ignore, LinkDown, LinkUp, Publish, Tick, Work
from shared.errors import LocalError
from shared.messages import CloudPresence, Command, Presence, Reply
from shared.topics import BIRTH, CLOUD, COMMAND, PRESENCE, REPLY
from shared.wire import encode


@dataclass(frozen=True, slots=True)
class Seen:
    node: str
    online: bool


@dataclass(frozen=True, slots=True)
class Cook(Work):
    dish: str


@dataclass
class Script:
    """A core that remembers its events and answers as the test says, by type of event."""

    answers: dict = field(default_factory=dict)
    events: list = field(default_factory=list)

    def step(self, event, now):
        self.events.append(event)
        answer = self.answers.get(type(event))
        return answer(event) if answer is not None else []

    def check(self): ...


ROUTE = on(PRESENCE, lambda ids, message: Seen(ids["node"], message.online))


@asynccontextmanager
async def serving(core, *, bus=None, routes=(ROUTE,), **options):
    """A running service on a memory bus; hands out the service and a bus beside it."""
    broker = MemoryBroker()
    own, other = bus or MemoryBus(broker), MemoryBus(broker)
    if bus is None:
        own.connect()
    other.connect()
    service = Service("test", core, own, routes, tick_s=3600, **options)
    running = asyncio.create_task(service.run())
    await asyncio.sleep(0)
    try:
        yield service, other, running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def turn(times=20):
    for _ in range(times):
        await asyncio.sleep(0)


def say(bus, online=True, node="n1"):
    bus.publish(f"node/{node}/up/presence", encode(Presence(epoch=1, online=online)), qos=1)


def test_a_delivery_becomes_an_event_of_the_core_with_the_ids_of_its_topic():
    async def scenario():
        core = Script()
        async with serving(core) as (_, other, _):
            say(other, node="n7")
            await turn()
        assert core.events == [LinkUp(False), Tick(), Seen("n7", True)]

    asyncio.run(scenario())


def test_an_unreadable_message_is_counted_and_the_next_one_is_served(caplog):
    async def scenario():
        core = Script()
        async with serving(core) as (service, other, _):
            other.publish("node/n1/up/presence", b"\xc1 not msgpack", qos=1)
            other.publish("node/n1/up/presence", b"x" * 100_000, qos=1)
            say(other)
            await turn()
        assert core.events[-1] == Seen("n1", True)
        assert service.counts["unreadable"] == 2
        assert service.counts["received"] == 3

    asyncio.run(scenario())
    assert "unreadable message on node/n1/up/presence" in caplog.text


def test_a_cleared_fact_is_no_message():
    async def scenario():
        core = Script()
        async with serving(core) as (service, other, _):
            other.publish("node/n1/up/presence", b"", qos=1, retain=True)
            await turn()
        assert Seen not in map(type, core.events)
        assert service.counts["unroutable"] == 1

    asyncio.run(scenario())


def test_effects_are_performed_in_order_and_ignored_events_are_counted():
    async def scenario():
        done = []

        class Note(Ignore, frozen=True): ...

        core = Script(
            {
                Seen: lambda event: [
                    Publish(CLOUD.at(), CloudPresence(online=True, term=1)),
                    Clear(CLOUD.at()),
                    Ignore("seen enough"),
                    Note("mine"),
                ]
            }
        )
        async with serving(core, do={Note: lambda effect: done.append(effect.reason)}) as (service, other, _):
            got = []
            other.subscribe(["all/cloud"], got.append)
            say(other)
            await turn()
        assert [bool(one.payload) for one in got] == [True, False]
        assert service.counts["ignored"] == 1
        assert done == ["mine"]

    asyncio.run(scenario())


def test_a_bug_stops_the_service_with_its_story(caplog):
    async def scenario():
        def bug(event):
            raise ZeroDivisionError("the bug")

        core = Script({Seen: lambda event: [] if event.online else bug(event)})
        async with serving(core) as (_, other, running):
            say(other, online=True, node="innocent")
            say(other, online=False, node="culprit")
            await turn()
            with pytest.raises(ZeroDivisionError):
                await asyncio.wait_for(running, 1)

    asyncio.run(scenario())
    assert "test stopped: ZeroDivisionError" in caplog.text
    assert "innocent" in caplog.text


def test_an_effect_that_nobody_performs_is_a_bug():
    async def scenario():
        @dataclass(frozen=True)
        class Strange(Work): ...

        core = Script({Seen: lambda event: [Strange()]})
        async with serving(core) as (_, other, running):
            say(other)
            await turn()
            with pytest.raises(LocalError, match="nothing performs Strange"):
                await asyncio.wait_for(running, 1)

    asyncio.run(scenario())


def test_a_message_over_the_limit_of_its_topic_is_our_own_bug():
    async def scenario():
        effect = Publish(PRESENCE.at(node="n1"), Presence(epoch=1, online=True, reason="x" * 10_000))
        core = Script({Seen: lambda event: [effect]})
        async with serving(core) as (_, other, running):
            say(other)
            await turn()
            with pytest.raises(LocalError, match="the limit is 4096"):
                await asyncio.wait_for(running, 1)

    asyncio.run(scenario())


def test_the_answer_of_work_comes_back_as_an_event_and_so_does_its_failure():
    async def cook(work):
        await asyncio.sleep(0)
        if work.dish == "soufflé":
            raise RuntimeError("fell")
        return f"{work.dish} is ready"

    async def scenario():
        core = Script({Seen: lambda event: [Cook("soup"), Cook("soufflé")]})
        async with serving(core, work={Cook: cook}) as (_, other, _):
            say(other)
            await turn()
        assert core.events[-2:] == ["soup is ready", Failed(Cook("soufflé"), "RuntimeError: fell")]

    asyncio.run(scenario())


def test_work_may_answer_at_once_or_not_at_all():
    async def scenario():
        core = Script({Seen: lambda event: [Cook("bread"), Cook("nothing")]})
        perform = {Cook: lambda work: "bread is there" if work.dish == "bread" else None}
        async with serving(core, work=perform) as (_, other, _):
            say(other)
            await turn()
        assert core.events[-1] == "bread is there"

    asyncio.run(scenario())


def test_with_all_hands_full_the_senders_are_held_back():
    async def scenario():
        ovens = []

        async def cook(work):
            oven = asyncio.get_running_loop().create_future()
            ovens.append(oven)
            return await oven

        broker = MemoryBroker()
        bus = MemoryBus(broker, receive_max=1)
        bus.connect()
        sender = MemoryBus(broker)
        sender.connect()
        core = Script({Seen: lambda event: [Cook(event.node)]})
        async with serving(core, bus=bus, work={Cook: cook}, work_max=2):
            for number in range(5):
                say(sender, node=f"n{number}")
            await turn()
            # The second one filled our hands: it is held, and the receive maximum of 1 stops the rest.
            assert len(ovens) == 2
            ovens[0].set_result(None)
            await turn()
            assert len(ovens) == 3
            for _ in range(3):
                ovens[-1].set_result(None)
                await turn()
            assert len(ovens) == 5

    asyncio.run(scenario())


def test_the_core_hears_of_the_link():
    async def scenario():
        broker, core = MemoryBroker(), Script()
        bus = MemoryBus(broker)
        async with serving(core, bus=bus):
            bus.connect()
            bus.disconnect()
            bus.connect()
        links = [event for event in core.events if isinstance(event, LinkUp | LinkDown)]
        assert links == [LinkUp(False), LinkDown(), LinkUp(False)]

    asyncio.run(scenario())


def test_a_route_on_demand_is_heard_only_while_it_is_asked_for():
    async def scenario():
        core = Script()
        route = on_demand(PRESENCE, lambda ids, message: Seen(ids["node"], message.online))
        async with serving(core, routes=[route]) as (service, other, _):
            say(other, node="early")
            await turn()
            listening = service.listen(PRESENCE.filter_for(node="n1"))
            say(other, node="n1")
            say(other, node="n2")
            await turn()
            listening.close()
            say(other, node="n1")
            await turn()
        assert [event for event in core.events if isinstance(event, Seen)] == [Seen("n1", True)]

    asyncio.run(scenario())


def test_a_stopped_service_leaves_nothing_behind():
    async def scenario():
        cancelled = []

        async def cook(work):
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                cancelled.append(work.dish)
                raise

        broker = MemoryBroker()
        bus = MemoryBus(broker)
        bus.connect()
        core = Script({Tick: lambda event: [Cook("stew")]})
        async with serving(core, bus=bus, work={Cook: cook}):
            await turn()
        assert cancelled == ["stew"]
        assert bus.subscriptions == []

    asyncio.run(scenario())


def test_what_a_broker_should_know_of_a_message():
    command = Command(correlation="c7", budget_s=1.2, caller="cloud")
    properties = properties_of(COMMAND, command)
    assert (properties.expiry_s, properties.correlation) == (2, b"c7")
    assert properties_of(REPLY, Reply(correlation="c7")).expiry_s == 60
    assert properties_of(BIRTH, Presence(epoch=1, online=True)) is NO_PROPERTIES
