"""Real processes, killed without warning: the fleet comes back by itself, and says what happened.

Each test starts its own broker, cloud and devices; nothing is shared, so each can be run alone.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from cloud.cli.options import read_config
from cloud.client import Fleet, connected
from cloud.local.processes import LocalFleet
from edge.agent.local import LocalInfer, ask_locally
from shared.errors import RequestFailed, ShoalError, Unavailable
from shared.messages import CommandVerb, ReplyStatus
from shared.tensors import pack_inputs, unpack_inputs

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
FAST = {"heartbeat_s": 0.5, "telemetry_s": 1.0, "benchmark_s": 0.05}
PATIENCE_S = 40.0

pytestmark = pytest.mark.timeout(150)


def digits() -> tuple[np.ndarray, np.ndarray]:
    with np.load(EXAMPLE / "heldout.npz", allow_pickle=False) as file:
        return file["images"].astype(np.float32) / 16, file["predictions"]


async def until(what: str, holds: Callable[[], Awaitable[bool]]) -> float:
    """Wait until something holds; how long it took. A question that is refused meanwhile is asked again."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE_S:
        try:
            if await holds():
                return time.monotonic() - began
        except (RequestFailed, Unavailable):
            pass
        await asyncio.sleep(0.1)
    raise AssertionError(f"not within {PATIENCE_S:g} s: {what}")


@asynccontextmanager
async def fleet_of(folder: Path, *nodes: str):
    async with LocalFleet(folder, {node: FAST for node in nodes}) as local, connected(
        read_config(local.workspace.config("operator")), "operator", budget_s=2.0
    ) as fleet:
        await until("all devices serve", lambda: serving(fleet, *nodes))
        yield local, fleet


async def serving(fleet: Fleet, *nodes: str) -> bool:
    states = {node.node: node.status for node in await fleet.nodes()}
    return all(states.get(node) in ("idle", "busy") for node in nodes)


async def ready(fleet: Fleet, *nodes: str) -> bool:
    for node in nodes:
        model = (await fleet.node(node)).models.get("digits")
        if model is None or model.state != "ready":
            return False
    return True


async def deploy(fleet: Fleet, *nodes: str) -> None:
    await fleet.upload((EXAMPLE / "digits.shoal").read_bytes())
    await fleet.deploy("digits", "all")
    await until("the model is ready everywhere", lambda: ready(fleet, *nodes))


async def right_answer(fleet: Fleet, node: str = "") -> bool:
    images, classes = digits()
    answer = await fleet.infer("digits", images[:3], node=node, budget_s=2.0)
    return bool((answer.outputs[0].argmax(axis=1) == classes[:3]).all())


def test_a_killed_device_comes_back_with_its_model_and_a_new_epoch(tmp_path):
    async def story():
        async with fleet_of(tmp_path, "a", "b") as (local, fleet):
            await deploy(fleet, "a", "b")
            before = (await fleet.node("a")).epoch
            local.devices["a"].signal(signal.SIGKILL)
            await local.devices["a"].wait()
            assert await right_answer(fleet), "the other one answers meanwhile"

            async def offline() -> bool:
                return (await fleet.node("a")).status == "offline"

            await until("the cloud notices", offline)
            with pytest.raises(ShoalError, match="no-node"):
                await right_answer(fleet, node="a")
            await local.devices["a"].start()
            await until("it serves again", lambda: serving(fleet, "a"))
            await until("its model is ready from its own disk", lambda: ready(fleet, "a"))
            assert (await fleet.node("a")).epoch > before
            assert await right_answer(fleet, node="a")

    asyncio.run(story())


def test_a_killed_cloud_comes_back_knowing_models_rules_and_nodes(tmp_path):
    async def story():
        async with fleet_of(tmp_path, "a", "b") as (local, fleet):
            await deploy(fleet, "a", "b")
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
            await deploy(fleet, "a")
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
            await until("b has fetched the model again", lambda: ready(fleet, "b"))
            assert await right_answer(fleet, node="b")

    asyncio.run(story())


def test_a_device_boots_without_any_network_answers_locally_and_joins_later(tmp_path):
    async def story():
        images, classes = digits()
        local = LocalFleet(tmp_path, {"a": FAST})
        async with local:
            config = read_config(local.workspace.config("operator"))
            async with connected(config, "operator") as fleet:
                await until("a serves", lambda: serving(fleet, "a"))
                await deploy(fleet, "a")
        question = LocalInfer(model="digits", inputs=pack_inputs([images[:5]]))
        with pytest.raises(Unavailable, match="no agent answers"):
            await ask_locally(tmp_path / "a", question)
        try:
            await local.devices["a"].start()  # no broker, no cloud

            async def answers() -> bool:
                reply = await ask_locally(tmp_path / "a", question)
                if reply.status is not ReplyStatus.OK:
                    return False
                (scores,) = unpack_inputs(reply.body)
                return bool((scores.argmax(axis=1) == classes[:5]).all())

            await until("it answers by itself", answers)
            await local.broker.start()
            await local.listening(local.broker, local.port)
            await local.cloud.start()
            async with connected(config, "operator", budget_s=2.0) as fleet:
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

            async def gone(node: str) -> bool:
                return (await fleet.node(node)).status == "offline"

            took = await until("the cloud knows at once", lambda: gone("a"))
            assert took < 3.0, "it did not have to wait for silence"
            assert "SIGTERM" in (await fleet.node("a")).why
            await fleet.command("b", CommandVerb.DRAIN)
            assert await asyncio.wait_for(local.devices["b"].wait(), 10) == 0
            await until("the drained one is gone too", lambda: gone("b"))

    asyncio.run(story())
