"""The balancer on a bus: an app asks, a device answers the app directly, the balancer overhears it."""

import asyncio

from broker.bus import Delivery
from broker.memory import MemoryBroker, MemoryBus
from cloud.balancer.core import Balancer
from cloud.balancer.request import Phase
from cloud.balancer.service import balancer_service
from shared.config import BalancerSection
from shared.messages import Reply, ReplyStatus
from shared.topics import APP_INFER, APP_REPLY, INFER, REPLY
from shared.wire import decode, encode, packed, unpacked
from tests.unit.cloud.balancer.nodes import ask, fact


async def until(what: object) -> None:
    async with asyncio.timeout(5):
        while not what():  # type: ignore[operator]
            await asyncio.sleep(0.001)


def test_a_request_goes_to_a_device_and_its_answer_straight_to_the_app() -> None:
    async def story() -> None:
        broker = MemoryBroker()
        cloud, device, app = MemoryBus(broker), MemoryBus(broker), MemoryBus(broker)
        answers: list[Reply] = []

        def on_infer(delivery: Delivery) -> None:
            command = decode(INFER, delivery.payload)
            total = packed(sum(unpacked(command.inputs, list[float])))
            answer = Reply(correlation=command.correlation, body=total, node="pi", service_s=0.001)
            device.publish(REPLY.at(node="pi", caller=command.caller).name, encode(answer), qos=1)

        device.subscribe([INFER.filter_for(node="pi")], on_infer)
        app.subscribe(
            [REPLY.filter_for(caller="app")], lambda got: answers.append(decode(REPLY, got.payload))
        )
        app.subscribe(
            [APP_REPLY.filter_for(app="app")], lambda got: answers.append(decode(REPLY, got.payload))
        )
        core = Balancer(BalancerSection())
        service = balancer_service(core, cloud)
        running = asyncio.create_task(service.run())
        await asyncio.sleep(0)
        for bus in (cloud, device, app):
            bus.connect()
        service.feed(fact("pi"))
        app.publish(APP_INFER.at(app="app").name, encode(ask("c1").ask), qos=1)
        app.publish(APP_INFER.at(app="app").name, encode(ask("c2", model="nothing").ask), qos=1)
        await until(lambda: len(answers) == 2 and core.waiting == 0)
        by_correlation = {answer.correlation: answer for answer in answers}
        assert unpacked(by_correlation["c1"].body, float) == 3.0
        assert by_correlation["c2"].status is ReplyStatus.REFUSED
        assert by_correlation["c2"].code == "no-such-model"
        assert core.outcome("app", "c1") is Phase.ANSWERED
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert running.cancelled()

    asyncio.run(story())
