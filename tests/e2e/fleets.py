"""What the stories of whole fleets have in common: a fleet that serves, its model, and patience."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from broker.credentials import PASSWORDS, Credentials
from broker.mosquitto import Mosquitto, access_file, configuration
from broker.settings import read_config
from cloud.client import Fleet, connected
from cloud.local.processes import LocalFleet, LocalProcess
from shared.errors import RequestFailed, Unavailable
from tests.support.mosquitto import mosquitto_binary

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
FAST = {"heartbeat_s": 0.5, "telemetry_s": 1.0, "benchmark_s": 0.05}
PATIENCE_S = 40.0


def on_mosquitto(fleet: LocalFleet) -> LocalFleet:
    """The same fleet with Mosquitto in the broker's place, on the files that production gets.

    Whoever is enrolled by now has a password there. Only the port and the paths differ, and the user
    when we are root: Mosquitto would give up its rights and then not read its own files.
    """
    folder, credentials = fleet.workspace.folder / "mosquitto", fleet.workspace.credentials_dir
    (folder / "data").mkdir(parents=True)
    of = Mosquitto(
        passwords=str(credentials / PASSWORDS),
        access=str(folder / "acl"),
        data=str(folder / "data"),
        host="127.0.0.1",
        port=fleet.port,
    )
    user = "user root\n" if os.geteuid() == 0 else ""
    (folder / "mosquitto.conf").write_text(user + configuration(of))
    (folder / "acl").write_text(access_file(fleet.workspace.fleet, Credentials(credentials).roles))
    command = (mosquitto_binary(), "-c", str(folder / "mosquitto.conf"))
    fleet.broker = LocalProcess("broker", command, fleet.workspace.folder / "logs" / "mosquitto.log")
    return fleet


@asynccontextmanager
async def operated(local: LocalFleet) -> AsyncIterator[Fleet]:
    """Start everything; the operator's client once all devices serve."""
    async with local, connected(operator(local), "operator", budget_s=2.0) as fleet:
        await until("all devices serve", lambda: everybody_serves(local, fleet))
        yield fleet


async def everybody_serves(local: LocalFleet, fleet: Fleet) -> bool:
    """Fails at once, with the end of its log, when a process has ended: nobody would wait for it."""
    for process in local.processes:
        assert process.running, f"{process.name} has ended:\n{process.tail()}"
    return await serving(fleet, *local.devices)


def operator(local: LocalFleet):
    return read_config(local.workspace.config("operator"))


async def until(what: str, holds: Callable[[], Awaitable[bool]], patience_s: float = PATIENCE_S) -> float:
    """Wait until something holds; how long it took. A question that is refused meanwhile is asked again."""
    began = time.monotonic()
    while time.monotonic() - began < patience_s:
        try:
            if await holds():
                return time.monotonic() - began
        except (RequestFailed, Unavailable):
            pass
        await asyncio.sleep(0.1)
    raise AssertionError(f"not within {patience_s:g} s: {what}")


async def serving(fleet: Fleet, *nodes: str) -> bool:
    states = {node.node: node.status for node in await fleet.nodes()}
    return all(states.get(node) in ("idle", "busy") for node in nodes)


async def offline(fleet: Fleet, node: str) -> bool:
    return (await fleet.node(node)).status == "offline"


async def ready(fleet: Fleet, model: str, *nodes: str) -> bool:
    held = [(await fleet.node(node)).models.get(model) for node in nodes]
    return all(one is not None and one.state == "ready" for one in held)


async def deploy_digits(fleet: Fleet, *nodes: str) -> None:
    await fleet.upload((EXAMPLE / "digits.shoal").read_bytes())
    await fleet.deploy("digits", "all")
    await until("the model is ready everywhere", lambda: ready(fleet, "digits", *nodes))


def digits(count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 64) and the classes that the model sees in them."""
    with np.load(EXAMPLE / "heldout.npz", allow_pickle=False) as file:
        return file["images"][:count].astype(np.float32) / 16, file["predictions"][:count]


async def right_answer(fleet: Fleet, node: str = "", budget_s: float = 2.0) -> bool:
    images, classes = digits()
    answer = await fleet.infer("digits", images, node=node, budget_s=budget_s)
    return bool((answer.outputs[0].argmax(axis=1) == classes).all())
