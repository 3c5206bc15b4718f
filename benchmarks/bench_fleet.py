"""Inference through the whole platform: app -> broker -> cloud -> broker -> device -> broker -> app.

(a) latency     one device, one request at a time, p50 and p99 from end to end, with a caller that stays
                awake for its answer (the default, :mod:`broker.awake`) and with one that sleeps, in rounds
                that alternate with an echo of two bare clients on the same codec and the same broker program
                (the echo of ``bench_transport``). Each round has connections of its own: how the system
                places and wakes two processes stays the same for the life of a connection, and makes 0.08 or
                0.13 ms of one echo
(b) throughput  five devices, 64 requests in flight; and the CPU time of one request, process by process,
                which says what the machine could do at most

    python -m benchmarks.bench_fleet [--rounds 41] [--seconds 6] [--json PATH]

Every process is real and has default settings; all of them share this machine with the app that asks.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.fleet import MODEL, digit, run, serving
from benchmarks.measuring import Found, cpu_s, median_of, percentile, progress, write_json
from benchmarks.raw import raw
from broker import awake
from broker.acl import Role
from broker.credentials import Credentials
from broker.settings import read_config
from cloud.client import Fleet, connected
from cloud.local.processes import LocalFleet, LocalProcess, free_port
from shared.messages import InferAsk
from shared.tensors import pack_inputs
from shared.topics import COMMAND, REPLY, root
from shared.wire import encode

CALLS = 100  # of one round
DEVICES = 5
IN_FLIGHT = 64
SLEEPING = "inference, a caller that sleeps"
ECHO = "echo"  # the echo's fleet, its device and its caller

Once = Callable[[], Awaitable[object]]


# One request at a time ------------------------------------------------------------------------------


async def latency(folder: Path, rounds: int) -> Found:
    """Milliseconds; ``ratio``: inference p50 / echo p50 of the same run."""
    inputs = digit()
    took: dict[str, list[list[float]]] = {"inference": [], SLEEPING: [], "echo": []}
    async with serving(folder, 1) as (local, _), echo_broker(local) as broker:
        config = read_config(local.workspace.config("operator"))
        for number in range(rounds):
            progress(f"latency, round {number + 1} of {rounds}")
            async with connected(config, "operator") as fleet:
                took["inference"].append(await timed(partial(fleet.infer, MODEL, inputs)))
            async with connected(config, "operator") as fleet:
                with sleeping():
                    took[SLEEPING].append(await timed(partial(fleet.infer, MODEL, inputs)))
            async with echo(broker) as once:
                took["echo"].append(await timed(once))
    found: Found = {
        name: {f"p{at}_ms": median_of(samples, at / 100) * 1e3 for at in (50, 99)}
        | {"p50_ms_of_rounds": sorted(percentile(one, 0.5) * 1e3 for one in samples)}
        for name, samples in took.items()
    }
    return found | {"ratio": found["inference"]["p50_ms"] / found["echo"]["p50_ms"]}


@contextmanager
def sleeping() -> Iterator[None]:
    """Meanwhile nobody stays awake for an answer."""
    usual, awake.AWAKE_S = awake.AWAKE_S, -1.0
    try:
        yield
    finally:
        awake.AWAKE_S = usual


async def timed(once: Once) -> list[float]:
    """Seconds of each of ``CALLS`` calls, after some that don't count."""
    for _ in range(20):
        await once()
    took = []
    for _ in range(CALLS):
        began = time.perf_counter()
        await once()
        took.append(time.perf_counter() - began)
    return took


class EchoBroker(NamedTuple):
    """Where it listens, and the passwords of the two that talk there."""

    port: int
    near: str
    far: str


@asynccontextmanager
async def echo_broker(local: LocalFleet) -> AsyncIterator[EchoBroker]:
    """A broker of its own, with the same access rules: on the fleet's the cloud would listen."""
    credentials = Credentials(local.workspace.credentials_dir)
    passwords = credentials.add(f"{ECHO}-cloud", Role.CLOUD), credentials.add(ECHO, Role.DEVICE)
    port = free_port()
    options = ("--port", str(port), "--credentials", str(local.workspace.credentials_dir), "--fleet", ECHO)
    command = (*local.broker.command[:3], "--log-level", "warning", *options)
    broker = LocalProcess("echo-broker", command, local.workspace.folder / "echo.log")
    await broker.start()
    try:
        await local.listening(broker, port)
        yield EchoBroker(port, *passwords)
    finally:
        await broker.stop()


@asynccontextmanager
async def echo(broker: EchoBroker) -> AsyncIterator[Once]:
    """Two bare clients that say as many bytes as a request has."""
    near = await raw(broker.port, "near", f"{ECHO}-cloud", broker.near)
    far = await raw(broker.port, "far", ECHO, broker.far)
    ask = f"{root(ECHO)}/{COMMAND.at(node=ECHO, verb=ECHO).name}"
    reply = f"{root(ECHO)}/{REPLY.at(node=ECHO, caller=ECHO).name}"
    far.received = lambda packet: far.publish(reply, packet.payload)
    await far.subscribe(ask)
    await near.subscribe(reply)
    payload, loop = _request_bytes(), asyncio.get_running_loop()

    async def once() -> None:
        answered = loop.create_future()
        near.received = lambda _: answered.set_result(None)
        near.publish(ask, payload)
        await answered

    try:
        yield once
    finally:
        near.transport.abort()
        far.transport.abort()


def _request_bytes() -> bytes:
    return encode(
        InferAsk(correlation="0123456789", budget_s=10.0, model=MODEL, inputs=pack_inputs([digit()]))
    )


# Many at a time -------------------------------------------------------------------------------------


async def throughput(folder: Path, seconds: float) -> Found:
    """Requests a second, and CPU microseconds of one request by process.

    ``ceiling_per_s``: cores divided by the CPU time of one request, the most that this machine could do.
    """
    async with serving(folder, DEVICES) as (local, fleet):
        progress(f"throughput, {seconds:g} s")
        await flood(fleet, 1.0)
        pids = {process.name: process.pid for process in local.processes} | {"app": os.getpid()}
        before = {name: cpu_s(pid) for name, pid in pids.items()}
        began = time.monotonic()
        took = await flood(fleet, seconds)
        lasted_s = time.monotonic() - began
        used_s = {name: cpu_s(pid) - before[name] for name, pid in pids.items()}
    devices = [name for name in used_s if name in local.devices]
    per_request = {name: used_s[name] / len(took) * 1e6 for name in ("app", "broker", "cloud")}
    per_request["devices"] = sum(used_s[name] for name in devices) / len(took) * 1e6
    busy = {name: used_s[name] / lasted_s for name in ("app", "broker", "cloud")}
    busy["each device"] = sum(used_s[name] for name in devices) / len(devices) / lasted_s
    cores = len(os.sched_getaffinity(0))
    return {
        "requests_per_s": len(took) / lasted_s,
        "p50_ms": percentile(took, 0.5) * 1e3,
        "p99_ms": percentile(took, 0.99) * 1e3,
        "cpu_us_per_request": per_request,
        "cores_busy": busy,
        "ceiling_per_s": cores * 1e6 / sum(per_request.values()),
    }


async def flood(fleet: Fleet, seconds: float) -> list[float]:
    """Seconds of every request that ``IN_FLIGHT`` callers got answered."""
    inputs, took = digit(), list[float]()
    end = time.monotonic() + seconds

    async def caller() -> None:
        while (began := time.monotonic()) < end:
            await fleet.infer(MODEL, inputs)
            took.append(time.monotonic() - began)

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(caller())
    return took


# ----------------------------------------------------------------------------------------------------


async def measured(rounds: int, seconds: float) -> Found:
    found: Found = {}
    with tempfile.TemporaryDirectory(prefix="shoal-") as folder:
        found["latency"] = await latency(Path(folder) / "one", rounds)
        found["throughput"] = await throughput(Path(folder) / "five", seconds)
    return found


def show(found: Found) -> None:
    one, many = found["latency"], found["throughput"]
    table = Table("one device, one at a time", "p50 ms", "p99 ms", "x echo")
    for name in ("echo", "inference", SLEEPING):
        row = one[name]
        ratio = row["p50_ms"] / one["echo"]["p50_ms"]
        table.add_row(name, f"{row['p50_ms']:.3f}", f"{row['p99_ms']:.3f}", f"{ratio:.2f}")
    Console().print(table)
    title = f"{DEVICES} devices, {IN_FLIGHT} in flight: {many['requests_per_s']:,.0f} requests/s"
    table = Table("process", "CPU us per request", "cores busy", title=title)
    for (name, cost), busy in zip(
        many["cpu_us_per_request"].items(), many["cores_busy"].values(), strict=True
    ):
        table.add_row(name, f"{cost:.0f}", f"{busy:.2f}")
    table.caption = (
        f"p50 {many['p50_ms']:.1f} ms, p99 {many['p99_ms']:.1f} ms; "
        f"at most {many['ceiling_per_s']:,.0f} requests/s with this CPU time"
    )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = run(lambda: measured(arguments.rounds, arguments.seconds))
    show(found)
    write_json(arguments.json, found)


if __name__ == "__main__":
    main()
