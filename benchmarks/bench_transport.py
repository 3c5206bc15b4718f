"""Transport: what a request and a received message cost, ours against what they are made of.

(a) echo: one request of 200 bytes at a time, QoS 1 both ways, p50 and p99 of the round trip.
    raw      two bare protocols on the mqtt5 codec, bytes in and bytes out
    native   Asker -> broker -> Service(core) -> broker -> Asker on the native bus
    aiomqtt  two clients as the library's own documentation writes them (but with TCP_NODELAY)
(b) receive: QoS 1 messages of 200 bytes a second, from a client of the codec.
    native   decoded and stepped through a Service's core
    aiomqtt  taken from its `async for`, and decoded

Rounds are interleaved, so that a noisy machine is noisy to all; shown are medians over rounds.
    python benchmarks/bench_transport.py [--rounds 7] [--json PATH] [--loop uvloop|asyncio]
"""

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from rich.console import Console
from rich.table import Table

from benchmarks.raw import raw
from broker.ask import Asker
from broker.native import LinkOptions, NativeBus
from broker.process import fast_loop
from broker.service import Service, on
from shared.core import Effect, Publish
from shared.messages import Query, QueryKind, Reply, Sample, TelemetryBatch
from shared.topics import APP_QUERY, APP_REPLY, TELEMETRY
from shared.wire import decode, encode
from tests.support.mosquitto import Mosquitto, free_port

ECHOES, BURST, PADDING, ONE_S_MAX = 400, 4000, 120, 60.0
ROOT = "shoal/1/bench"
REPLY_TO = APP_REPLY.at(app="bench")


async def native(port: int, client_id: str, stack: AsyncExitStack) -> NativeBus:
    bus = NativeBus(LinkOptions("127.0.0.1", port, ROOT, client_id))
    running = asyncio.create_task(bus.run())
    stack.push_async_callback(asyncio.wait, [running])
    stack.push_async_callback(bus.close)
    await up(bus)
    return bus


async def up(bus: NativeBus) -> None:
    stands = asyncio.Event()
    bus.watch_link(lambda link: stands.set() if link.up else None)
    await stands.wait()


@dataclass
class Echo:
    """A core that answers at once."""

    def step(self, event: object, now: float) -> list[Effect]:
        if isinstance(event, Query):
            return [Publish(REPLY_TO, Reply(correlation=event.correlation))]
        return []

    def check(self) -> None: ...


@dataclass
class Sum:
    """A core that looks at what it gets."""

    count: int = 0
    total: float = 0.0
    done: Callable[[], None] = field(default=lambda: None)

    def step(self, event: object, now: float) -> list[Effect]:
        if isinstance(event, TelemetryBatch):
            self.count += 1
            self.total += event.samples[0].values["t"]
            if self.count == BURST:
                self.done()
        return []

    def check(self) -> None: ...


def query(correlation: str, budget_s: float) -> Query:
    return Query(correlation=correlation, budget_s=budget_s, kind=QueryKind.NODE, key="x" * PADDING)


async def timed(once: Callable[[], Awaitable[object]]) -> list[float]:
    for _ in range(20):
        await once()
    took = []
    for _ in range(ECHOES):
        begin = time.perf_counter()
        await once()
        took.append(time.perf_counter() - begin)
    return took


async def echo_raw(port: int) -> list[float]:
    client, server = await raw(port, "echo-client"), await raw(port, "echo-server")
    server.received = lambda packet: server.publish("raw/reply", packet.payload)
    await server.subscribe("raw/ask")
    await client.subscribe("raw/reply")
    payload, loop = encode(query("1", 10.0)), asyncio.get_running_loop()

    async def once() -> None:
        answered = loop.create_future()
        client.received = lambda _: answered.set_result(None)
        client.publish("raw/ask", payload)
        await answered

    try:
        return await timed(once)
    finally:
        client.transport.abort()
        server.transport.abort()


async def echo_native(port: int) -> list[float]:
    async with AsyncExitStack() as stack:
        server, client = await native(port, "svc", stack), await native(port, "asker", stack)
        service = Service("echo", Echo(), server, [on(APP_QUERY, lambda _, message: message)], tick_s=60)
        serving = asyncio.create_task(service.run())
        asker, to = Asker(client, "bench", "s"), APP_QUERY.at(app="bench")
        await asyncio.sleep(0.1)
        try:
            return await timed(lambda: asker.ask(to, query, 10.0))
        finally:
            serving.cancel()
            await asyncio.wait([serving])


async def echo_aiomqtt(port: int) -> list[float]:
    def library() -> aiomqtt.Client:
        # Not its default, but without it Nagle's algorithm makes a round trip 90 ms.
        no_delay = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        v5 = aiomqtt.ProtocolVersion.V5
        return aiomqtt.Client("127.0.0.1", port, protocol=v5, socket_options=[no_delay])

    async with library() as server, library() as client:
        await server.subscribe("lib/ask", qos=1)
        await client.subscribe("lib/reply", qos=1)

        serving = asyncio.create_task(serve_aiomqtt(server))
        answers, payload = aiter(client.messages), encode(query("1", 10.0))

        async def once() -> None:
            await client.publish("lib/ask", payload, qos=1)
            await anext(answers)

        took = await timed(once)
    await serving
    return took


async def serve_aiomqtt(server: aiomqtt.Client) -> None:
    with suppress(aiomqtt.MqttError):  # which is how its iterator says that we disconnected
        async for message in server.messages:
            await server.publish("lib/reply", message.payload, qos=1)


def batch() -> bytes:
    message = TelemetryBatch(samples=tuple(Sample(float(i), {"t": 21.5, "h": 0.4}) for i in range(5)))
    return encode(message)


async def preload(port: int, topic: str) -> None:
    """Let the broker queue the burst for a session that is away."""
    sender, payload = await raw(port, "flood"), batch()
    done, left, window = asyncio.get_running_loop().create_future(), BURST, 15

    def more() -> None:
        nonlocal left
        left -= 1
        if left >= window:
            sender.publish(topic, payload)
        if left == 0:
            done.set_result(None)

    sender.acknowledged = more
    for _ in range(window):
        sender.publish(topic, payload)
    await done
    sender.transport.abort()


@dataclass(frozen=True)
class Received:
    """What the burst took: of the clock, and of this process's processor."""

    wall_s: float
    cpu_s: float


def stopwatch() -> Callable[[], Received]:
    wall, cpu = time.perf_counter(), time.process_time()
    return lambda: Received(time.perf_counter() - wall, time.process_time() - cpu)


async def receive_native(port: int) -> Received:
    topic = TELEMETRY.at(node="n1", stream="native")
    options = LinkOptions(
        "127.0.0.1", port, ROOT, "take-native", clean_start=False, session_expiry_s=60, receive_max=1000
    )
    core = Sum()
    for preloaded in (False, True):
        bus, finished = NativeBus(options), asyncio.Event()
        core = Sum(done=finished.set)
        route = on(TELEMETRY, lambda _, message: message, stream="native")
        serving = asyncio.create_task(Service("sum", core, bus, [route], tick_s=60).run())
        await asyncio.sleep(0)
        took = stopwatch()
        running = asyncio.create_task(bus.run())
        if preloaded:
            await finished.wait()
            result = took()
        await up(bus)
        await bus.close()
        serving.cancel()
        await asyncio.wait([running, serving])
        if not preloaded:
            await preload(port, f"{ROOT}/{topic}")
    return result


async def receive_aiomqtt(port: int) -> Received:
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 60
    topic = f"{ROOT}/{TELEMETRY.at(node='n1', stream='library')}"

    def client() -> aiomqtt.Client:
        return aiomqtt.Client(
            "127.0.0.1",
            port,
            identifier="take-library",
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=False,
            properties=properties,
        )

    async with client() as first:
        await first.subscribe(topic, qos=1)
    await preload(port, topic)
    took, count, total = stopwatch(), 0, 0.0
    async with client() as second:
        async for message in second.messages:
            total += decode(TELEMETRY, message.payload).samples[0].values["t"]
            count += 1
            if count == BURST:
                break
        return took()


ECHO: dict[str, Callable[[int], Awaitable[list[float]]]] = {
    "raw": echo_raw,
    "native": echo_native,
    "aiomqtt": echo_aiomqtt,
}
RECEIVE: dict[str, Callable[[int], Awaitable[Received]]] = {
    "native": receive_native,
    "aiomqtt": receive_aiomqtt,
}


@dataclass
class Results:
    """Numbers of every round on one broker."""

    broker: str
    echo_p50_ms: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in ECHO})
    echo_p99_ms: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in ECHO})
    receive_per_s: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in RECEIVE})
    receive_cpu_us: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in RECEIVE})

    def summary(self) -> dict[str, object]:
        def medians(of: dict[str, list[float]]) -> dict[str, float]:
            return {name: round(statistics.median(values), 4) for name, values in of.items()}

        def ratio(over: dict[str, list[float]], top: str, bottom: str) -> float:
            pairs = zip(over[top], over[bottom], strict=True)  # rounds, so noise hits both alike
            return round(statistics.median(one / other for one, other in pairs), 2)

        return {
            "broker": self.broker,
            "echo_p50_ms": medians(self.echo_p50_ms),
            "echo_p99_ms": medians(self.echo_p99_ms),
            "receive_per_s": medians(self.receive_per_s),
            "receive_cpu_us": medians(self.receive_cpu_us),
            "echo_native_over_raw": ratio(self.echo_p50_ms, "native", "raw"),
            "echo_aiomqtt_over_native": ratio(self.echo_p50_ms, "aiomqtt", "native"),
            "receive_native_over_aiomqtt": ratio(self.receive_per_s, "native", "aiomqtt"),
            "receive_cpu_aiomqtt_over_native": ratio(self.receive_cpu_us, "aiomqtt", "native"),
        }


async def one_round(port: int, into: Results) -> None:
    for name, echo in ECHO.items():
        async with asyncio.timeout(ONE_S_MAX):
            took = statistics.quantiles(await echo(port), n=100)
        into.echo_p50_ms[name].append(took[49] * 1e3)
        into.echo_p99_ms[name].append(took[98] * 1e3)
    for name, receive in RECEIVE.items():
        async with asyncio.timeout(ONE_S_MAX):
            received = await receive(port)
        into.receive_per_s[name].append(BURST / received.wall_s)
        into.receive_cpu_us[name].append(received.cpu_s / BURST * 1e6)


@contextmanager
def brokers(folder: Path) -> Iterator[dict[str, int]]:
    """Both brokers, each a process of its own, by name."""
    mosquitto, port = Mosquitto(folder).start(), free_port()
    command = [
        sys.executable,
        "-m",
        "broker",
        "--port",
        str(port),
        "--allow-anonymous",
        "--log-level",
        "error",
    ]
    embedded = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield {"mosquitto": mosquitto.port, "embedded": port}
    finally:
        embedded.terminate()
        embedded.wait()
        mosquitto.stop()


def table(summaries: list[dict[str, Any]]) -> Table:
    shown = Table(title=f"transport: medians, {len(batch())}-byte telemetry, QoS 1")
    for heading in ("broker", "", *ECHO, "ratios"):
        shown.add_column(heading, justify="right" if heading in ECHO else "left")
    rows = {
        "echo p50 ms": ("echo_p50_ms", "{echo_native_over_raw} native/raw"),
        "echo p99 ms": ("echo_p99_ms", "p50: {echo_aiomqtt_over_native} aiomqtt/native"),
        "received /s": ("receive_per_s", "{receive_native_over_aiomqtt} native/aiomqtt"),
        "receive cpu us": ("receive_cpu_us", "{receive_cpu_aiomqtt_over_native} aiomqtt/native"),
    }
    for summary in summaries:
        for label, (key, ratios) in rows.items():
            numbers = (f"{summary[key][name]:,.3f}" if name in summary[key] else "-" for name in ECHO)
            shown.add_row(summary["broker"], label, *numbers, ratios.format(**summary))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    options = parser.parse_args()
    factory = fast_loop() if options.loop == "uvloop" else None
    with tempfile.TemporaryDirectory() as folder, brokers(Path(folder)) as ports:
        results = [Results(name) for name in ports]
        with asyncio.Runner(loop_factory=factory) as runner:
            for _ in range(options.rounds):
                for result in results:
                    runner.run(one_round(ports[result.broker], result))
    summaries = [result.summary() for result in results]
    Console(width=100).print(table(summaries))
    if options.json is not None:
        options.json.write_text(json.dumps({"loop": options.loop, "results": summaries}, indent=2) + "\n")


if __name__ == "__main__":
    main()
