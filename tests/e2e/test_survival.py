"""Real processes, killed without warning: the fleet comes back by itself, and says what happened.

Each test starts its own broker, cloud and devices; nothing is shared, so each can be run alone.
"""

import asyncio
import signal
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cloud.client import connected
from cloud.local.processes import LocalFleet
from edge.agent.local import LocalInfer, ask_locally
from shared.errors import RequestFailed, ShoalError, Unavailable
from shared.messages import CommandVerb, ReplyStatus
from shared.tensors import pack_inputs, unpack_inputs
from tests.e2e.fleets import (
    FAST,
    deploy_digits,
    digits,
    offline,
    operated,
    operator,
    ready,
    right_answer,
    serving,
    until,
)

pytestmark = pytest.mark.timeout(150)


@asynccontextmanager
async def fleet_of(folder: Path, *nodes: str):
    local = LocalFleet(folder, {node: FAST for node in nodes})
    async with operated(local) as fleet:
        yield local, fleet


def test_a_killed_device_comes_back_with_its_model_and_a_new_epoch(tmp_path):
    async def story():
        async with fleet_of(tmp_path, "a", "b") as (local, fleet):
            await deploy_digits(fleet, "a", "b")
            before = (await fleet.node("a")).epoch
            local.devices["a"].signal(signal.SIGKILL)
            await local.devices["a"].wait()
            assert await right_answer(fleet), "the other one answers meanwhile"

            await until("the cloud notices", lambda: offline(fleet, "a"))
            with pytest.raises(ShoalError, match="no-node"):
                await right_answer(fleet, node="a")
            await local.devices["a"].start()
            await until("it serves again", lambda: serving(fleet, "a"))
            await until("its model is ready from its own disk", lambda: ready(fleet, "digits", "a"))
            assert (await fleet.node("a")).epoch > before
            assert await right_answer(fleet, node="a")

    asyncio.run(story())


def test_a_killed_cloud_comes_back_knowing_models_rules_and_nodes(tmp_path):
    async def story():
        async with fleet_of(tmp_path, "a", "b") as (local, fleet):
            await deploy_digits(fleet, "a", "b")
            term = (await fleet.overview()).term
            local.cloud.signal(signal.SIGKILL)
            await local.cloud.wait()
            with pytest.raises(RequestFailed):
                await fleet.overview()
            await local.cloud.start()
            await until("the nodes are known again", lambda: serving(fleet, "a", "b"))
            await until("inference works", lambda: right_answer(fleet))
            assert (await fleet.overview()).term > term
            assert [model.name for model in await fleet.models()] == ["digits"]
            (rule,) = await fleet.deployments()
            assert (rule.model, rule.target) == ("digits", "all")
            assert all(process.running for process in local.devices.values())

    asyncio.run(story())


def test_a_killed_broker_comes_back_empty_and_the_fleet_fills_it_again(tmp_path):
    async def story():
        async with fleet_of(tmp_path, "a", "b") as (local, fleet):
            await deploy_digits(fleet, "a")
            local.broker.signal(signal.SIGKILL)
            await local.broker.wait()
            await asyncio.sleep(1.0)
            await local.broker.start()
            await local.listening(local.broker, local.port)
            await until("everybody is back", lambda: serving(fleet, "a", "b"))
            await until("inference works", lambda: right_answer(fleet))
            # What the broker had retained is there again: a device without its disk finds its orders and
            # the artifact's manifest.
            await local.devices["b"].stop()
            for blob in (tmp_path / "b" / "blobs").iterdir():
                blob.unlink()
            await local.devices["b"].start()
            await until("b serves", lambda: serving(fleet, "b"))
            await until("b has fetched the model again", lambda: ready(fleet, "digits", "b"))
            assert await right_answer(fleet, node="b")

    asyncio.run(story())


def test_a_device_boots_without_any_network_answers_locally_and_joins_later(tmp_path):
    async def story():
        images, classes = digits(5)
        local = LocalFleet(tmp_path, {"a": FAST})
        async with operated(local) as fleet:
            await deploy_digits(fleet, "a")
        question = LocalInfer(model="digits", inputs=pack_inputs([images]))
        with pytest.raises(Unavailable, match="no agent answers"):
            await ask_locally(tmp_path / "a", question)
        try:
            await local.devices["a"].start()  # no broker, no cloud

            async def answers() -> bool:
                reply = await ask_locally(tmp_path / "a", question)
                if reply.status is not ReplyStatus.OK:
                    return False
                (scores,) = unpack_inputs(reply.body)
                return bool((scores.argmax(axis=1) == classes).all())

            await until("it answers by itself", answers)
            await local.broker.start()
            await local.listening(local.broker, local.port)
            await local.cloud.start()
            async with connected(operator(local), "operator", budget_s=2.0) as fleet:
                await until("it joins", lambda: serving(fleet, "a"))
                await until("it answers the fleet", lambda: right_answer(fleet, node="a"))
        finally:
            await local.stop()

    asyncio.run(story())


def test_a_device_that_is_told_to_leave_says_goodbye_and_ends_well(tmp_path):
    async def story():
        async with fleet_of(tmp_path, "a", "b") as (local, fleet):
            local.devices["a"].signal(signal.SIGTERM)
            assert await asyncio.wait_for(local.devices["a"].wait(), 10) == 0

            took = await until("the cloud knows at once", lambda: offline(fleet, "a"))
            assert took < 3.0, "it did not have to wait for silence"
            assert "SIGTERM" in (await fleet.node("a")).why
            await fleet.command("b", CommandVerb.DRAIN)
            assert await asyncio.wait_for(local.devices["b"].wait(), 10) == 0
            await until("the drained one is gone too", lambda: offline(fleet, "b"))

    asyncio.run(story())
