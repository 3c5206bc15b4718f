"""Telemetry from devices to the store: is everything there, once, and what does it cost?

``burst`` and ``steady`` run one real agent process and a program that hands it samples through its local
door; ``fleet`` and ``kills`` run simulated devices (``_devices``) with the real cores. Broker and cloud are
the real processes, the store is SQLite. What devices recorded is compared with the ledger, and the ledger
with itself.
"""

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.bench_scale import MIB, enrol, heartbeating
from benchmarks.data import Part
from benchmarks.fleet import run, until
from benchmarks.measuring import Found, cpu_s, memory_bytes, percentile, progress, slope
from broker.settings import read_config
from cloud.client import Fleet, connected
from cloud.local.processes import LocalFleet
from edge.agent.local import LocalRecord, ask_locally
from shared.messages import ReplyStatus

PER_PROCESS = 500
SETTLE_S_MAX = 120.0
BACK_S_MAX = 60.0


# One device -----------------------------------------------------------------------------------------


@asynccontextmanager
async def one_device(folder: Path) -> AsyncIterator[tuple[LocalFleet, Fleet, Path]]:
    """A real agent, its cloud and its broker; and the agent's data folder."""
    local = LocalFleet(folder, {"edge-1": {"benchmark_s": 0.1, "telemetry_s": 3600.0}}, log_level="warning")
    async with local, connected(read_config(local.workspace.config("operator")), "operator") as fleet:
        await until("the device serves", local, lambda: heartbeating(fleet, 1))
        yield local, fleet, folder / "edge-1"


async def say(data: Path, number: int) -> bool:
    """One message; whether it is durable on the device."""
    reply = await ask_locally(data, LocalRecord(stream="counter", values={"x": float(number)}))
    return reply.status is ReplyStatus.OK


async def ledger_of(fleet: Fleet) -> dict[str, int]:
    """Sums over all numbered streams."""
    rows = [row for row in await fleet.ledger() if row.numbered and row.stream != "system"]
    names = ("produced", "stored", "dropped", "lost", "dead", "pending", "duplicates")
    return {name: sum(getattr(row, name) for row in rows) for name in names}


async def settled(local: LocalFleet, fleet: Fleet, produced: int) -> tuple[float, dict[str, int]]:
    """Wait until so many samples are accounted for; how long that took, and the sums."""
    began, found = time.monotonic(), await ledger_of(fleet)
    while found["stored"] < produced and time.monotonic() - began < SETTLE_S_MAX:
        await asyncio.sleep(0.05)
        try:
            found = await ledger_of(fleet)
        except Exception as error:
            progress(f"asked again: {error}")
    return time.monotonic() - began, found


async def _burst(folder: Path, share: float) -> Found:
    paced, flat = 1000, int(10_000 * max(share, 0.1))
    async with one_device(folder) as (local, fleet, data):
        due, durable = time.monotonic(), 0
        for number in range(paced):
            durable += await say(data, number)
            due += 0.01
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        began = time.monotonic()
        room = asyncio.Semaphore(16)

        async def said(number: int) -> bool:
            async with room:
                return await say(data, number)

        answers = await asyncio.gather(*(said(number) for number in range(paced, paced + flat)))
        lasted_s = time.monotonic() - began
        durable += sum(answers)
        after_s, sums = await settled(local, fleet, durable)
    return {
        "said": paced + flat,
        "durable_on_device": durable,
        "flat_out_per_s": flat / lasted_s,
        "settled_after_s": after_s,
        **sums,
    }


async def _steady(folder: Path, share: float) -> Found:
    per_s, seconds = 200, 600 * share
    async with one_device(folder) as (local, fleet, data):
        total, durable = int(per_s * seconds), 0
        used = {"cloud": cpu_s(local.cloud.pid), "device": cpu_s(local.devices["edge-1"].pid)}
        began = time.monotonic()
        for number in range(0, total, 4):  # four at a time: a sleep is no finer than a message is long
            durable += sum(await asyncio.gather(*(say(data, number + place) for place in range(4))))
            await asyncio.sleep(max(0.0, began + (number + 4) / per_s - time.monotonic()))
            if number % 6000 == 0:
                progress(f"{number} said, {durable} durable on the device")
        lasted_s = time.monotonic() - began
        cores = {
            "cloud": (cpu_s(local.cloud.pid) - used["cloud"]) / lasted_s,
            "device": (cpu_s(local.devices["edge-1"].pid) - used["device"]) / lasted_s,
        }
        after_s, sums = await settled(local, fleet, durable)
    return {
        "said": total,
        "durable_on_device": durable,
        "seconds": lasted_s,
        "per_s": total / lasted_s,
        "settled_after_s": after_s,
        "cores_cloud": cores["cloud"],
        "cores_device": cores["device"],
        **sums,
    }


# Many devices ---------------------------------------------------------------------------------------


class Crowd:
    """Processes full of simulated devices. ``ups``: (time, node) each time that a link came up."""

    def __init__(self) -> None:
        self.processes: list[asyncio.subprocess.Process] = []
        self.readers: list[asyncio.Task[None]] = []
        self.ups: list[tuple[float, str]] = []
        self.recorded: list[int] = []
        self.counted = asyncio.Event()

    async def start(self, local: LocalFleet, passwords: list[str], every_s: float, samples: int) -> None:
        for first in range(0, len(passwords), PER_PROCESS):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.data._devices", "--port", str(local.port)),
                *("--first", str(first), "--every", str(every_s), "--samples", str(samples)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            assert process.stdin is not None
            process.stdin.write("\n".join(passwords[first : first + PER_PROCESS]).encode())
            process.stdin.close()
            self.processes.append(process)
            self.readers.append(asyncio.create_task(self._read(process)))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            word, *rest = line.decode().split()
            if word == "up":
                self.ups.append((float(rest[1]), rest[0]))
            elif word == "recorded":
                self.recorded.append(int(rest[0]))
                if len(self.recorded) == len(self.processes):
                    self.counted.set()

    async def quiet(self) -> int:
        """Nothing more is recorded; how much was."""
        for process in self.processes:
            process.send_signal(signal.SIGUSR1)
        async with asyncio.timeout(SETTLE_S_MAX):
            await self.counted.wait()
        return sum(self.recorded)

    async def stop(self) -> None:
        """Their end."""
        for process in self.processes:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
        await asyncio.gather(*(process.wait() for process in self.processes), *self.readers)

    def cpu_s(self) -> float:
        return sum(cpu_s(process.pid) for process in self.processes)

    def back_after(self, since: float, nodes: int) -> list[float]:
        """How long after ``since`` each node was up again; those that are not there yet are left out."""
        first: dict[str, float] = {}
        for at, node in self.ups:
            if at >= since:
                first.setdefault(node, at - since)
        return sorted(first.values())[:nodes]


@asynccontextmanager
async def crowd(
    folder: Path, devices: int, every_s: float, samples: int
) -> AsyncIterator[tuple[LocalFleet, Fleet, Crowd]]:
    """So many devices, all of them heartbeating and recording."""
    local, people = LocalFleet(folder, {}, log_level="warning"), Crowd()
    passwords = enrol(local.workspace.credentials_dir, devices)
    config = read_config(local.workspace.config("operator"))
    async with local, connected(config, "operator", budget_s=30.0) as fleet:
        try:
            await people.start(local, passwords, every_s, samples)
            await until("every device heartbeats", local, lambda: heartbeating(fleet, devices))
            yield local, fleet, people
        finally:
            await people.stop()


async def _fleet(folder: Path, share: float, devices: int = 1000, messages_per_s: float = 600.0) -> Found:
    seconds, samples = 600.0 * share, 20
    every_s = devices / messages_per_s
    async with crowd(folder, devices, every_s, samples) as (local, fleet, people):
        pids = {"broker": local.broker.pid, "cloud": local.cloud.pid}
        await asyncio.sleep(12.0)  # a whole round of heartbeats
        used = {name: cpu_s(pid) for name, pid in pids.items()}
        used_devices, before = people.cpu_s(), await ledger_of(fleet)
        memory: dict[str, list[tuple[float, float]]] = {name: [] for name in pids}
        began = time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            for name, pid in pids.items():
                memory[name].append((now / 60, memory_bytes(pid)["Rss"] / MIB))
            if len(memory["cloud"]) % 30 == 1:
                progress(f"{now:.0f} s: cloud {memory['cloud'][-1][1]:.1f} MiB")
            await asyncio.sleep(1.0)
        lasted_s = time.monotonic() - began
        cores = {name: (cpu_s(pid) - used[name]) / lasted_s for name, pid in pids.items()}
        cores["devices"] = (people.cpu_s() - used_devices) / lasted_s
        idle = (await fleet.overview()).nodes.get("idle", 0)
        during = await ledger_of(fleet)
        recorded = await people.quiet()
        after_s, sums = await _all_settled(fleet, recorded)
    samples_per_s = (during["stored"] - before["stored"]) / lasted_s
    return {
        "devices": devices,
        "idle_at_end": idle,
        "seconds": lasted_s,
        "messages_per_s": samples_per_s / samples,
        "samples_per_s": samples_per_s,
        "recorded": recorded,
        "settled_after_s": after_s,
        **{f"cores_{name}": value for name, value in cores.items()},
        **{f"rss_{name}_mib": memory[name][-1][1] for name in pids},
        **{f"rss_{name}_mib_per_minute": slope(_second_half(memory[name])) for name in pids},
        "database_mib": _size(local.workspace.cloud_data) / MIB,
        **sums,
    }


def _second_half(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Caches fill at first: what grows after that is what matters."""
    return points[len(points) // 2 :]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


async def _all_settled(fleet: Fleet, recorded: int) -> tuple[float, dict[str, int]]:
    """Wait until all of it is stored and nothing is pending, ``SETTLE_S_MAX`` at most.

    What the killed broker took along is sent again when its acknowledgement is overdue.
    """
    began = time.monotonic()
    sums = await ledger_of(fleet)
    while (sums["stored"] < recorded or sums["pending"]) and time.monotonic() - began < SETTLE_S_MAX:
        await asyncio.sleep(0.5)
        sums = await ledger_of(fleet)
    return time.monotonic() - began, sums


async def _kills(folder: Path, share: float, devices: int = 100) -> Found:
    times, every_s = max(2, round(10 * share)), 30.0
    async with crowd(folder, devices, 2.0, 20) as (local, fleet, people):
        backs: list[list[float]] = []
        for number in range(times):
            await asyncio.sleep(every_s if share == 1.0 else every_s / 3)
            local.broker.signal(signal.SIGKILL)
            await local.broker.wait()
            restarted = time.monotonic()  # some are back before we have noticed that it listens
            await local.broker.start()
            await local.listening(local.broker, local.port)
            while len(people.back_after(restarted, devices)) < devices:
                if time.monotonic() - restarted > BACK_S_MAX:
                    break
                await asyncio.sleep(0.1)
            backs.append(people.back_after(restarted, devices))
            progress(
                f"kill {number + 1}: {len(backs[-1])} of {devices} back, the last after {backs[-1][-1]:.1f} s"
            )
        recorded = await people.quiet()
        after_s, sums = await _all_settled(fleet, recorded)
    enough = [one[int(devices * 0.95) - 1] if len(one) >= devices * 0.95 else BACK_S_MAX for one in backs]
    return {
        "kills": times,
        "devices": devices,
        "back_p95_s_worst": max(enough),
        "back_p95_s_median": percentile(enough, 0.5),
        "recorded": recorded,
        "settled_after_s": after_s,
        **sums,
    }


# Parts ----------------------------------------------------------------------------------------------


def _measured(work: Callable[[Path, float], Awaitable[Found]]) -> Callable[[float], Found]:
    def measure(share: float) -> Found:
        with tempfile.TemporaryDirectory(prefix="shoal-") as folder:
            return run(lambda: work(Path(folder), share))

    return measure


def _rows(title: str, *names: str) -> Callable[[Found], Iterable[Table]]:
    def tables(found: Found) -> Iterable[Table]:
        table = Table("figure", "", title=title)
        ledger = ("produced", "stored", "dropped", "lost", "dead", "pending", "duplicates")
        for name in (*names, *ledger):
            table.add_row(name.replace("_", " "), _shown(found[name]))
        yield table

    return tables


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


_FLEET_ROWS = (
    "devices",
    "idle_at_end",
    "seconds",
    "messages_per_s",
    "samples_per_s",
    "recorded",
    "settled_after_s",
    "cores_broker",
    "cores_cloud",
    "cores_devices",
    "rss_broker_mib",
    "rss_cloud_mib",
    "rss_broker_mib_per_minute",
    "rss_cloud_mib_per_minute",
    "database_mib",
)

PARTS = (
    Part(
        "burst",
        _measured(_burst),
        _rows("a burst", "said", "durable_on_device", "flat_out_per_s", "settled_after_s"),
        "One agent. A program beside it says 1,000 messages, one every 10 ms, through the agent's local "
        "door, then 10,000 flat out, each answered when it is synced to the device's disk.",
        300.0,
    ),
    Part(
        "steady",
        _measured(_steady),
        _rows(
            "200 messages a second for ten minutes",
            *(
                "said",
                "durable_on_device",
                "seconds",
                "per_s",
                "settled_after_s",
                "cores_cloud",
                "cores_device",
            ),
        ),
        "As before, 200 messages a second for ten minutes.",
        1000.0,
    ),
    Part(
        "fleet",
        _measured(_fleet),
        _rows("a thousand devices", *_FLEET_ROWS),
        "1,000 simulated devices with heartbeats every 10 s and 600 telemetry messages a second of 20 "
        "samples, for ten minutes. Cores: 1.0 is a whole one of this machine. Memory: per minute of the "
        "second half.",
        1500.0,
    ),
    Part(
        "kills",
        _measured(_kills),
        _rows(
            "the broker killed again and again",
            *("kills", "devices", "back_p95_s_worst", "back_p95_s_median", "recorded", "settled_after_s"),
        ),
        "100 simulated devices in traffic (20 samples every 2 s each); the broker is killed every 30 s, 10 "
        "times. Duplicates are samples that came again and were recognised: nothing is stored twice.",
        1200.0,
    ),
)


def soak(devices: int, seconds: float) -> Found:
    """The part ``fleet``, of any length."""
    with tempfile.TemporaryDirectory(prefix="shoal-") as folder:
        return run(lambda: _fleet(Path(folder), seconds / 600.0, devices, 0.6 * devices))


if __name__ == "__main__":
    raise SystemExit("python -m benchmarks.data --only burst steady fleet kills")
