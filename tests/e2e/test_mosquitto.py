"""A whole fleet on a real Mosquitto, with the configuration, access rules and passwords of production.

Mosquitto makes the user name the client id: whoever logs in twice throws itself out. So a fleet that comes
up at all shows that the cloud, its API, the operator and each device have a name of their own.
"""

import asyncio
import signal

import httpx
import pytest

from cloud.local.processes import LocalFleet
from tests.e2e.fleets import (
    FAST,
    deploy_digits,
    digits,
    offline,
    on_mosquitto,
    operated,
    ready,
    right_answer,
    serving,
    until,
)

pytestmark = [pytest.mark.timeout(150), pytest.mark.mosquitto]

# So slow a heart that its silence shows after 12 s; the will, delayed by 5 s, comes first.
SLOW = {**FAST, "heartbeat_s": 2.0}


async def answer_over_http(local: LocalFleet) -> bool:
    """The same question to the REST API, which is a user of its own on the broker."""
    images, classes = digits()
    question = {"inputs": [{"data": images.tolist(), "dtype": "float32"}]}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{local.http_port}", timeout=5) as http:
        try:
            response = await http.post("/models/digits/infer", json=question)
        except httpx.TransportError:
            return False
    if response.status_code != 200:
        return False
    (scores,) = response.json()["outputs"]
    return [row.index(max(row)) for row in scores["data"]] == classes.tolist()


def complaints(local: LocalFleet) -> list[str]:
    """A message that the access rules refused, a name that was used twice."""
    words = ("the broker refused", "already connected")
    lines = [line for process in local.processes for line in process.log.read_text().splitlines()]
    return [line for line in lines if any(word in line for word in words)]


def test_a_fleet_works_and_the_will_of_a_killed_device_gives_it_away(tmp_path):
    async def story():
        local = on_mosquitto(LocalFleet(tmp_path, {"a": FAST, "b": SLOW}))
        async with operated(local) as fleet:
            await deploy_digits(fleet, "a", "b")
            assert await right_answer(fleet, node="a")
            assert await right_answer(fleet, node="b")
            await until("the API answers", lambda: answer_over_http(local))
            before = (await fleet.node("b")).epoch
            local.devices["b"].signal(signal.SIGKILL)
            await local.devices["b"].wait()
            await until("the cloud notices", lambda: offline(fleet, "b"))
            assert "connection lost" in (await fleet.node("b")).why, "said by its will, not by its silence"
            assert await right_answer(fleet), "the other one answers meanwhile"
            await local.devices["b"].start()
            await until("it serves again", lambda: serving(fleet, "b"))
            await until("its model is ready from its own disk", lambda: ready(fleet, "digits", "b"))
            assert (await fleet.node("b")).epoch > before
            assert await right_answer(fleet, node="b")
            assert complaints(local) == []

    asyncio.run(story())


def test_a_killed_mosquitto_comes_back_and_the_fleet_with_it(tmp_path):
    async def story():
        local = on_mosquitto(LocalFleet(tmp_path, {"a": FAST, "b": FAST}))
        async with operated(local) as fleet:
            await deploy_digits(fleet, "a", "b")
            boots = {node.node: node.epoch for node in await fleet.nodes()}
            local.broker.signal(signal.SIGKILL)
            await local.broker.wait()
            await asyncio.sleep(1.0)
            await local.broker.start()
            await local.listening(local.broker, local.port)
            await until("everybody is back", lambda: serving(fleet, "a", "b"))
            for node in ("a", "b"):
                await until(f"{node} answers", lambda node=node: right_answer(fleet, node=node))
            await until("the API answers", lambda: answer_over_http(local))
            assert {node.node: node.epoch for node in await fleet.nodes()} == boots, "nobody had to restart"
            assert all(process.running for process in local.processes)
            assert complaints(local) == []

    asyncio.run(story())
