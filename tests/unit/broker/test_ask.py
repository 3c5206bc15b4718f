import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from broker import ask
from broker.ask import Asker
from broker.memory import MemoryBroker, MemoryBus
from shared.errors import Refused, TimedOut
from shared.messages import Command, Query, QueryKind, Reply, ReplyStatus
from shared.topics import APP_QUERY, APP_REPLY, COMMAND, REPLY
from shared.wire import decode, encode

TO = APP_QUERY.at(app="ops")


def query(correlation, budget_s):
    return Query(correlation=correlation, budget_s=budget_s, kind=QueryKind.NODES)


@asynccontextmanager
async def asking(answer=None, *, connected=True, **options):
    """An asker, the requests that arrived, and the bus of who answers them with ``answer(correlation)``."""
    broker, heard = MemoryBroker(), []
    client, server = MemoryBus(broker, **options), MemoryBus(broker)
    server.connect()
    if connected:
        client.connect()

    def serve(delivery):
        request = decode(APP_QUERY, delivery.payload)
        heard.append(request.correlation)
        for reply in answer(request.correlation) if answer else ():
            server.publish("app/ops/reply", encode(reply), qos=1)

    server.subscribe([APP_QUERY.filter], serve)
    asker = Asker(client, "ops", "s1-")
    try:
        yield asker, heard, server
    finally:
        asker.close()


def test_a_request_gets_its_reply_and_not_another_ones():
    async def scenario():
        def answer(correlation):
            return [Reply(correlation="someone-else"), Reply(correlation=correlation, detail=correlation)]

        async with asking(answer) as (asker, heard, _):
            replies = await asyncio.gather(*(asker.ask(TO, query, 1.0) for _ in range(20)))
            assert [reply.detail for reply in replies] == heard
            assert len(set(heard)) == 20
            assert asker.late == 20

    asyncio.run(scenario())


def test_a_repeatable_request_is_sent_again_with_acknowledgement_after_silence(monkeypatch):
    monkeypatch.setattr(ask, "REPEAT_S", 0.02)

    async def scenario():
        heard = []

        def answer(correlation):  # the first one is lost on its way
            heard.append(correlation)
            return [Reply(correlation=correlation)] if len(heard) > 1 else []

        async with asking(answer) as (asker, _, _):
            sent = []
            publish = asker._bus.publish
            monkeypatch.setattr(
                asker._bus, "publish", lambda *a, **k: (sent.append(k["qos"]), publish(*a, **k))[1]
            )
            budgets = []

            def build(correlation, budget_s):
                budgets.append(budget_s)
                return query(correlation, budget_s)

            await asker.ask(TO, build, 1.0, repeatable=True)
            assert sent == [0, 1]
            assert heard[0] == heard[1]
            assert budgets[0] == 1.0
            assert 0 < budgets[1] <= 0.98

    asyncio.run(scenario())


def test_a_request_that_can_t_be_built_again_is_its_caller_s_loss_and_nobody_else_s(monkeypatch):
    monkeypatch.setattr(ask, "REPEAT_S", 0.02)
    monkeypatch.setattr(ask, "GRACE_S", 0.0)

    async def scenario():
        async with asking() as (asker, _, _):
            built = []

            def once(correlation, budget_s):
                if built:
                    raise ValueError("not twice")
                built.append(correlation)
                return query(correlation, budget_s)

            with pytest.raises(ValueError, match="not twice"):
                await asker.ask(TO, once, 5.0, repeatable=True)
            with pytest.raises(TimedOut, match="no reply"):
                await asker.ask(TO, query, 0.05)

    asyncio.run(scenario())


def test_a_loop_that_stood_still_beyond_the_deadline_repeats_nothing(monkeypatch):
    monkeypatch.setattr(ask, "REPEAT_S", 0.02)
    monkeypatch.setattr(ask, "GRACE_S", 0.2)

    async def scenario():
        async with asking() as (asker, heard, _):
            asyncio.get_running_loop().call_soon(time.sleep, 0.15)
            with pytest.raises(TimedOut, match="no reply"):
                await asker.ask(TO, query, 0.1, repeatable=True)
            assert len(heard) == 1

    asyncio.run(scenario())


def test_a_repeatable_request_waits_for_the_link_with_acknowledgement():
    async def scenario():
        async with asking(lambda one: [Reply(correlation=one)], connected=False) as (asker, heard, _):
            waiting = asyncio.ensure_future(asker.ask(TO, query, 5.0, repeatable=True))
            await asyncio.sleep(0)
            asker._bus.connect()
            await waiting
            assert len(heard) == 1

    asyncio.run(scenario())


def test_a_device_answers_on_its_own_subtree():
    async def scenario():
        async with asking() as (asker, _, server):

            def obey(delivery):
                command = decode(COMMAND, delivery.payload)
                to = REPLY.at(node="n1", caller=command.caller).name
                server.publish(to, encode(Reply(correlation=command.correlation, node="n1")), qos=1)

            server.subscribe([COMMAND.filter], obey)
            reply = await asker.ask(
                COMMAND.at(node="n1", verb="ping"),
                lambda correlation, budget_s: Command(
                    correlation=correlation, budget_s=budget_s, caller="ops"
                ),
                1.0,
            )
            assert reply.node == "n1"

    asyncio.run(scenario())


def test_a_refusal_is_definite():
    async def scenario():
        def answer(correlation):
            return [Reply(correlation=correlation, status=ReplyStatus.REFUSED, code="full", detail="no slot")]

        async with asking(answer) as (asker, _, _):
            with pytest.raises(Refused, match="full: no slot") as caught:
                await asker.ask(TO, query, 1.0)
            assert caught.value.definite

    asyncio.run(scenario())


def test_a_failure_is_indefinite():
    async def scenario():
        def answer(correlation):
            return [
                Reply(correlation=correlation, status=ReplyStatus.FAILED, code="crash", detail="half way")
            ]

        async with asking(answer) as (asker, _, _):
            with pytest.raises(TimedOut, match="crash: half way") as caught:
                await asker.ask(TO, query, 1.0)
            assert not caught.value.definite

    asyncio.run(scenario())


def test_silence_ends_at_the_deadline_and_is_indefinite():
    async def scenario():
        async with asking() as (asker, heard, server):
            with pytest.raises(TimedOut, match=r"no reply on app/ops/request/query within 0\.02 s") as caught:
                await asker.ask(TO, query, 0.02)
            assert not caught.value.definite
            server.publish("app/ops/reply", encode(Reply(correlation=heard[0])), qos=1)
            await asyncio.sleep(0.01)
            assert asker.late == 1

    asyncio.run(scenario())


def test_the_second_reply_to_one_request_is_counted():
    async def scenario():
        async with asking(lambda correlation: [Reply(correlation=correlation)] * 2) as (asker, _, _):
            await asker.ask(TO, query, 1.0)
            await asyncio.sleep(0.01)
            assert asker.late == 1

    asyncio.run(scenario())


def test_nonsense_on_the_reply_topic_is_counted_and_the_answer_still_arrives():
    async def scenario():
        async with asking(lambda correlation: [Reply(correlation=correlation)]) as (asker, _, server):
            server.publish(APP_REPLY.at(app="ops").name, b"\xc1", qos=1)
            await asker.ask(TO, query, 1.0)
            assert asker.late == 1

    asyncio.run(scenario())


def test_a_full_outbox_is_definite_because_nothing_left():
    async def scenario():
        async with asking(connected=False, outbox_max=0) as (asker, _, _):
            with pytest.raises(Refused, match="outbox-full"):
                await asker.ask(TO, query, 1.0)

    asyncio.run(scenario())


def test_a_request_that_is_too_large_never_leaves():
    async def scenario():
        async with asking() as (asker, heard, _):
            with pytest.raises(Refused, match="too-large"):
                await asker.ask(
                    TO,
                    lambda *given: Query(
                        correlation=given[0], budget_s=1, kind=QueryKind.WHY, key="x" * 9000
                    ),
                    1.0,
                )
            assert heard == []

    asyncio.run(scenario())


def test_too_many_waiting_requests_are_refused_at_once(monkeypatch):
    monkeypatch.setattr(ask, "WAITING_MAX", 2)

    async def scenario():
        async with asking() as (asker, _, _):
            waiting = [asyncio.ensure_future(asker.ask(TO, query, 5.0)) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(Refused, match="overloaded"):
                await asker.ask(TO, query, 5.0)
            asker.close()
            ended = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(one) for one in ended] == [TimedOut, TimedOut]

    asyncio.run(scenario())


def test_a_cancelled_request_is_forgotten():
    async def scenario():
        async with asking() as (asker, heard, server):
            waiting = asyncio.ensure_future(asker.ask(TO, query, 5.0))
            await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            server.publish("app/ops/reply", encode(Reply(correlation=heard[0])), qos=1)
            await asyncio.sleep(0.01)
            assert asker.late == 1

    asyncio.run(scenario())
