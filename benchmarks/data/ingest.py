"""Ingest to the durable store, against the same client that only decodes.

A process sends a burst of 200-byte batches through Mosquitto as fast as they are taken. Another takes them:
decodes and does nothing else, or is the cloud's own ingest worker, whose work is done when every
sample is committed and every acknowledgement has been taken by the broker. Rounds of all alternate, each of
new boots and all on stores that grow, and the median over rounds counts. Of 50 devices a transaction holds
many batches that follow each other and become one row, of 1,000 it holds one of each.

``python -m benchmarks.data.ingest --profile sqlite`` shows where a round's time goes.
"""

import argparse
import asyncio
import cProfile
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count, product
from pathlib import Path
from statistics import median

from rich.table import Table

from benchmarks.data import Part
from benchmarks.measuring import Found, progress
from benchmarks.raw import raw
from broker.bus import Delivery
from broker.native import LinkOptions, NativeBus
from broker.process import fast_loop
from cloud.store.store import Store
from cloud.telemetry.core import Ingest
from cloud.telemetry.service import IngestWorker
from shared.messages import Sample, TelemetryBatch
from shared.topics import TELEMETRY, root
from shared.wire import decode, encode
from tests.support.mosquitto import Mosquitto
from tests.support.postgres import Postgres

FEW, MANY, SAMPLES = 50, 1000, 3
BURST, ROUNDS = 20_000, 7
WINDOW = 500  # messages of the sender under way to the broker
SETTLE_S = 0.3
ROOT = root("main")
ROUND_S_MAX = 120.0
_STORES = ("sqlite", "postgresql")
_epochs = count(1_700_000_000)


@dataclass(frozen=True)
class Taken:
    """What a burst cost this process."""

    wall_s: float
    cpu_s: float


def message(epoch: int, number: int) -> bytes:
    """Batch ``number`` of a device."""
    samples = tuple(
        Sample(epoch + number * SAMPLES + place + 0.25, {"temperature": 21.5, "humidity": 0.4, "wind": 7.25})
        for place in range(SAMPLES)
    )
    return encode(TelemetryBatch(epoch=epoch, first=number * SAMPLES, samples=samples))


def burst(epoch: int, messages: int, devices: int) -> Iterator[tuple[str, bytes]]:
    """Topic and payload: the devices take turns."""
    for number in range(messages):
        topic = TELEMETRY.at(node=f"bench-{number % devices:03d}", stream="machine").name
        yield f"{ROOT}/{topic}", message(epoch, number // devices)


async def send(port: int, epoch: int, messages: int, devices: int) -> None:
    """The whole burst, at QoS 1."""
    sender, done = await raw(port, "sender"), asyncio.get_running_loop().create_future()
    waiting, left = burst(epoch, messages, devices), messages

    def more() -> None:
        nonlocal left
        left -= 1
        if (following := next(waiting, None)) is not None:
            sender.publish(*following)
        if left == 0:
            done.set_result(None)

    sender.acknowledged = more
    for _ in range(WINDOW):
        sender.publish(*next(waiting))
    await done
    sender.transport.abort()


class Sender:
    """The process that sends, one burst for each line that it is given."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, "-m", "benchmarks.data.ingest", "--send", str(port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)

    def burst(self, epoch: int, messages: int, devices: int) -> None:
        """Begin; returns at once."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{epoch} {messages} {devices}\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@asynccontextmanager
async def connected(port: int, name: str) -> AsyncIterator[NativeBus]:
    """The cloud's own link: a clean start, a thousand messages under way."""
    bus, up = NativeBus(LinkOptions("127.0.0.1", port, ROOT, name, receive_max=1000)), asyncio.Event()
    bus.watch_link(lambda link: up.set() if link.up else None)
    running = asyncio.create_task(bus.run())
    try:
        await up.wait()
        yield bus
    finally:
        await bus.close()
        await running


@contextmanager
def stopwatch(into: list[Taken]) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    into.append(Taken(time.perf_counter() - wall, time.process_time() - cpu))


async def decoded(port: int, sender: Sender, messages: int) -> Taken:
    """The client that only decodes."""
    taken, left, done = list[Taken](), messages, asyncio.Event()

    def deliver(delivery: Delivery) -> None:
        nonlocal left
        decode(TELEMETRY, delivery.payload)
        left -= 1
        if not left:
            done.set()

    async with connected(port, "decodes") as bus:
        subscription = bus.subscribe([TELEMETRY.filter], deliver)
        await asyncio.sleep(SETTLE_S)
        with stopwatch(taken):
            sender.burst(next(_epochs), messages, FEW)
            await done.wait()
        subscription.close()
    return taken[0]


async def ingested(port: int, sender: Sender, messages: int, store: Store, devices: int) -> Taken:
    """The cloud's worker: every sample committed, every acknowledgement taken by the broker."""
    taken, epoch, core = list[Taken](), next(_epochs), Ingest()
    async with connected(port, "ingests") as bus:
        serving = asyncio.create_task(IngestWorker(core, bus, store.telemetry).run())
        await asyncio.sleep(SETTLE_S)
        with stopwatch(taken):
            sender.burst(epoch, messages, devices)
            while core.counts["samples"] < messages * SAMPLES:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await bus.drained()
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
    progress(f"{core.counts['transactions']} transactions of {messages / core.counts['transactions']:.0f}")
    verify(store, epoch, messages)
    return taken[0]


def verify(store: Store, epoch: int, messages: int) -> None:
    """Everything is there, once."""
    positions = [one for one in store.telemetry.ledger(limit=10**6) if one.key.epoch == epoch]
    assert sum(one.stored for one in positions) == messages * SAMPLES, positions
    assert all(one.settled == one.produced and not one.duplicates for one in positions)


@contextmanager
def stores(folder: Path) -> Iterator[dict[str, Store]]:
    """Both, with the settings of production: every commit is on the disk."""
    postgres = Postgres().start()
    try:
        urls = {"sqlite": f"sqlite:///{folder / 'store' / 'shoal.db'}", "postgresql": postgres.new_database()}
        opened = {name: Store.open(urls[name]) for name in _STORES}
        yield opened
        for store in opened.values():
            store.close()
    finally:
        postgres.remove()


def measure(share: float) -> Found:
    messages, rounds = BURST, max(2, round(ROUNDS * share))
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
        folder = Path(name)
        broker = Mosquitto(folder).start()
        sender = Sender(broker.port)
        try:
            with stores(folder) as opened, asyncio.Runner(loop_factory=fast_loop()) as runner:
                ways: dict[str, Callable[[], Awaitable[Taken]]] = {
                    "decodes": lambda: decoded(broker.port, sender, messages),
                }
                for store, devices in product(_STORES, (FEW, MANY)):
                    ways[_name(store, devices)] = partial(
                        ingested, broker.port, sender, messages, opened[store], devices
                    )
                taken: dict[str, list[Taken]] = {name: [] for name in ways}
                for number in range(rounds):
                    for name, way in ways.items():
                        taken[name].append(runner.run(_limited(way)))
                    progress(f"round {number + 1} of {rounds}")
        finally:
            sender.stop()
            broker.stop()
    return {"messages": messages, "rounds": rounds, "message_bytes": len(message(next(_epochs), 100))} | {
        name: _figures(of, taken["decodes"], messages) for name, of in taken.items()
    }


async def _limited(way: Callable[[], Awaitable[Taken]]) -> Taken:
    async with asyncio.timeout(ROUND_S_MAX):
        return await way()


def _figures(taken: list[Taken], bare: list[Taken], messages: int) -> Found:
    return {
        "per_s": median(messages / one.wall_s for one in taken),
        "cpu_us": median(one.cpu_s / messages * 1e6 for one in taken),
        "ratio": median(other.wall_s / one.wall_s for one, other in zip(taken, bare, strict=True)),
        "rounds_per_s": [round(messages / one.wall_s) for one in taken],
    }


def _name(store: str, devices: int) -> str:
    return store if devices == FEW else f"{store}_{devices}"


def tables(found: Found) -> Iterable[Table]:
    title = (
        f"ingest, {found['messages']:,} messages of {found['message_bytes']} bytes, {found['rounds']} rounds"
    )
    table = Table(title=title)
    table.add_column("one process that")
    for heading in ("messages/s", "against decoding", "its CPU, us a message"):
        table.add_column(heading, justify="right")
    names = {"decodes": "only decodes"} | {
        _name(store, devices): f"commits to {store}, {devices:,} devices"
        for store, devices in product(_STORES, (FEW, MANY))
    }
    for name, shown in names.items():
        one = found[name]
        table.add_row(shown, f"{one['per_s']:,.0f}", f"{one['ratio']:.2f}", f"{one['cpu_us']:.1f}")
    yield table


PARTS = (
    Part(
        "ingest",
        measure,
        tables,
        """\
A process sends a burst of batches (three samples, 222 bytes) through Mosquitto, as fast as
it is taken; another process receives it at QoS 1. "Only decodes" is the same bus that decodes each message
and counts. The others are the cloud's ingest worker, from the start of the burst until every sample is
committed (`synchronous = FULL`, `synchronous_commit = on`, a real disk) and the broker has taken every
acknowledgement; then the ledger is checked. Rounds alternate; medians. Sender, broker and PostgreSQL's
backend share the cores with it. Of 50 devices a transaction holds many batches that follow each other and
become one row; of 1,000 it holds one of each, and each is a row.""",
    ),
)


def profiled(name: str) -> None:
    """Where the time of one round goes."""
    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        broker = Mosquitto(Path(folder)).start()
        sender = Sender(broker.port)
        with stores(Path(folder)) as opened, asyncio.Runner(loop_factory=fast_loop()) as runner:
            profile.enable()
            runner.run(ingested(broker.port, sender, BURST, opened[name], FEW))
            profile.disable()
        sender.stop()
        broker.stop()
    pstats.Stats(profile).sort_stats("tottime").print_stats(30)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", choices=_STORES)
    parser.add_argument("--send", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.profile:
        profiled(arguments.profile)
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        for line in sys.stdin if arguments.send else ():
            runner.run(send(arguments.send, *map(int, line.split())))


if __name__ == "__main__":
    main()
