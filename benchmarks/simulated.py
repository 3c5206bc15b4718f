"""Many devices in one process: the agent's real core, service and bus, without the WebAssembly runtime.

Each device is a client of its own, with its own user, session, subscriptions and heartbeat; what it says
passes through the same code as on a real one. Only the readings of the machine are made up.

    python -m benchmarks.simulated --port PORT --first 0 < passwords

``passwords``: one line per device, in order.
"""

import argparse
import asyncio
import random
import sys
import time

from broker.native import LinkOptions, NativeBus
from broker.process import fast_loop
from edge.agent.core import Agent, Vitals
from edge.agent.service import agent_service, last_will
from shared.messages import Capabilities
from shared.topics import DESIRED, INFER, root

CONNECTING_MAX = 50  # at a time; a thousand at once would measure the storm instead of the fleet
CONNECT_S_MAX = 30.0


def name_of(number: int) -> str:
    return f"sim-{number:04d}"


class Device:
    """One simulated device."""

    def __init__(self, number: int, port: int, fleet: str, password: str) -> None:
        node, epoch, chance = name_of(number), time.time_ns() // 1000, random.Random(number)
        self.bus = NativeBus(
            LinkOptions(
                "127.0.0.1",
                port,
                root(fleet),
                node,
                username=node,
                password=password,
                clean_start=False,
                session_expiry_s=3600,
                will=last_will(node, epoch),
            ),
            rng=chance,
        )
        self.service = agent_service(
            Agent(node, epoch, "1.0", chance),
            self.bus,
            vitals=lambda: _vitals(chance),
            measure=_measure,
            drain=lambda: None,
            leave=lambda _: None,
        )
        # What the other capabilities of a device listen to.
        others = [INFER.filter_for(node=node), DESIRED.filter_for(node=node)]
        self.listening = self.bus.subscribe(others, lambda _: None)

    async def run(self, gate: asyncio.Semaphore) -> None:
        """Until cancelled. Connects when the gate lets it."""
        up = asyncio.Event()
        self.bus.watch_link(lambda link: up.set() if link.up else None)
        async with asyncio.TaskGroup() as group, gate:
            group.create_task(self.bus.run())
            group.create_task(self.service.run())
            async with asyncio.timeout(CONNECT_S_MAX):
                await up.wait()


def _vitals(chance: random.Random) -> Vitals:
    return Vitals(
        at_unix_s=time.time(),
        cpu_ratio=chance.random(),
        memory_ratio=chance.random(),
        memory_available_bytes=chance.randrange(1 << 30),
        disk_ratio=chance.random(),
        agent_rss_bytes=60 << 20,
    )


async def _measure() -> Capabilities:
    return Capabilities(cores=4, memory_bytes=1 << 30, wasm_gflops=2.0, platform="simulated")


async def simulate(port: int, fleet: str, first: int, passwords: list[str]) -> None:
    """All of them, until cancelled."""
    gate = asyncio.Semaphore(CONNECTING_MAX)
    async with asyncio.TaskGroup() as group:
        for number, password in enumerate(passwords, first):
            group.create_task(Device(number, port, fleet, password).run(gate))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--fleet", default="main")
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    passwords = sys.stdin.read().split()
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        runner.run(simulate(arguments.port, arguments.fleet, arguments.first, passwords))


if __name__ == "__main__":
    main()
