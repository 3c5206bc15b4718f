"""Many simulated devices with telemetry in one process; the agent's and telemetry's real cores and messages.

Only their disks are made up: a thousand of them on one machine would be measured instead of the cloud. They
forget nothing, and do each piece of work at once.

    python -m benchmarks.data._devices --port PORT --first 0 --every 1.67 --samples 20 < passwords

Each device records ``samples`` samples every ``every`` seconds. SIGUSR1: nothing more is recorded, and what
was is printed (``recorded NUMBER``). SIGTERM: the process ends. Standard output: also a line ``up NODE TIME``
each time that a device's link comes up (monotonic seconds, the same in all processes of a machine).
"""

import argparse
import asyncio
import random
import signal
import sys
import time
from collections import defaultdict
from typing import Any

from benchmarks.simulated import CONNECTING_MAX, Device, name_of
from broker.bus import Link
from broker.process import fast_loop
from broker.service import Service, on
from edge.telemetry.core import Telemetry
from edge.telemetry.events import (
    AckArrived,
    Append,
    Appended,
    CloudSeen,
    Discard,
    Discarded,
    Durable,
    Forget,
    GaveWay,
    Kept,
    Load,
    Loaded,
    ReadSample,
    Recorded,
    Restored,
    StreamId,
    Trouble,
)
from edge.telemetry.limits import Limits
from shared.messages import Sample
from shared.topics import ACK, CLOUD

STREAM = "machine"
SAMPLE_BYTES, PIECE_SAMPLES = 80, 3000


class MemoryDisk:
    """What a device keeps, until it is told to forget it."""

    def __init__(self) -> None:
        self.held: dict[StreamId, dict[int, Sample]] = defaultdict(dict)
        self.newest: dict[StreamId, tuple[int, int]] = {}

    def append(self, work: Append) -> Appended:
        kept = []
        for lot in work.lots:
            end = lot.first + len(lot.samples)
            self.held[lot.id].update(zip(range(lot.first, end), lot.samples, strict=True))
            first, until = self.newest.get(lot.id, (lot.first, lot.first))
            first = first if until == lot.first and until - first < PIECE_SAMPLES else lot.first
            self.newest[lot.id] = first, end
            kept.append(Kept(lot.id, first, end, (end - first) * SAMPLE_BYTES))
        return Appended(work.lots, tuple(kept))

    def load(self, work: Load) -> Loaded:
        held = self.held[work.id]
        found = {one: held[one] for one in range(work.first, work.end) if one in held}
        return Loaded(work.id, work.first, work.end, found)

    def discard(self, work: Discard) -> Discarded:
        for number in range(work.kept.first, work.kept.end):
            self.held[work.kept.id].pop(number, None)
        return Discarded(work.kept)

    def forget(self, effect: Forget) -> None:
        held = self.held[effect.id]
        for number in list(held):
            if number >= effect.until:
                break
            del held[number]


class Talking:
    """A device that heartbeats and records."""

    def __init__(
        self, number: int, port: int, fleet: str, password: str, every_s: float, samples: int
    ) -> None:
        self.device, self.every_s, self.samples = Device(number, port, fleet, password), every_s, samples
        self.chance = random.Random(number)
        node, disk = name_of(number), MemoryDisk()
        epoch = self.device.service.core.epoch  # type: ignore[attr-defined]
        self.core = Telemetry(
            node, epoch, self.chance, interval_s=1e12, limits=Limits(memory=64), next_read=1e12
        )
        self.service: Service[Any] = Service(
            "telemetry",
            self.core,
            self.device.bus,
            [
                on(ACK, lambda _, ack: AckArrived(ack), node=node),
                on(CLOUD, lambda _, presence: CloudSeen(presence)),
            ],
            do={
                Forget: disk.forget,
                Durable: lambda _: None,
                GaveWay: lambda _: None,
                Trouble: lambda _: None,
            },
            work={
                Append: disk.append,
                Load: disk.load,
                Discard: disk.discard,
                ReadSample: lambda _: None,
            },
        )
        self.service.feed(Restored(()))
        self.up, self.done = asyncio.Event(), asyncio.Event()
        self.device.bus.watch_link(self._linked)

    def _linked(self, link: Link) -> None:
        if link.up:
            self.up.set()
            print("up", self.core.node, time.monotonic(), flush=True)

    async def record(self, quiet: asyncio.Event) -> None:
        """Until it is to be quiet."""
        await self.up.wait()  # a thousand that come at once are another question
        await asyncio.sleep(self.chance.random() * self.every_s)
        due = time.monotonic()
        while not quiet.is_set():
            now = time.time()
            for place in range(self.samples):
                values = {"cpu": self.chance.random(), "memory": 1e9, "temperature": 21.5}
                self.service.feed(Recorded(STREAM, Sample(now + place * self.every_s / self.samples, values)))
            due += self.every_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        self.done.set()

    async def run(self, gate: asyncio.Semaphore, quiet: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.device.run(gate))
            group.create_task(self.service.run())
            group.create_task(self.record(quiet))


async def simulate(devices: list[Talking]) -> None:
    gate, quiet, over = asyncio.Semaphore(CONNECTING_MAX), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, quiet.set)
    loop.add_signal_handler(signal.SIGTERM, over.set)
    running = [asyncio.create_task(one.run(gate, quiet)) for one in devices]
    counting = asyncio.create_task(_count(devices))
    await over.wait()
    counting.cancel()
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def _count(devices: list[Talking]) -> None:
    for one in devices:
        await one.done.wait()
    print("recorded", sum(one.core.produced(STREAM) for one in devices), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--fleet", default="main")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--every", type=float, default=1000 / 600)
    parser.add_argument("--samples", type=int, default=20)
    given = parser.parse_args()
    passwords = sys.stdin.read().split()

    async def start() -> None:
        await simulate(
            [
                Talking(number, given.port, given.fleet, password, given.every, given.samples)
                for number, password in enumerate(passwords, given.first)
            ]
        )

    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        runner.run(start())


if __name__ == "__main__":
    main()
